"""Every sampler against the right value: with the exact denoiser of N(0, STD^2) each step is linear in x and in the noise that it
adds, so what a sampler draws has a standard deviation that can be computed, without drawing at random."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from genhub_ddpm import DDPM
from genhub_ddpm.samplers import MAX_SIGMA, MOST_SIGNAL
from models import images
from test_ddpm import PREDICTIONS, SAMPLERS, Exact
from test_ddpm import make as small

import genhub
from genhub import Batch

STD, T = 0.5, 41
"""T is a prime, so that no number of steps divides it; and with 7, 14, 28 or 29, counting down by T / n in floats makes a step
too many."""
SPACINGS = ["trailing", "linspace", "leading"]
SOME = (1, 2, 7, 20, 28)
ZERO_SNR = {"options": {"rescale_betas_zero_snr": True}}
SECOND_ORDER = ("heun", "kdpm2", "kdpm2_ancestral")
"""They take a long step over the data's scale as a straight line: in fewer than ten steps, that overshoots."""
STEADY_PNDM = 28
"""It extends a curve through four steps: where that is the noise's, fewer overshoot."""


def make(**schedule) -> DDPM:
    network = {"name": "unet", "block_out_channels": [8], "add_attention": False}
    values = {"name": "ddpm", "data": images((1, 1, 1)), "network": network,
              "scheduler": {"num_train_timesteps": T, "clip_sample": False, **schedule}}  # fmt: skip
    model = DDPM(DDPM.Config.model_validate(values))
    model.network = Exact(model, 0.0, STD)
    return model


def drawn_std(monkeypatch: pytest.MonkeyPatch, model: DDPM, n: int, **options) -> float:
    """Of what is drawn in n steps. Row i of the batch is what becomes of the i-th random number alone."""
    rows, used = 3 * n + 16, iter(range(3 * n + 16))

    def randn(*shape, **options):
        noise = torch.zeros(rows, 1, 1, 1)
        noise[next(used)] = 1
        return noise

    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", randn)
        *_, last = model.denoise(rows, num_inference_steps=n, **options)
    return last.sample.double().square().sum().sqrt().item()


def levels(spacing: str, n: int) -> list[int]:
    """The levels to visit, in exact arithmetic (Lin et al. 2023, table 2)."""
    match spacing:
        case "trailing":
            return [round(T - k * Fraction(T, n)) - 1 for k in range(n)]
        case "linspace":
            return [0] if n == 1 else [round(k * Fraction(T - 1, n - 1)) for k in reversed(range(n))]
    return [k * (T // n) for k in reversed(range(n))]


def expected_std(model: DDPM, visited: list[int], eta: float, bent: bool = True) -> float:
    """Eq. 12 and 16 of Song et al. 2021 in float64, for the exact denoiser of N(0, STD^2)."""
    signal, variance = model.scheduler.alphas_cumprod.double(), 1.0
    if bent:
        signal = 1 / (1 + 1 / (signal / (1 - signal) + MAX_SIGMA**-2))
    for level, following in zip(visited, [*visited[1:], None], strict=True):
        a, after = signal[level].item(), 1.0 if following is None else signal[following].item()
        image = math.sqrt(a) * STD**2 / (a * STD**2 + 1 - a)  # of the guess of x_0, for x_t = 1
        noise = (1 - math.sqrt(a) * image) / math.sqrt(1 - a)
        added = eta**2 * (1 - after) / (1 - a) * (1 - a / after)
        factor = math.sqrt(after) * image + math.sqrt(max(0.0, 1 - after - added)) * noise
        variance = factor**2 * variance + added
    return math.sqrt(variance)


def starts_at_noise(model: DDPM, visited: list[int]) -> bool:
    signal = model.scheduler.alphas_cumprod
    return bool(signal[visited[0]] - signal[-1] <= MOST_SIGNAL)


def check_first_order(monkeypatch, spacing: str, numbers, **schedule) -> None:
    model = make(timestep_spacing=spacing, **schedule)
    own = {"ddpm": [{}], "ddim": [{"eta": 0.5}, {"eta": 1.0}]}
    for name, options in own.items():
        for n in numbers:
            visited = levels(spacing, n)
            if not starts_at_noise(model, visited):
                with pytest.raises(
                    genhub.InputError, match=rf"with {n}, .* starts at level {visited[0]} of 41, .*; \d+ works"
                ):
                    drawn_std(monkeypatch, model, n, scheduler=name)
                continue
            steps = [step.timestep for step in model.denoise(1, num_inference_steps=n, scheduler=name)]
            assert steps == pytest.approx(visited, abs=1), (name, n)  # halves are rounded either way
            for given in options:
                expected = expected_std(model, steps, given.get("eta", 1.0), bent=name != "ddpm")
                assert drawn_std(monkeypatch, model, n, scheduler=name, **given) == pytest.approx(expected, abs=0.01), (
                    name,
                    n,
                )


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_step_ends_where_the_next_begins(monkeypatch, spacing):
    """Also where n does not divide T; diffusers' own DDIM leaves noise in there (its issues 9261 and 11347)."""
    check_first_order(monkeypatch, spacing, SOME)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_step_ends_where_the_next_begins_for_every_number_of_steps(monkeypatch, spacing, prediction):
    check_first_order(monkeypatch, spacing, range(1, T + 1), prediction_type=prediction)


def check_any(monkeypatch, model: DDPM, name: str, n: int) -> bool:
    """A sampler is no worse than the ancestral one in as many steps, whose error falls as 1 / n. False: refused."""
    try:
        found = drawn_std(monkeypatch, model, n, scheduler=name)
    except genhub.InputError as error:
        return not str(error).startswith("num_inference_steps: ")
    assert math.isfinite(found), (name, n)
    steady = 10 if name in SECOND_ORDER else 1
    if name == "pndm" and model.config.scheduler.prediction_type == "epsilon":
        steady = STEADY_PNDM
    if n >= steady:
        error = STD - expected_std(model, levels("trailing", n), 1.0)
        start = STD / math.sqrt(1 - (1 - STD**2) * MOST_SIGNAL) - STD  # what starting at MOST_SIGNAL does, at most
        slack = 0.01 if model.config.scheduler.timestep_spacing == "trailing" else max(start, 0.6 / n)
        assert abs(found - STD) < error + slack, (name, n, found)
    return True


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_the_data(monkeypatch, name):
    for spacing in SPACINGS:
        model = make(timestep_spacing=spacing)
        drawn = [n for n in (4, 7, 13, 28, 40) if check_any(monkeypatch, model, name, n)]
        assert drawn == [4, 7, 13, 28, 40] or spacing == "leading"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_the_data_in_every_number_of_steps(monkeypatch, name, prediction):
    for spacing in SPACINGS:
        model = make(timestep_spacing=spacing, prediction_type=prediction)
        refused = [n for n in range(1, T + 1) if not check_any(monkeypatch, model, name, n)]
        assert spacing == "leading" or set(refused) <= {1, 2, 3, T}


def test_a_number_of_steps_that_floats_make_one_more_of():
    """61 of 1,000 levels: diffusers' DDIM and DDPM take 62 steps, the last at level -1, and lose the image."""
    model = make(num_train_timesteps=1000)
    for name in ("ddim", "ddpm", "euler", "dpmsolver", "unipc"):
        steps = list(model.denoise(256, num_inference_steps=61, scheduler=name, generator=torch.Generator().manual_seed(0)))
        assert (len(steps), round(steps[0].timestep), round(steps[-1].timestep)) == (61, 999, 15)
        assert steps[-1].sample.std() == pytest.approx(STD, abs=0.08)


# Zero terminal SNR (Lin et al. 2023): the last level is noise alone


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_zero_terminal_snr_is_drawn_from_by_every_sampler(monkeypatch, prediction):
    model = make(prediction_type=prediction, **ZERO_SNR)
    assert model.snr[-1] == 0
    for name in SAMPLERS:
        assert [n for n in (5, 13, 28) if check_any(monkeypatch, model, name, n)] == [5, 13, 28]
    for name in ("ddim", "dpmsolver", "euler", "euler_ancestral", "unipc"):  # trained on as they are
        own = make(name=name, prediction_type=prediction, **ZERO_SNR)
        assert [n for n in (5, 13, 28) if check_any(monkeypatch, own, name, n)] == [5, 13, 28]


def test_no_rounding_makes_ddim_take_the_root_of_less_than_nothing():
    """diffusers' own has 1 - a - sigma^2 < 0 in its first step for 18 of these numbers of steps."""
    model = make(name="ddim", num_train_timesteps=50, **ZERO_SNR)
    for n in range(1, 51):
        assert next(iter(model.denoise(1, num_inference_steps=n, eta=1.0))).sample.isfinite().all()


def test_zero_terminal_snr_says_nothing_of_an_image_to_epsilon(tmp_path):
    model = {"name": "ddpm", "scheduler": {"prediction_type": "epsilon", **ZERO_SNR}}
    with pytest.raises(
        genhub.RecipeError, match="model.scheduler.options: .*ends at noise alone.*prediction_type to v_prediction"
    ):
        genhub.read_recipe({"model": model})


def test_zero_terminal_snr_has_finite_losses_and_bits():
    for prediction in ("v_prediction", "sample"):
        schedule = {"num_train_timesteps": T, "prediction_type": prediction, "variance_type": "learned_range", **ZERO_SNR}
        model = small(loss_weighting="min_snr", scheduler=schedule)
        assert model.min_snr_weight(torch.arange(T)).isfinite().all()
        assert model.signal_to_noise(torch.tensor([T - 1])).item() == 0
        clean = torch.rand(T, 1, 8, 8).mul(255).round() / 127.5 - 1
        assert all(loss.isfinite() for loss in model.loss(Batch(clean)).values())
        assert model.bits_per_dimension(Batch(clean[:2])).isfinite().all()
        film = model.add_noise(clean, torch.randn(T, 1, 8, 8), torch.arange(T))
        assert film.isfinite().all()
