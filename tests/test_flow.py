"""Flows: straight paths, what a network may predict, their solvers, guidance, folders."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel
from genhub_flow import Flow
from genhub_flow.flow import edm, nearest
from pydantic import ValidationError
from test_ddpm import make as make_ddpm

import genhub
from genhub import Batch, Conditions, Image, Label, Modality, ModelData, Signal, Vector
from genhub.testing import check_scheduler

UNET = {"name": "unet", "block_out_channels": [8, 16], "add_attention": False}
POINT = Vector(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0))
KINDS = [{"prediction_type": kind} for kind in ("velocity", "sample", "epsilon")] + [{"preconditioning": "edm"}]
"""Meanings that a network's output can have."""


def make(target: Modality | None = None, conditions: dict[str, Modality] | None = None, **keys) -> Flow:
    torch.manual_seed(0)
    data = ModelData(target=target or Image(shape=(1, 8, 8)), conditions=conditions or {})
    values = {"name": "flow", "data": data, "conditions": list(conditions or {}), **keys}
    if target is None:
        values = {"network": UNET} | values
    return Flow(Flow.Config.model_validate(values)).eval()


def along(s: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return s.view(-1, *[1] * (x.ndim - 1))


class Knowing(torch.nn.Module):
    """A network whose output means the exact velocity of a flow to N(mean, std^2), for any model of flows."""

    def __init__(self, model: Flow, mean: float, std: float) -> None:
        super().__init__()
        self.model, self.mean, self.std = [model], mean, std  # no child
        self.place = torch.nn.Parameter(torch.zeros(()))  # a model is on the device of its weights

    def forward(self, x: torch.Tensor, t: torch.Tensor, given: genhub.Given) -> torch.Tensor:
        model = self.model[0]
        if model.config.preconditioning == "edm":  # its times are those of ln sigma
            low, high = math.log(0.002), math.log(80)
            s = torch.sigmoid(low + t / 1000 * (high - low))
        else:
            s = t / 1000
        scales = model.scales(s)
        s, (skip, output, scale, _, _) = along(s, x), (along(part, x) for part in scales)
        noisy = x / scale
        signal, variance = 1 - s, ((1 - s) * self.std) ** 2 + s**2
        clean = self.mean + signal * self.std**2 / variance * (noisy - signal * self.mean)
        noise = s / variance * (noisy - signal * self.mean)
        guess = {"velocity": noise - clean, "sample": clean, "epsilon": noise}[model.config.prediction_type]
        return (guess - skip * noisy) / output


# The path


def test_noise_lies_on_a_straight_line():
    model, clean, noise = make(), torch.ones(3, 1, 8, 8), -torch.ones(3, 1, 8, 8)
    noisy = model.add_noise(clean, noise, torch.tensor([0, 499, 999]))
    torch.testing.assert_close(noisy[:, 0, 0, 0], torch.tensor([0.998, 0.0, -1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.signal_to_noise(torch.tensor([499, 999])), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize(
    ("keys", "location", "scale"),
    [({"time_density": "logit_normal"}, 0.0, 1.0), ({"time_density": "edm"}, -1.2, 1.2),
     ({"time_density": "logit_normal", "time_location": 0.8, "time_scale": 0.5}, 0.8, 0.5)],
)  # fmt: skip
def test_densities_of_times(keys, location, scale):
    logits = make(POINT, **keys).times(20_000).logit()
    assert logits.mean() == pytest.approx(location, abs=0.03)
    assert logits.std() == pytest.approx(scale, abs=0.03)


def test_uniform_times():
    times = make(POINT).times(20_000)
    assert (times.min(), times.max()) == pytest.approx((0, 1), abs=1e-3)
    assert times.var() == pytest.approx(1 / 12, abs=2e-3)


# What a network predicts


@pytest.mark.parametrize("keys", KINDS, ids=str)
def test_the_loss_of_a_perfect_network_is_what_no_network_can_know(keys):
    """Of N(0, 0.5^2), (noise - x) given x_s has the variance 0.25 / variance of x_s, whatever the network's output means; EDM
    weighs it by that variance over 0.25, and so 1 is left."""
    model = make(POINT, **keys)
    model.network = Knowing(model, 0.0, 0.5)
    s = 0.3 + 0.4 * torch.rand(50_000)
    model.times = lambda n: s
    left = torch.ones(()) if "preconditioning" in keys else (0.25 / (0.25 * (1 - s) ** 2 + s**2)).mean()
    assert model.loss(Batch(0.5 * torch.randn(50_000, 2)))["loss"] == pytest.approx(left.item(), rel=0.02)


def test_edm_scales_are_those_of_table_1():
    """D(z) = c_skip z + c_out F(c_in z) of z = x + sigma noise = x_s / (1 - s), and the velocity (x_s - D) / s."""
    s, sigma_data = torch.tensor([0.05, 0.4, 0.9]), 0.5
    skip, output, scale, times, weight = edm(s, sigma_data)
    sigma = s / (1 - s)
    total = sigma**2 + sigma_data**2
    noisy, network = torch.tensor([0.3, -1.0, 0.7]), torch.tensor([1.0, 2.0, -0.5])
    z = noisy / (1 - s)
    torch.testing.assert_close(scale * noisy, z / total.sqrt())
    clean = sigma_data**2 / total * z + sigma * sigma_data / total.sqrt() * network
    torch.testing.assert_close(skip * noisy + output * network, (noisy - clean) / s, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weight, total / (sigma * sigma_data) ** 2 * s**2)  # lambda(sigma), for a velocity
    assert times.diff().min() > 0
    torch.testing.assert_close(edm(torch.tensor([0.0, 1.0]), 0.5).times, torch.tensor([0.0, 1000.0]))


@pytest.mark.parametrize("keys", KINDS, ids=str)
def test_every_prediction_draws_the_data(keys):
    model = make(POINT, **keys)
    model.network = Knowing(model, 1.0, 0.5)
    drawn = model.sample(4000, generator=torch.Generator().manual_seed(0), num_inference_steps=40)
    assert drawn.mean() == pytest.approx(1.0, abs=0.05)
    assert drawn.std() == pytest.approx(0.5, abs=0.03)


def test_optimal_transport_takes_the_nearest_noise():
    x = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    noise = torch.tensor([[0.1, 9.0], [1.0, 0.0], [9.0, 1.0]])
    assert torch.equal(nearest(x, noise), noise[[1, 2, 0]])
    images = torch.randn(30, 1, 4, 4)
    paired = nearest(images, torch.randn(30, 1, 4, 4))
    assert (paired - images).square().sum() < (paired.roll(1, 0) - images).square().sum()
    told = Conditions({"side": torch.arange(30) % 2}, {"side": torch.ones(30, dtype=torch.bool)})
    model = make(POINT, {"side": Label(number=2)}, coupling="optimal_transport")
    straight = make(POINT, {"side": Label(number=2)})
    losses = [each.loss(Batch(torch.randn(30, 2), told))["loss"] for each in (model, straight)]
    assert losses[0] < losses[1]  # lines between near points cross less


# Solvers


@pytest.mark.parametrize(("name", "evaluations", "error"), [("flow_euler", 10, 0.3), ("flow_heun", 20, 0.015)])
def test_schedules_solve_an_ode_in_code_that_knows_none_of_them(name, evaluations, error):
    check_scheduler(genhub.load_scheduler(name))
    schedule = genhub.load_scheduler(name)()
    assert isinstance(schedule, genhub.Scheduler)
    schedule.set_timesteps(10)
    sample = torch.full((1, 1, 2, 2), 1.0) * schedule.init_noise_sigma
    for timestep in schedule.timesteps:  # dx/ds = -x, from x = 1 at s = 1: x = e at 0
        velocity = -schedule.scale_model_input(sample, timestep)
        sample = schedule.step(velocity, timestep, sample).prev_sample
    assert len(schedule.timesteps) == evaluations
    assert 0 < (sample - torch.e).abs().max() < error


@pytest.mark.parametrize("scheduler", ["flow_euler", "flow_heun", "unipc", "dpmsolver", "sasolver"])
def test_every_flow_scheduler_goes_all_the_way(scheduler):
    """A network that knows the one image there is: its velocity at x_s is (x_s - image) / s."""
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


@pytest.mark.parametrize("scheduler", ["flow_euler", "flow_heun", "unipc", "dpmsolver"])
@pytest.mark.parametrize("steps", [7, 61, 250])
def test_every_number_of_steps_draws_the_data(scheduler, steps):
    model = make()
    model.network = Knowing(model, 0.0, 0.5)
    generator = torch.Generator().manual_seed(0)
    *_, last = model.denoise(64, generator=generator, scheduler=scheduler, num_inference_steps=steps)
    assert last.sample.std() == pytest.approx(0.5, abs=0.02 + 0.7 / steps)


def test_a_callback_sees_every_evaluation():
    model, seen = make(POINT), []
    drawn = model.sample(3, generator=torch.Generator().manual_seed(0), num_inference_steps=4, callback=seen.append)
    assert [step.index for step in seen] == list(range(8))  # two a step
    assert torch.equal(seen[-1].sample, drawn)


# Mistakes


def test_what_knows_no_flows_is_refused():
    with pytest.raises(genhub.InputError, match="scheduler: 'ddim' knows no flows; flow_euler"):
        make().sample(1, scheduler="ddim")
    with pytest.raises(
        genhub.InputError, match="'flow_heun' can't sample for this model: FlowHeun follows the velocity of a"
    ):
        make_ddpm().sample(1, scheduler="flow_heun")
    with pytest.raises(
        genhub.InputError, match="num_inference_steps: 1000 are too many for 'unipc', which visits a timestep twice"
    ):
        make().sample(1, scheduler="unipc", num_inference_steps=1000)
    with pytest.raises(
        ValidationError, match=r"network.block_out_channels: 2 levels need sides divisible by 2, these are 7x8"
    ):
        make(Image(shape=(1, 7, 8)), network=UNET)
    assert "guidance_scale" in make().unused_options({"guidance_scale": 2.0})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sampling.scheduler=ddim", "model.sampling.scheduler: 'ddim' knows no flows; flow_euler, flow_heun,"),
        ("time_scale=2.0", "model.time_scale: changes nothing without time_density: logit_normal; leave it out"),
        ("sigma_data=1.0", "model.sigma_data: changes nothing without preconditioning: edm; leave it out"),
        ("sampling.guidance_scale=2.0", "model.sampling.guidance_scale: changes nothing without conditions; leave it out"),
    ],
)
def test_a_recipe_that_says_what_changes_nothing(key, message):
    with pytest.raises(genhub.RecipeError, match=message):
        genhub.read_recipe({"model": {"name": "flow"}}, [f"model.{key}"])
    with pytest.raises(genhub.RecipeError, match="prediction_type: with preconditioning: edm the network predicts EDM's"):
        genhub.read_recipe({"model": {"name": "flow", "preconditioning": "edm", "prediction_type": "sample"}})


# Conditions


class Told(torch.nn.Module):
    """A network for the two points (0, 0) and (3, 1), of which it knows which is asked for: between them, if neither is."""

    place = torch.nn.Parameter(torch.zeros(()))

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
    nowhere = model.sample(2, conditions=told, guidance_scale=3.0, guidance_interval=(0.1, 0.2), **options)
    torch.testing.assert_close(nowhere, drawn, atol=1e-4, rtol=0)  # it evaluates at 1, 0.75, 0.5, 0.25
    between = model.sample(2, conditions=told.without(there), **options)
    torch.testing.assert_close(between, torch.tensor([[1.5, 0.5], [1.5, 0.5]]), atol=1e-4, rtol=0)


# Folders


@pytest.mark.parametrize("target", [POINT, Signal(shape=(2, 16), mean=(0.0, 1.0), std=(0.5, 2.0))])
def test_a_flow_trains_and_comes_back(tmp_path, target):
    model = make(target, {"side": Label(number=2)}, preconditioning="edm", time_density="edm")
    told = Conditions({"side": torch.tensor([0, 1])}, {"side": torch.tensor([True, False])})
    model.loss(Batch(torch.randn(2, *target.shape), told))["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    model.save_pretrained(tmp_path / "model")
    again = Flow.from_pretrained(tmp_path / "model")
    drawn = [each.sample(2, conditions=told, generator=torch.Generator().manual_seed(0)) for each in (model, again)]
    assert torch.equal(*drawn)
    assert not (tmp_path / "model" / "scheduler").exists()  # diffusers' would take its output for a velocity


def test_diffusers_draws_the_same_with_what_it_opens(tmp_path):
    model = make(Image(shape=(3, 8, 12)), network=UNET)
    model.save_pretrained(tmp_path)
    unet = UNet2DModel.from_pretrained(tmp_path / "unet")
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "scheduler")
    steps, noise = 5, torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(sigmas=[1 - index / steps for index in range(steps)])
    sample = noise
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            sample = scheduler.step(unet(sample, timestep).sample, timestep, sample).prev_sample
    options = {"scheduler": "flow_euler", "num_inference_steps": steps, "generator": torch.Generator().manual_seed(0)}
    torch.testing.assert_close(sample.clamp(-1, 1), model.sample(2, **options), atol=1e-5, rtol=0)
