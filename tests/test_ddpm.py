"""The DDPM plugin against the paper (Ho et al. 2020), diffusers' own code, and the samplers' conventions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from genhub_ddpm import DDPM
from models import images

import genhub
from genhub import Denoiser, Scheduler, load_scheduler, scheduler_names

SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SAMPLERS = tuple(name for name in scheduler_names() if not name.startswith("flow_"))
"""Those that take a DDPM's noise away; the others follow flows."""


def make(shape: tuple[int, ...] = (1, 8, 8), classes: int = 0, **keys) -> DDPM:
    """A small model of images, told so many classes."""
    torch.manual_seed(0)
    network = {"name": "unet", "block_out_channels": [8, 16], "add_attention": False}
    given = {"conditions": ["label"]} if classes else {}
    return DDPM(
        DDPM.Config.model_validate({"name": "ddpm", "data": images(shape, classes), "network": network} | given | keys)
    )


class Exact(torch.nn.Module):
    """The optimal denoiser for data that are one normal distribution N(mean, std^2) in every number: a network whose
    samples are known in closed form, so that a sampler can be judged without training one."""

    def __init__(self, model: DDPM, mean: float, std: float) -> None:
        super().__init__()
        self.model, self.mean, self.std = [model], mean, std  # in a list: not a child module
        self.place = torch.nn.Parameter(torch.zeros(1))  # models are where their parameters are

    def forward(self, x, t, given):
        model, each = self.model[0], (-1, *[1] * (x.ndim - 1))
        level = t.round().long().clamp(0, model.num_train_timesteps - 1)
        a, b = model.signal_scale[level].view(each), model.noise_scale[level].view(each)
        variance = a**2 * self.std**2 + b**2
        clean = self.mean + a * self.std**2 / variance * (x - a * self.mean)  # E[x_0 | x_t]
        noise = (x - a * clean) / b
        return {"epsilon": noise, "sample": clean, "v_prediction": a * noise - b * clean}[
            model.config.scheduler.prediction_type
        ]


# The forward process, section 2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_closed_form_has_the_statistics_of_the_chain(schedule):
    """Eq. 4 against eq. 2 applied step by step."""
    model = make(scheduler={"num_train_timesteps": 50, "beta_schedule": schedule, "beta_end": 0.2})
    clean = torch.full((20_000, 1, 1, 1), 0.7)
    generator = torch.Generator().manual_seed(1)
    x, betas = clean, model.scheduler.betas
    for t in range(50):
        x = (1 - betas[t]).sqrt() * x + betas[t].sqrt() * torch.randn(x.shape, generator=generator)
        if t in (0, 20, 49):
            closed = model.add_noise(clean, torch.randn(x.shape, generator=generator), torch.full((20_000,), t))
            assert x.mean() == pytest.approx(closed.mean().item(), abs=0.03)
            assert x.std() == pytest.approx(closed.std().item(), rel=0.03)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_closed_form_is_diffusers_own(schedule):
    model = make(scheduler={"beta_schedule": schedule})
    images, noise = torch.rand(16, 1, 8, 8), torch.randn(16, 1, 8, 8)
    timesteps = torch.randint(1000, (16,))
    torch.testing.assert_close(
        model.add_noise(images, noise, timesteps),
        model.scheduler.add_noise(images, noise, timesteps),
        atol=1e-5,
        rtol=1e-4,
    )
    torch.testing.assert_close(
        model.add_noise(noise, -images, timesteps),
        model.scheduler.get_velocity(images, noise, timesteps),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_last_level_is_pure_noise(schedule):
    model = make(scheduler={"beta_schedule": schedule})
    x = model.add_noise(torch.ones(50_000, 1, 1, 1), torch.randn(50_000, 1, 1, 1), torch.full((50_000,), 999))
    assert abs(x.mean()) < 0.03
    assert abs(x.std() - 1) < 0.02
    kurtosis = ((x - x.mean()) / x.std()).pow(4).mean()
    assert abs(kurtosis - 3) < 0.15


def test_posterior_is_eq_6_and_7():
    """One ancestral step with the true x_0 has mean mu_t(x_t, x_0) and variance beta_t (1 - a_(t-1)) / (1 - a_t)."""
    model = make(scheduler={"beta_schedule": "linear", "prediction_type": "sample", "clip_sample": False})
    scheduler = model.scheduler
    scheduler.set_timesteps(1000)
    n, t, x0, xt = 40_000, 300, 0.4, -0.9
    a, previous, beta = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[t - 1], scheduler.betas[t]
    step = scheduler.step(
        torch.full((n, 1, 1, 1), x0), t, torch.full((n, 1, 1, 1), xt), generator=torch.Generator().manual_seed(0)
    )
    mean = previous.sqrt() * beta / (1 - a) * x0 + (1 - beta).sqrt() * (1 - previous) / (1 - a) * xt
    variance = beta * (1 - previous) / (1 - a)
    assert step.prev_sample.mean() == pytest.approx(mean.item(), abs=4 * math.sqrt(variance / n))
    assert step.prev_sample.var() == pytest.approx(variance.item(), rel=0.03)


# The loss


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_prediction_costs_nothing_and_means_the_image(prediction):
    model = make(scheduler={"prediction_type": prediction})
    images, noise, timesteps = torch.rand(8, 1, 8, 8) * 2 - 1, torch.randn(8, 1, 8, 8), torch.arange(8) * 100
    target = model.target(images, noise, timesteps)
    noisy = model.add_noise(images, noise, timesteps)
    for i in range(8):
        original = model.original(noisy[i : i + 1], target[i : i + 1], i * 100)
        torch.testing.assert_close(original, images[i : i + 1], atol=2e-3, rtol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weights_the_error_in_the_image_alike(prediction):
    """Hang et al. 2023: whatever is predicted, the loss is min(SNR, gamma) times the squared error in x_0."""
    model = make(scheduler={"prediction_type": prediction}, loss_weighting="min_snr")
    timesteps = torch.tensor([5, 100, 400, 800])
    images, noise, error = torch.zeros(4, 1, 8, 8), torch.randn(4, 1, 8, 8), 0.1
    noisy = model.add_noise(images, noise, timesteps)
    # the prediction that implies x_0 = images + error for this x_t
    implied = (noisy - model.signal_scale[timesteps].view(-1, 1, 1, 1) * (images + error)) / model.noise_scale[
        timesteps
    ].view(-1, 1, 1, 1)
    difference = model.target(images + error, implied, timesteps) - model.target(images, noise, timesteps)
    weighted = model.min_snr_weight(timesteps) * difference.square().mean((1, 2, 3))
    torch.testing.assert_close(weighted, model.snr[timesteps].clamp(max=5) * error**2, rtol=1e-3, atol=1e-7)


# Sampling


@pytest.mark.slow
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_scheduler_turns_noise_into_the_data(name, prediction):
    """With the exact denoiser of N(0.3, 0.05^2), samples must come from that distribution."""
    model = make(scheduler={"prediction_type": prediction})
    model.network = Exact(model, 0.3, 0.05)
    images = model.sample(64, generator=torch.Generator().manual_seed(0), scheduler=name, num_inference_steps=40)
    assert images.shape == (64, 1, 8, 8)
    assert images.mean() == pytest.approx(0.3, abs=0.02)
    assert 0.02 < images.std() < 0.08
    assert isinstance(model.sampler(name), Scheduler)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_samplers_start_at_pure_noise(schedule):
    """diffusers' default spacing starts a 10-step DDIM at level 900; ours at 999."""
    model = make(scheduler={"beta_schedule": schedule})
    first = next(iter(model.denoise(1, num_inference_steps=10)))
    assert first.timestep == 999


def test_ddim_with_all_the_noise_and_every_step_is_ddpm():
    """Song et al. 2021, below eq. 16, also where the guess of the image is clipped, as it is for an untrained network."""
    model = make(
        scheduler={"num_train_timesteps": 30, "beta_schedule": "linear", "beta_end": 0.3, "prediction_type": "epsilon"}
    )
    guesses = [step.pred_original_sample for step in model.denoise(4, generator=torch.Generator().manual_seed(0),
                                                                   scheduler="ddpm", num_inference_steps=30)]  # fmt: skip
    assert max(guess.abs().max() for guess in guesses) == 1  # it was
    drawn = [model.sample(4, generator=torch.Generator().manual_seed(0), scheduler=name, num_inference_steps=30, eta=1.0)
             for name in ("ddpm", "ddim")]  # fmt: skip
    torch.testing.assert_close(*drawn, atol=0.01, rtol=0)


def test_sample_is_the_generators_alone_and_image_by_image():
    model = make()
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(3)]  # noqa: E731
    torch.manual_seed(5)
    a = model.sample(3, generator=generators(), num_inference_steps=5)
    state = torch.random.get_rng_state()
    b = model.sample(3, generator=generators(), num_inference_steps=5)
    assert torch.equal(a, b)
    assert torch.equal(state, torch.random.get_rng_state())
    alone = model.sample(1, generator=generators()[1:2], num_inference_steps=5)
    torch.testing.assert_close(alone[0], a[1], atol=1e-5, rtol=0)


def test_callback_sees_every_step_and_denoise_is_a_denoiser():
    model = make()
    assert isinstance(model, Denoiser)
    steps = []
    images = model.sample(2, num_inference_steps=7, callback=steps.append)
    assert [step.index for step in steps] == list(range(7))
    assert [step.timestep for step in steps] == sorted((s.timestep for s in steps), reverse=True)
    assert torch.equal(images, steps[-1].sample.clamp(-1, 1))
    assert all(s.pred_original_sample.abs().max() <= 1 for s in steps)


def test_too_many_steps_are_refused():
    with pytest.raises(genhub.InputError, match="num_inference_steps: at most 1000, not 2000; 1000 works"):
        make().sample(1, num_inference_steps=2000)
    with pytest.raises(genhub.InputError, match="num_inference_steps: 3 are too few for PNDMScheduler; 4 works"):
        make().sample(1, scheduler="pndm", num_inference_steps=3)


# Folders that diffusers reads and writes


def test_plain_diffusers_opens_and_draws_the_same(tmp_path: Path):
    from diffusers import DDPMPipeline

    model = make().eval()
    model.save_pretrained(tmp_path / "model")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        batch_size=2, generator=torch.Generator().manual_seed(3), num_inference_steps=10, output_type="pt"
    ).images
    ours = model.sample(2, generator=torch.Generator().manual_seed(3), scheduler="ddpm", num_inference_steps=10)
    torch.testing.assert_close(theirs.cpu(), ours / 2 + 0.5, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler"])
def test_a_folder_is_what_diffusers_own_pipeline_writes(tmp_path: Path, name):
    """File by file, whatever the noise schedule's class."""
    from diffusers import DDPMPipeline

    model = make(scheduler={"name": name})
    model.save_networks(tmp_path / "ours")
    DDPMPipeline(unet=model.network.unet, scheduler=model.scheduler).save_pretrained(tmp_path / "theirs")
    for file in ("model_index.json", "scheduler/scheduler_config.json", "unet/config.json"):
        ours, theirs = (json.loads((tmp_path / folder / file).read_text()) for folder in ("ours", "theirs"))
        assert ours == theirs, file


@pytest.mark.parametrize("pipeline_name", ["DDPMPipeline", "DDIMPipeline", "UNet2DModel"])
def test_genhub_opens_what_diffusers_saved(tmp_path: Path, pipeline_name):
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=(8, 16), in_channels=3, out_channels=3, block_out_channels=(32, 64), layers_per_block=1, freq_shift=1,
        flip_sin_to_cos=False, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    if pipeline_name == "UNet2DModel":
        unet.save_pretrained(tmp_path)
    else:
        scheduler = diffusers.DDPMScheduler(num_train_timesteps=500, beta_schedule="linear")
        getattr(diffusers, pipeline_name)(unet=unet, scheduler=scheduler).save_pretrained(tmp_path)
    model = genhub.load(tmp_path)
    assert isinstance(model, DDPM)
    assert model.shape == (3, 8, 16)
    assert model.config.scheduler.prediction_type == "epsilon"
    assert model.num_train_timesteps == (1000 if pipeline_name == "UNet2DModel" else 500)
    x = torch.randn(2, 3, 8, 16)
    assert torch.equal(model.network.unet(x, 7).sample, unet.eval()(x, 7).sample)


def test_genhub_trains_on_from_what_diffusers_saved(tiny, tmp_path: Path):
    import diffusers

    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 16), norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler()).save_pretrained(tmp_path / "theirs")
    tiny["model"] = {"from": str(tmp_path / "theirs")}
    tiny["trainer"] |= {"max_steps": 1, "optimizer": {"lr": 1e-12}, "ema": None}
    folder = genhub.train(tiny)
    again = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
    torch.testing.assert_close(again.conv_in.weight, unet.conv_in.weight, atol=1e-6, rtol=0)
    with pytest.raises(genhub.GenhubError, match="data.columns.image: by channels it is 3x8x8, and the model's is 1x8x8"):
        genhub.train(tiny, ["data.columns.image.channels=3"], run_dir=str(tmp_path / "other"))


def test_a_foreign_schedule_that_does_not_fit_is_refused(tmp_path: Path):
    import diffusers

    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",),
                                 up_block_types=("UpBlock2D",))  # fmt: skip
    for options, message in [
        ({"trained_betas": [0.1, 0.2]}, "betas of its own"),
        ({"variance_type": "learned"}, "variance_type"),
    ]:
        diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler(**options)).save_pretrained(tmp_path)
        with pytest.raises(genhub.CheckpointError, match=message):
            genhub.load(tmp_path)


def test_a_class_conditional_foreign_unet_is_refused(tmp_path: Path):
    import diffusers

    diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        num_class_embeds=3,
    ).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(genhub.CheckpointError, match="conditional on classes"):
        genhub.load(tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    make().save_networks(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["conv_in.weight"]
    save_file(tensors, weights)
    with pytest.raises(genhub.CheckpointError, match=r"1 tensors don't fit: conv_in.weight is missing"):
        make().load_networks(tmp_path)


def test_checkpoint_json_names_only_stock_classes(tmp_path: Path):
    make().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline"
    assert {value[0] for value in index.values() if isinstance(value, list)} == {"diffusers"}


# Options


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"block_out_channels": [8, 20]}, "20 does not divide by norm_num_groups 8; 16 does"),
        (
            {"block_out_channels": [8, 8, 8, 8, 8]},
            "network.block_out_channels: 5 levels need sides divisible by 16, these are 8x8",
        ),
        ({"block_out_channels": [8], "down_block_types": ["DownBlock2D", "DownBlock2D"]}, "2 given for 1 levels"),
        ({"block_out_channels": [7], "norm_num_groups": 7}, "must be even, 7 is not"),
        ({"block_out_channels": []}, "at least 1 item"),
        ({"block_out_channels": [16, 24], "attention_head_dim": 16}, "16 does not divide 24 channels"),
    ],
)
def test_the_networks_arithmetic_is_checked_in_the_config(network, message):
    with pytest.raises(ValueError, match=message):
        make(network={"name": "unet"} | network)


def test_every_legal_unet_builds():
    """What the config lets through, diffusers builds and runs."""
    for channels in ([8], [8, 16, 16], [16, 8]):
        for attention in (True, False):
            network = {"name": "unet", "block_out_channels": channels, "add_attention": attention, "layers_per_block": 1}
            make((2, 8, 4), network=network).sample(1, num_inference_steps=1)


def test_scheduler_names_are_checked():
    with pytest.raises(ValueError, match="no scheduler is called 'ddpmm'"):
        make(scheduler={"name": "ddpmm"})
    assert load_scheduler("ddim").__name__ == "DDIMScheduler"
