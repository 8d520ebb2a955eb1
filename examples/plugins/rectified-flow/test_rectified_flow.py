"""Installed beside genhub, so that its names are registered: pip install . && pytest"""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DModel
from genhub_rectified_flow import RectifiedFlow
from pydantic import ValidationError

import genhub
from genhub import Batch, Conditions, Image, Label, Modality, ModelData, Vector
from genhub.testing import check_scheduler

UNET = {"name": "unet", "block_out_channels": [8, 16], "add_attention": False}
POINT = Vector(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0))


def make(target: Modality | None = None, conditions: dict[str, Modality] | None = None, **keys) -> RectifiedFlow:
    torch.manual_seed(0)
    data = ModelData(target=target or Image(shape=(1, 8, 8)), conditions=conditions or {})
    values = {"name": "rectified-flow", "data": data, "conditions": list(conditions or {}), **keys}
    if target is None:
        values = {"network": UNET} | values
    return RectifiedFlow(RectifiedFlow.Config.model_validate(values)).eval()


@pytest.mark.parametrize(("name", "evaluations", "error"), [("flow_euler", 10, 0.3), ("flow_heun", 20, 0.015)])
def test_schedules_solve_an_ode_in_code_that_knows_none_of_them(name, evaluations, error):
    check_scheduler(genhub.load_scheduler(name))
    schedule = genhub.load_scheduler(name)()
    assert isinstance(schedule, genhub.Scheduler)
    schedule.set_timesteps(10)
    sample = torch.full((1, 1, 2, 2), 1.0) * schedule.init_noise_sigma
    for timestep in schedule.timesteps:  # dx/dsigma = -x, from x = 1 at sigma = 1: x = e at 0
        velocity = -schedule.scale_model_input(sample, timestep)
        sample = schedule.step(velocity, timestep, sample).prev_sample
    assert len(schedule.timesteps) == evaluations
    assert 0 < (sample - torch.e).abs().max() < error


def test_noise_lies_on_a_straight_line():
    model, clean, noise = make(), torch.ones(3, 1, 8, 8), -torch.ones(3, 1, 8, 8)
    noisy = model.add_noise(clean, noise, torch.tensor([0, 499, 999]))
    torch.testing.assert_close(noisy[:, 0, 0, 0], torch.tensor([0.998, 0.0, -1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.signal_to_noise(torch.tensor([499, 999])), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("scheduler", ["flow_euler", "flow_heun", "unipc", "dpmsolver", "sasolver"])
def test_every_flow_scheduler_goes_all_the_way(scheduler):
    """A network that knows the one image there is: its velocity at x_sigma is (x_sigma - image) / sigma."""
    model, image = make(), torch.linspace(-0.9, 0.9, 64).view(1, 1, 8, 8)
    model.network.forward = lambda x, t, given: (x - image) / (t / 1000).clamp(min=1e-4).view(-1, 1, 1, 1)
    assert isinstance(model, genhub.Denoiser)
    steps = list(model.denoise(2, generator=torch.Generator().manual_seed(0), scheduler=scheduler, num_inference_steps=20))
    assert steps[0].timestep == pytest.approx(999, abs=1)
    assert steps[-1].timestep < 60
    assert (steps[-1].sample - image).abs().max() < 0.2  # some end with a little noise
    assert (steps[3].pred_original_sample - image).abs().max() < 0.01
    guess = model.predict_x0(torch.randn(2, 1, 8, 8), torch.tensor([200, 700]))
    torch.testing.assert_close(guess, image.expand(2, -1, -1, -1), atol=1e-4, rtol=0)


def test_what_knows_no_flows_is_refused():
    with pytest.raises(genhub.InputError, match="'ddim' knows no flows; flow_euler"):
        make().sample(1, scheduler="ddim")
    with pytest.raises(ValueError, match="FlowHeun follows the velocity of a flow, not v_prediction"):
        genhub.load_scheduler("flow_heun").from_config({"prediction_type": "v_prediction", "beta_start": 0.1})
    with pytest.raises(
        genhub.InputError, match="num_inference_steps: 1000 are too many for 'unipc', which visits a timestep twice"
    ):
        make().sample(1, scheduler="unipc", num_inference_steps=1000)
    with pytest.raises(
        ValidationError, match=r"network.block_out_channels: 2 levels need sides divisible by 2, these are 7x8"
    ):
        make(Image(shape=(1, 7, 8)), network=UNET)
    with pytest.raises(ValidationError, match="12 does not divide by norm_num_groups 8"):
        make(network=UNET | {"block_out_channels": [12]})
    assert "guidance_scale" in make().unused_options({"guidance_scale": 2.0})


class Told(torch.nn.Module):
    """A network for the two points (0, 0) and (3, 1), of which it knows which is asked for: between them, if neither is."""

    def forward(self, x, t, given):
        share = torch.where(given.vector[:, :1] > 1.5, 0.5, given.vector[:, :1])
        return (x - share * torch.tensor([3.0, 1.0])) / (t[:, None] / 1000).clamp(min=1e-4)


def test_points_are_drawn_given_a_class_and_guided():
    """Nothing is clipped to an image's range, and guidance goes as far beyond as it says."""
    model = make(POINT, {"side": Label(number=2, names=("left", "right"))})
    assert model.config.network.name == "mlp"
    model.network = Told()
    model.conditioner.forward = lambda conditions: genhub.Given(
        vector=conditions.values["side"].masked_fill(~conditions.present["side"], 2).float()[:, None]
    )
    there, options = torch.ones(2, dtype=torch.bool), {"scheduler": "flow_euler", "num_inference_steps": 4}
    told = Conditions({"side": torch.tensor([0, 1])}, {"side": there})
    drawn = model.sample(2, conditions=told, **options)
    torch.testing.assert_close(drawn, torch.tensor([[0.0, 0.0], [3.0, 1.0]]), atol=1e-4, rtol=0)
    beyond = model.sample(2, conditions=told, guidance_scale=3.0, **options)
    torch.testing.assert_close(beyond, torch.tensor([[-3.0, -1.0], [6.0, 2.0]]), atol=1e-3, rtol=0)
    between = model.sample(2, conditions=told.without(there), **options)
    torch.testing.assert_close(between, torch.tensor([[1.5, 0.5], [1.5, 0.5]]), atol=1e-4, rtol=0)


def test_a_flow_of_points_trains_and_comes_back(tmp_path):
    model = make(POINT, {"side": Label(number=2)})
    told = Conditions({"side": torch.tensor([0, 1])}, {"side": torch.tensor([True, False])})
    model.loss(Batch(torch.randn(2, 2), told))["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    model.save_pretrained(tmp_path / "model")
    again = RectifiedFlow.from_pretrained(tmp_path / "model")
    drawn = [each.sample(2, conditions=told, generator=torch.Generator().manual_seed(0)) for each in (model, again)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("scheduler", ["flow_euler", "flow_heun", "unipc", "dpmsolver"])
@pytest.mark.parametrize("steps", [7, 61, 600])
def test_every_number_of_steps_draws_the_data(scheduler, steps):
    """With the exact velocity for images of N(0, 0.5^2)."""
    model = make()

    def velocity(x, t, given):
        sigma = (t / 1000).view(-1, 1, 1, 1)
        return (sigma - (1 - sigma) / 4) / ((1 - sigma) ** 2 / 4 + sigma**2) * x

    model.network.forward = velocity
    generator = torch.Generator().manual_seed(0)
    *_, last = model.denoise(64, generator=generator, scheduler=scheduler, num_inference_steps=steps)
    assert last.sample.std() == pytest.approx(0.5, abs=0.02 + 0.7 / steps)


def test_diffusers_opens_its_unet(tmp_path):
    model = make(Image(shape=(3, 8, 12)), network=UNET)
    model.save_pretrained(tmp_path)
    unet, noisy = UNet2DModel.from_pretrained(tmp_path / "network"), torch.randn(2, 3, 8, 12)
    velocity = model.velocity(noisy, torch.full((2,), 400.0), model.conditioner(Conditions()))
    torch.testing.assert_close(unet(noisy, 400).sample, velocity)
