"""Installed beside genhub, so that its names are registered: pip install . && pytest"""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DModel
from genhub_rectified_flow import RectifiedFlow
from pydantic import ValidationError

import genhub
from genhub.testing import check_scheduler


def make(**keys) -> RectifiedFlow:
    torch.manual_seed(0)
    values = {"name": "rectified-flow", "sample_shape": (1, 8, 8), "network": {"name": "unet", "block_out_channels": [8, 16]}, **keys}
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
    model, images, noise = make(), torch.ones(3, 1, 8, 8), -torch.ones(3, 1, 8, 8)
    noisy = model.add_noise(images, noise, torch.tensor([0, 499, 999]))
    torch.testing.assert_close(noisy[:, 0, 0, 0], torch.tensor([0.998, 0.0, -1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.signal_to_noise(torch.tensor([499, 999])), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("scheduler", ["flow_euler", "flow_heun", "unipc", "dpmsolver", "sasolver"])
def test_every_flow_scheduler_goes_all_the_way(scheduler):
    """A network that knows the one image there is: its velocity at x_sigma is (x_sigma - image) / sigma."""
    model, image = make(), torch.linspace(-0.9, 0.9, 64).view(1, 1, 8, 8)
    model.velocity = lambda noisy, timesteps: (noisy - image) / (timesteps / 1000).clamp(min=1e-4)
    assert isinstance(model, genhub.Denoiser)
    steps = list(model.denoise(2, generator=torch.Generator().manual_seed(0), scheduler=scheduler, num_inference_steps=20))
    assert steps[0].timestep == pytest.approx(999, abs=1)
    assert steps[-1].timestep < 60
    assert (steps[-1].sample - image).abs().max() < 0.2  # some end with a little noise
    assert (steps[3].pred_original_sample - image).abs().max() < 0.01


def test_what_knows_no_flows_is_refused():
    with pytest.raises(genhub.InputError, match="'ddim' knows no flows; flow_euler"):
        make().sample(1, scheduler="ddim")
    with pytest.raises(ValueError, match="FlowHeun follows the velocity of a flow, not v_prediction"):
        genhub.load_scheduler("flow_heun").from_config({"prediction_type": "v_prediction", "beta_start": 0.1})
    with pytest.raises(
        genhub.InputError, match="num_inference_steps: 1000 are too many for 'unipc', which visits a timestep twice"
    ):
        make().sample(1, scheduler="unipc", num_inference_steps=1000)
    with pytest.raises(ValidationError, match="2 levels need sides divisible by 2, not 7x8"):
        make(sample_shape=(1, 7, 8))
    with pytest.raises(ValidationError, match="no multiple of norm_num_groups 8"):
        make(unet={"block_out_channels": [12]})


@pytest.mark.parametrize("scheduler", ["flow_euler", "flow_heun", "unipc", "dpmsolver"])
@pytest.mark.parametrize("steps", [7, 61, 600])
def test_every_number_of_steps_draws_the_data(scheduler, steps):
    """With the exact velocity for images of N(0, 0.5^2)."""
    model = make()

    def velocity(noisy, timesteps):
        sigma = timesteps / 1000
        return (sigma - (1 - sigma) / 4) / ((1 - sigma) ** 2 / 4 + sigma**2) * noisy

    model.velocity = velocity
    generator = torch.Generator().manual_seed(0)
    *_, last = model.denoise(64, generator=generator, scheduler=scheduler, num_inference_steps=steps)
    assert last.sample.std() == pytest.approx(0.5, abs=0.02 + 0.7 / steps)


def test_diffusers_opens_its_unet(tmp_path):
    model = make(sample_shape=(3, 8, 12))
    model.save_pretrained(tmp_path)
    unet, noisy = UNet2DModel.from_pretrained(tmp_path / "unet"), torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(unet(noisy, 400).sample, model.velocity(noisy, torch.tensor(400)))
