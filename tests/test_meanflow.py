"""Mean flows: the average of a velocity, its derivative, guidance in the target, a start from a flow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from genhub_flow import Flow, MeanFlow
from genhub_flow.meanflow import weighted
from test_flow import POINT, UNET

import genhub
from genhub import Batch, Conditions, Image, Label, Modality, ModelData, Signal

NETWORKS = [
    (POINT, {"name": "mlp", "hidden": 16, "depth": 1}),
    (Signal(shape=(1, 16), mean=(0.0,), std=(1.0,)), {"name": "unet1d", "block_out_channels": [8, 16]}),
    (Image(shape=(1, 8, 8)), UNET | {"add_attention": True}),
    (Image(shape=(1, 8, 8)), {"name": "dit", "hidden_size": 16, "depth": 1, "num_heads": 2}),
]


def make(target: Modality = POINT, conditions: dict[str, Modality] | None = None, **keys) -> MeanFlow:
    torch.manual_seed(0)
    data = ModelData(target=target, conditions=conditions or {})
    values = {"name": "meanflow", "data": data, "conditions": list(conditions or {}), "time_unit": 1000, **keys}
    return MeanFlow(MeanFlow.Config.model_validate(values))


class Average(torch.nn.Module):
    """The exact average velocity of the flow to N(0, std^2): a path stays x_s / sqrt(variance at s)."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = torch.nn.Parameter(torch.tensor(std))

    def forward(self, x: torch.Tensor, t: torch.Tensor, given: genhub.Given) -> torch.Tensor:
        s, r = (t / 1000).unsqueeze(2).unbind(1)  # (n, 1) each
        size = lambda s: (((1 - s) * self.std) ** 2 + s**2).sqrt()  # noqa: E731
        instant = (s - (1 - s) * self.std**2) / size(s) ** 2
        return torch.where(s == r, instant, (1 - size(r) / size(s)) / (s - r).where(s != r, torch.ones_like(s))) * x


def test_times_are_ordered_and_mostly_equal():
    s, r = make().two_times(10_000)
    assert (r <= s).all()
    assert (r == s).float().mean() == pytest.approx(0.75, abs=0.02)
    assert s[r == s].logit().mean() > s[r == s].logit().median() - 0.1
    s, r = make(equal_times=0.0, time_location=0.0).two_times(40_000)
    assert (r == s).sum() == 0
    both = torch.cat([s, r]).logit()
    assert (both.mean(), both.std()) == pytest.approx((0, 1), abs=0.03)


def test_the_exact_average_keeps_to_the_identity():
    """u + (s - r) du/ds is the velocity, for any two times (eq. 6), so that what is left of the error is what no network can
    know: the variance of noise - x, given x_s."""
    model = make(equal_times=0.0).requires_grad_(False)
    model.network, given = Average(0.5).requires_grad_(False), genhub.Given()
    s, r = model.two_times(2000)
    x = torch.randn(2000, 2)
    left = model.average_velocity(x, r, s, given) + (s - r)[:, None] * model.derivative(x, r, s, given)
    torch.testing.assert_close(left, model.average_velocity(x, s, s, given), atol=1e-3, rtol=1e-3)
    s = 0.3 + 0.4 * torch.rand(50_000)
    model.two_times = lambda n: (s, s / 2)
    expected = (0.25 / (0.25 * (1 - s) ** 2 + s**2)).mean()
    assert model.loss(Batch(0.5 * torch.randn(50_000, 2)))["mse"] == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_any_number_of_steps_draws_the_data(steps):
    model, seen = make(), []
    model.network = Average(0.5)
    drawn = model.sample(4000, generator=torch.Generator().manual_seed(0), num_inference_steps=steps, callback=seen.append)
    assert drawn.std() == pytest.approx(0.5, abs=0.01)
    assert [step.timestep for step in seen] == pytest.approx([1000 * (1 - k / steps) - 1 for k in range(steps)])
    assert torch.equal(seen[-1].sample, drawn)
    assert isinstance(model, genhub.Denoiser)
    noisy = torch.randn(5, 2)
    guess = model.predict_x0(noisy, torch.full((5,), 999))
    torch.testing.assert_close(guess, 0.5 * noisy)


@pytest.mark.parametrize(
    ("target", "network"), NETWORKS, ids=lambda part: part.get("name") if isinstance(part, dict) else ""
)
def test_the_derivative_of_every_network_is_a_difference_quotient(target, network):
    model = make(target, {"label": Label(number=3)}, network=network)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # some start at zero
    told = Conditions({"label": torch.tensor([0, 1, 2])}, {"label": torch.tensor([True, True, False])})
    x, given = torch.randn(3, *target.shape), model.conditioner(told)
    s, r = torch.tensor([0.7, 0.5, 0.9]), torch.tensor([0.2, 0.5, 0.6])
    found = model.derivative(x, r, s, given)
    small = 1e-4
    velocity = model.average_velocity(x, s, s, given)
    there, back = (
        model.network(x + sign * small * velocity, 1000 * torch.stack([s + sign * small, r], 1), given) for sign in (1, -1)
    )
    expected = (there - back) / (2 * small)
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=0.02, atol=0.02 * expected.abs().max().item())
    assert (found[1] == 0).all()  # where both times are one
    assert not found.requires_grad


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_weight_is_the_papers(power):
    errors = torch.tensor([0.01, 1.0, 30.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(weighted(errors, power).sum(), errors)
    torch.testing.assert_close(gradient, (errors.detach() + 1e-3) ** -power)


def test_guidance_is_in_the_target_of_rows_that_have_a_condition():
    model = make(POINT, {"side": Label(number=2)}, guidance_scale=3.0)
    model.network.forward = lambda x, t, given: torch.ones_like(x)
    told = Conditions({"side": torch.tensor([0, 1])}, {"side": torch.tensor([True, False])})
    target = model.target(torch.full((2, 2), 2.0), torch.randn(2, 2), torch.rand(2), told)
    assert target.tolist() == [[4.0, 4.0], [2.0, 2.0]]  # 3 x 2 + (1 - 3) x 1
    with pytest.raises(genhub.RecipeError, match="model.guidance_scale: changes nothing without conditions; leave it out"):
        genhub.read_recipe({"model": {"name": "meanflow", "guidance_scale": 2.0}})


@pytest.mark.parametrize(
    ("target", "network"), NETWORKS, ids=lambda part: part.get("name") if isinstance(part, dict) else ""
)
def test_gradients_reach_every_weight_under_autocast(target, network):
    model = make(target, {"label": Label(number=3)}, network=network, equal_times=0.2, guidance_scale=2.0)
    told = Conditions({"label": torch.arange(4) % 3}, {"label": torch.tensor([True, True, False, True])})
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(Batch(torch.randn(4, *target.shape), told), "meanflow")
    losses["loss"].backward()
    assert losses["loss"].dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# From a flow


RECIPE = {
    "data": {"name": "moons", "num_rows": 64, "batch_size": 8},
    "trainer": {"max_steps": 2, "sample_every": None, "trackers": []},
}


def test_it_starts_as_the_flow_that_it_is_made_from(tmp_path: Path):
    network = {"name": "mlp", "hidden": 16, "depth": 1}
    flow = {"name": "flow", "conditions": ["label"], "condition_dropout": 0.2, "network": network}
    folder = genhub.train(RECIPE | {"model": flow}, run_dir=str(tmp_path / "flow"))
    recipe = genhub.read_recipe(RECIPE | {"model": {"name": "meanflow", "from": str(tmp_path / "flow")}})
    assert (recipe.model.network.hidden, recipe.model.conditions, recipe.model.condition_dropout) == (16, ("label",), 0.2)
    trained = genhub.load(genhub.train(recipe, ["trainer.optimizer.lr=1e-12"], run_dir=str(tmp_path / "mean")))
    flow, x, s = genhub.load(folder), torch.randn(5, 2), torch.rand(5)
    assert (type(flow), type(trained)) == (Flow, MeanFlow)
    given = flow.conditioner(flow.conditions_of(5, None))
    torch.testing.assert_close(trained.average_velocity(x, s, s, given), flow.velocity(x, s, given), atol=1e-5, rtol=1e-5)


def test_what_it_can_not_start_from_is_told(tmp_path: Path):
    flow = {"name": "flow", "prediction_type": "sample", "network": {"name": "mlp", "hidden": 8}}
    genhub.train(RECIPE | {"model": flow}, ["trainer.max_steps=1"], run_dir=str(tmp_path / "x"))
    with pytest.raises(
        genhub.RecipeError, match="model.from: a meanflow starts from a flow with prediction_type: velocity and"
    ):
        genhub.read_recipe(RECIPE | {"model": {"name": "meanflow", "from": str(tmp_path / "x")}})
    with pytest.raises(genhub.RecipeError, match="holds 'flow', and model.name is 'ddpm'"):
        genhub.read_recipe(RECIPE | {"model": {"name": "ddpm", "from": str(tmp_path / "x")}})
