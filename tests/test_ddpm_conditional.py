"""Labels and guidance, and the variational bound."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from genhub_ddpm import DDPM
from genhub_ddpm.likelihood import discretized_gaussian, gaussian_kl, variational_bound
from test_ddpm import SAMPLERS, Exact, make
from test_trainer import metrics, same_bits

import genhub
from genhub import Batch, Conditions, Given, Likelihood
from genhub.conditioning.guidance import dropped


class Told(torch.nn.Module):
    """A network that predicts the label it is given, so that guidance can be read off its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def forward(self, x, t, given):
        self.seen.append(given.label.tolist())
        return torch.zeros_like(x) + given.label.view(-1, 1, 1, 1)


def conditional(**keys) -> DDPM:
    return make(classes=3, **keys)


def labels(*values: int) -> Conditions:
    return Conditions({"label": torch.tensor(values)}, {"label": torch.ones(len(values), dtype=torch.bool)})


# Labels


def test_guidance_is_one_call_that_moves_away_from_no_label():
    """Ho & Salimans 2022: without + scale * (with - without)."""
    model = conditional()
    model.network = Told()
    noisy, given = torch.zeros(2, 1, 8, 8), Given(label=torch.tensor([0, 2]))
    nothing, level = model.conditioner(labels(0, 0).without(torch.ones(2, dtype=torch.bool))), torch.tensor([5, 5])
    guided = model.predict(noisy, level, given, nothing, 4.0)
    assert guided[:, 0, 0, 0].tolist() == [3 + 4 * (0 - 3), 3 + 4 * (2 - 3)]
    assert model.network.seen == [[0, 2, 3, 3]]  # the class after the data's three stands for no label
    assert model.predict(noisy, level, given, nothing, 0.0)[:, 0, 0, 0].tolist() == [3, 3]
    model.predict(noisy, level, given, nothing, 1.0)
    assert model.network.seen[-1] == [0, 2]


def test_guidance_counts_within_its_interval_alone():
    """Kynkaanniemi et al. 2024: levels t / T in [0.3, 0.8], of ten from 1 to 0.1."""
    model = conditional(scheduler={"num_train_timesteps": 10}, sampling={"guidance_scale": 2.0, "num_inference_steps": 10})
    model.network = Told()
    list(model.denoise(1, conditions=labels(2), guidance_interval=(0.3, 0.8)))
    assert [len(seen) for seen in model.network.seen] == [1, 1, 2, 2, 2, 2, 2, 2, 1, 1]
    list(model.denoise(1, conditions=labels(2)))
    assert [len(seen) for seen in model.network.seen[10:]] == [2] * 10
    with pytest.raises(ValueError, match=r"guidance_interval\n.*from 0.8 to 0.3: the lower level comes first"):
        conditional(sampling={"guidance_interval": (0.8, 0.3)})
    options = {"guidance_scale": 2.0, "guidance_interval": (0, 1)}
    assert make().unused_options(options).keys() == options.keys()
    assert model.unused_options(options) == {}
    assert "guidance_interval" in model.unused_options(options | {"guidance_scale": 1.0})


@pytest.mark.parametrize("key", ["condition_dropout=0.2", "sampling.guidance_scale=2", "sampling.guidance_interval=[0,0.5]"])
def test_what_is_for_conditions_is_refused_without_them(tiny, key):
    message = f"model.{key.partition('=')[0]}: changes nothing without conditions; leave it out"
    with pytest.raises(genhub.RecipeError, match=message):
        genhub.read_recipe(tiny, [f"model.{key}"])
    genhub.read_recipe(tiny, [f"model.{key}", "model.conditions=[label]"])


def test_labels_are_dropped_at_the_rate_asked_for():
    model = conditional(condition_dropout=0.3)
    model.network = Told()
    told = dropped(labels(*[1] * 4000), model.config.condition_dropout, torch.Generator().manual_seed(0))
    model.loss(Batch(torch.zeros(4000, 1, 8, 8), told))
    seen = model.network.seen[0]
    assert set(seen) == {1, 3}
    assert seen.count(3) / 4000 == pytest.approx(0.3, abs=0.03)


def test_labels_change_the_picture():
    model = conditional().eval()
    with torch.no_grad():
        model.network.unet.class_embedding.weight.mul_(20)

    def drawn(conditions: Conditions | None) -> torch.Tensor:
        return model.sample(1, conditions=conditions, generator=torch.Generator().manual_seed(0), num_inference_steps=3)

    zero, one, none = drawn(labels(0)), drawn(labels(1)), drawn(None)
    assert not torch.equal(zero, one)
    assert not torch.equal(zero, none)
    assert torch.equal(none, drawn(labels(1).without(torch.tensor([True]))))
    with pytest.raises(ValueError, match="of 2 rows, for 1 to draw"):
        drawn(labels(0, 1))
    with pytest.raises(ValueError, match="this model is given label, not nothing"):
        drawn(Conditions())


def test_the_guess_of_x_0_is_the_steps_own():
    model = conditional().eval()
    step = next(iter(model.denoise(3, conditions=labels(0, 1, 2), generator=torch.Generator().manual_seed(0))))
    noise = genhub.randn((3, 1, 8, 8), torch.Generator().manual_seed(0))
    with torch.no_grad():
        guess = model.predict_x0(noise, torch.full((3,), round(step.timestep)), labels(0, 1, 2))
    assert torch.equal(guess, step.pred_original_sample)


def test_data_without_labels_is_refused_before_step_0(tiny, tmp_path):
    from PIL import Image

    for i in range(3):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    tiny["data"] = {"name": str(tmp_path), "batch_size": 2}
    tiny["model"]["conditions"] = ["label"]
    with pytest.raises(genhub.GenhubError, match=r"model.conditions: .*label"):
        genhub.train(tiny)


def test_a_conditional_run_resumes_exactly_loads_and_samples(tiny, tmp_path):
    tiny["model"]["conditions"] = ["label"]
    whole = genhub.train(tiny, ["trainer.sample_every=6"], run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    same_bits(whole, genhub.train(tiny, run_dir=str(tmp_path / "parts")))
    assert [m for m in metrics(tmp_path / "parts") if m["step"] != 3] == metrics(tmp_path / "whole")
    drawn = genhub.sample(
        whole, 4, conditions={"label": ["9", "1"]}, guidance_scale=2.0, num_inference_steps=2, out=tmp_path / "x.npz"
    )
    assert drawn.shape == (4, 1, 8, 8)
    with pytest.raises(genhub.InputError, match="10"):
        genhub.sample(whole, 1, conditions={"label": ["10"]})
    assert {path.name for path in whole.iterdir() if path.is_dir()} >= {"unet", "scheduler"}
    assert not (whole / "model_index.json").exists()  # a DDPMPipeline would draw without labels, that is wrongly


def test_labels_are_not_said_to_be_unused(tiny, capsys):
    genhub.train(tiny, ["trainer.max_steps=1", "model.conditions=[label]"])
    assert "the data also has ink; ddpm is not given it" in capsys.readouterr().out
    genhub.train(tiny, ["trainer.max_steps=1"], fresh=True)
    assert re.search("the data also has .*label.*; ddpm is not given them", capsys.readouterr().out)


# The variational bound


def test_kl_is_torch_distributions_own():
    a, b = torch.distributions.Normal(0.3, 0.7), torch.distributions.Normal(-0.2, 1.1)
    ours = gaussian_kl(torch.tensor(0.3), torch.tensor(0.49).log(), torch.tensor(-0.2), torch.tensor(1.21).log())
    torch.testing.assert_close(ours, torch.distributions.kl_divergence(a, b))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.9, 0.01), (-1.2, 0.05), (0.3, 0.001), (1.0, 2.0)])
def test_the_discrete_decoder_is_a_distribution_over_256_values(mean, std):
    values = torch.arange(256).double() / 127.5 - 1
    logs = discretized_gaussian(values, torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))
    assert logs.exp().sum() == pytest.approx(1, abs=1e-6)
    assert torch.isfinite(logs).all()


@pytest.mark.slow
def test_the_bound_of_an_exact_model_is_the_datas_entropy():
    """Data N(0.1, 0.2^2) and the optimal denoiser: the bound is never below the entropy. Where the noise is smaller than
    the data's spread, the best variance is beta_t (fixed_large); eq. 7's costs sum_t 1 / (4 t^2) = 0.41 nats more."""
    entropy = math.log2(0.2 * math.sqrt(2 * math.pi * math.e) / (2 / 255))
    torch.manual_seed(0)
    images = ((0.1 + 0.2 * torch.randn(64, 1, 8, 8)).clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1
    bits = {}
    for variance in ("fixed_small", "fixed_large"):
        model = make(scheduler={"variance_type": variance, "beta_schedule": "linear", "prediction_type": "epsilon"})
        model.network = Exact(model, 0.1, 0.2)
        assert isinstance(model, Likelihood)
        generator = torch.Generator().manual_seed(1)
        bits[variance] = model.bits_per_dimension(Batch(images), generator=generator).mean().item()
    assert entropy - 0.02 < bits["fixed_large"] < entropy + 0.2
    assert bits["fixed_small"] - bits["fixed_large"] == pytest.approx(0.41 / math.log(2), abs=0.1)


class WithShare(torch.nn.Module):
    """A network of one output, and a learned variance of one share of it everywhere."""

    def __init__(self, network: torch.nn.Module, share: float) -> None:
        super().__init__()
        self.network, self.share = network, share

    def forward(self, x, t, given):
        output = self.network(x, t, given)
        return torch.cat([output, torch.full_like(output, self.share)], dim=1)


def test_a_learned_variance_lies_between_the_fixed_ones():
    """Nichol & Dhariwal 2021, eq. 15: 1 is beta_t, -1 is eq. 7's, 0 their geometric mean; in the bound and in samples."""
    batch = Batch(torch.rand(4, 1, 8, 8).mul(255).round() / 127.5 - 1)
    bits, samples = {}, {}
    for variance, share in [("fixed_small", None), ("fixed_large", None)] + [("learned_range", s) for s in (-1, 0, 1)]:
        model = make(scheduler={"variance_type": variance, "num_train_timesteps": 50, "beta_end": 0.3,
                                "beta_schedule": "linear", "timestep_spacing": "leading"})  # fmt: skip
        model.network = Exact(model, 0.1, 0.2) if share is None else WithShare(Exact(model, 0.1, 0.2), share)
        generator = torch.Generator().manual_seed(0)
        bits[variance, share] = model.bits_per_dimension(batch, generator=generator).mean()
        generator = torch.Generator().manual_seed(0)
        samples[variance, share] = model.sample(4, generator=generator, scheduler="ddpm", num_inference_steps=50)
    torch.testing.assert_close(bits["learned_range", -1], bits["fixed_small", None])
    torch.testing.assert_close(bits["learned_range", 1], bits["fixed_large", None])
    assert bits["fixed_large", None] < bits["learned_range", 0] < bits["fixed_small", None]
    torch.testing.assert_close(samples["learned_range", 1], samples["fixed_large", None], atol=0.05, rtol=0)


def test_the_bound_trains_the_variance_alone(tiny):
    model = make(scheduler={"variance_type": "learned_range"}, vlb_weight=1.0)
    losses = model.loss(Batch(torch.rand(8, 1, 8, 8).mul(255).round() / 127.5 - 1))
    losses["vlb"].backward()
    gradient = model.network.unet.conv_out.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient[0].abs().max() == 0
    assert gradient[1].abs().max() > 0


@pytest.mark.slow
def test_a_learned_variance_trains_samples_with_all_and_opens_in_diffusers(tiny):
    from diffusers import DDPMPipeline

    tiny["model"]["scheduler"] = {"variance_type": "learned_range"}
    folder = genhub.train(tiny)
    assert "denoise/vlb" in metrics(Path(tiny["run_dir"]))[0]
    for scheduler in SAMPLERS:
        assert genhub.sample(folder, 1, scheduler=scheduler, num_inference_steps=8).shape == (1, 1, 8, 8)
    model, pipeline = genhub.load(folder), DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 5, "generator": torch.Generator().manual_seed(0)}
    theirs = pipeline(batch_size=1, output_type="pt", **options).images
    options["generator"].manual_seed(0)
    torch.testing.assert_close(theirs, model.sample(1, scheduler="ddpm", **options) / 2 + 0.5, atol=1e-5, rtol=0)


def test_terms_have_their_places_and_signs():
    model = conditional(scheduler={"num_train_timesteps": 20, "beta_schedule": "linear", "beta_end": 0.5})
    batch = Batch(torch.rand(3, 1, 8, 8).mul(255).round() / 127.5 - 1, labels(0, 1, 2))
    terms = variational_bound(model, batch, torch.Generator().manual_seed(0))
    assert terms.shape == (21, 3)
    assert (terms[1:] >= 0).all()
    assert (terms[20] < terms[:20].sum(0)).all()
    bits = model.bits_per_dimension(batch, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bits, terms.sum(0) / (64 * math.log(2)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_on_demand(tmp_path: Path):
    """The shipped conditional recipe draws what it is asked for, after two thirds of its steps."""
    from judge import judge, read_labels

    keys = ["trainer.max_steps=800", "trainer.sample_every=null"]
    folder = genhub.train("digits-ddpm-conditional", keys, run_dir=str(tmp_path / "run"))
    images = genhub.sample(folder, 2000).permute(0, 2, 3, 1).numpy()
    figures = judge(images)
    assert figures["frechet"] <= 0.12, figures
    assert figures["near"] >= 0.98, figures
    right = (read_labels(images) == [i % 10 for i in range(2000)]).mean()
    assert right >= 0.98, right
