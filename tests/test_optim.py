from __future__ import annotations

import models
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from genhub.errors import RecipeError
from genhub.recipe.optimizers import optimizer_classes, optimizer_faults
from genhub.recipe.sections import OPTIMIZERS, AccelerateConfig, LRSchedulerConfig, OptimizerConfig
from genhub.training.optim import build_optimizers, check_goes_on, lr_factor


def make(**trainer):
    model = models.Pair(models.Pair.Config(data=models.images((1, 4, 4))))
    return model, build_optimizers(model, model.phases(), AccelerateConfig(**trainer))


def test_phases_that_train_the_same_networks_share_an_optimizer():
    model, optimizers = make()
    assert list(optimizers) == [frozenset({"generator"}), frozenset({"critic"})]
    assert optimizers[frozenset({"critic"})].parameters == list(model.critic.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_steps(name):
    model, optimizers = make(optimizer={"name": name, "lr": 0.01})
    before = model.critic[0].weight.detach().clone()
    model.critic(torch.randn(4, 16)).sum().backward()
    norm = optimizers[frozenset({"critic"})].step(1.0)
    assert norm is not None
    assert norm > 0
    assert not torch.equal(before, model.critic[0].weight)
    assert model.critic[0].weight.grad is None
    assert type(optimizers[frozenset({"critic"})].parts[0]) is optimizer_classes(name)[0]


def test_the_gradient_is_clipped():
    model, optimizers = make(optimizer={"name": "sgd", "lr": 1.0}, max_grad_norm=0.5)
    before = [p.detach().clone() for p in model.critic.parameters()]
    (1000 * model.critic(torch.randn(4, 16)).sum()).backward()
    norm = optimizers[frozenset({"critic"})].step(1.0)
    moved = sum((a - b).square().sum() for a, b in zip(before, model.critic.parameters(), strict=True)).sqrt()
    assert norm is not None
    assert norm > 100
    assert moved.item() == pytest.approx(0.5, rel=1e-3)


def test_networks_trained_together_must_agree():
    class Together(models.Pair):
        def phases(self):
            return [models.Phase("all", self.critic_loss, trains=("generator", "critic"))]

    model = Together(models.Pair.Config(data=models.images((1, 4, 4))))
    config = AccelerateConfig(optimizers={"critic": {"lr": 1e-3}, "generator": {"lr": 1e-4}})
    with pytest.raises(RecipeError, match="are trained together, by one optimizer: give them the same keys"):
        build_optimizers(model, model.phases(), config)


@given(
    name=st.sampled_from(["constant", "linear", "cosine"]),
    warmup=st.integers(0, 50),
    final=st.floats(0, 1),
    max_steps=st.integers(1, 200),
)
def test_learning_rate_stays_in_range_rises_then_falls_to_the_end(name, warmup, final, max_steps):
    config = LRSchedulerConfig(name=name, warmup_steps=warmup, final_ratio=final)
    factors = [lr_factor(config, step, max_steps) for step in range(max_steps + 1)]
    assert all(0 <= f <= 1 for f in factors)
    rise, fall = factors[:warmup], factors[warmup:]
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    if name != "constant" and max_steps > warmup:
        assert factors[-1] == pytest.approx(final, abs=1e-9)


class Told(torch.optim.SGD):
    """An optimizer of somebody's that keeps state, and one argument of its own."""

    def __init__(self, params, lr=0.1, twice=False):
        super().__init__(params, lr=2 * lr if twice else lr, momentum=0.9)


class Forgetful(Told):
    """Counts its steps where no checkpoint looks."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["seen"] = group.get("seen", 0) + 1
            group["momentum"] = 1 / group["seen"]
        return super().step(closure)


def test_muon_moves_matrices_orthogonally_and_the_rest_as_adamw_does():
    model = nn.ModuleDict({"net": nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6)), "other": nn.Linear(2, 2)})
    table, matrix, bias = model["net"].parameters()
    model.phases = lambda: [models.Phase("fit", lambda batch: {}, trains=("net",))]
    (optimizer,) = build_optimizers(model, model.phases(), AccelerateConfig(optimizer={"name": "muon", "lr": 0.01, "weight_decay": 0})).values()  # fmt: skip
    assert [(type(part).__name__, [p is matrix for g in part.param_groups for p in g["params"]]) for part in optimizer.parts] == [
        ("Muon", [True]), ("AdamW", [False, False]),
    ]  # fmt: skip
    before = [p.detach().clone() for p in (table, matrix, bias)]
    model["net"](torch.arange(5)).square().sum().backward()
    optimizer.step(1.0)
    moved = [(p.detach() - b) for p, b in zip((table, matrix, bias), before, strict=True)]
    torch.testing.assert_close(
        moved[0].abs(), torch.full((5, 4), 0.01), atol=1e-4, rtol=0
    )  # AdamW's first step: lr, by sign
    torch.testing.assert_close(moved[2].abs(), torch.full((6,), 0.01), atol=1e-4, rtol=0)
    singular = torch.linalg.svdvals(
        moved[1] / (0.01 * 0.2 * 6**0.5)
    )  # all about 1: five Newton-Schulz steps come within 0.3
    assert singular.min() > 0.6
    assert singular.max() < 1.3


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_makes_updates_orthogonal_in_float32_on_a_cpu(nesterov):
    """Against its definition (Jordan et al. 2024) in float64, of which bfloat16 is off by a hundredth."""
    matrix = nn.Parameter(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
    model = nn.ModuleDict({"net": nn.ParameterList([matrix])})
    phases = [models.Phase("fit", lambda batch: {}, trains=("net",))]
    config = {"name": "muon", "lr": 1.0, "weight_decay": 0, "options": {"nesterov": nesterov, "momentum": 0.9}}
    (optimizer,) = build_optimizers(model, phases, AccelerateConfig(optimizer=config, max_grad_norm=None)).values()
    momentum = torch.zeros(3, 5, dtype=torch.float64)
    for step in range(2):
        gradient = torch.randn(3, 5, generator=torch.Generator().manual_seed(step + 1))
        momentum = 0.9 * momentum + 0.1 * gradient.double()
        x = 0.1 * gradient.double() + 0.9 * momentum if nesterov else momentum
        x = x / x.norm()
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
        expected = matrix.detach().double() - 0.2 * 5**0.5 * x
        matrix.grad = gradient.clone()
        optimizer.step(1.0)
        torch.testing.assert_close(matrix.detach().double(), expected, atol=1e-5, rtol=0)


def test_muon_is_refused_where_there_is_no_matrix():
    model = nn.ModuleDict({"net": nn.Conv1d(1, 1, 3)})
    phases = [models.Phase("fit", lambda batch: {}, trains=("net",))]
    with pytest.raises(RecipeError, match="muon is for matrices, and these networks have none; adamw is"):
        build_optimizers(model, phases, AccelerateConfig(optimizer={"name": "muon"}))


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd", "rmsprop", "test_optim:Told"])
def test_an_optimizer_goes_on_from_its_state(name):
    options = {"options": {"twice": True}} if ":" in name else {}
    check_goes_on(OptimizerConfig.model_validate({"name": name, "lr": 0.01, **options}))


def test_anybodys_optimizer():
    _, optimizers = make(optimizer={"name": "test_optim:Told", "options": {"twice": True}, "lr": 0.5})
    assert [group["lr"] for group in optimizers[frozenset({"critic"})].parts[0].param_groups] == [1.0]
    with pytest.raises(RecipeError, match="test_optim:Forgetful takes another step when it goes on"):
        make(optimizer={"name": "test_optim:Forgetful"})
    with pytest.raises(RecipeError, match="trainer.optimizer: torch.optim:LBFGS: .*closure"):
        make(optimizer={"name": "torch.optim:LBFGS"})


@pytest.mark.parametrize(
    ("trainer", "path", "message"),
    [
        ({"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}}, ("optimizer", "betas"), "SGD has no such argument; known: damp"),
        ({"optimizer": {"name": "muon", "options": {"ns_stpes": 3}}}, ("optimizer", "options", "ns_stpes"), "did you mean 'ns_steps'?"),
        ({"optimizer": {"name": "test_optim:Told", "eps": 1}}, ("optimizer", "eps"), "Told has no such argument; known: lr, twice"),
        ({"optimizer": {"name": "test_optim:models"}}, ("optimizer", "name"), "test_optim:models is no torch.optim.Optimizer"),
        ({"optimizer": {"name": "nowhere:Told"}}, ("optimizer", "name"), "nowhere:Told can't be imported: ModuleNotFoundError"),
        ({"optimizer": {"options": {"lr": 0.5}}}, ("optimizer", "options", "lr"), "is a key of its own: trainer.optimizer.lr"),
        ({"optimizers": {"critic": {"alpha": 0.9}}}, ("optimizers", "critic", "alpha"), "AdamW has no such argument; "),
    ],
)  # fmt: skip
def test_an_argument_that_an_optimizer_does_not_have(trainer, path, message):
    ((where, said),) = optimizer_faults(AccelerateConfig.model_validate(trainer), None).items()
    assert where == path
    assert message in said


def test_another_class_for_one_network_starts_from_its_own_defaults():
    common = {"name": "adamw", "lr": 1e-3, "betas": [0.0, 0.99]}
    _, optimizers = make(optimizer=common, optimizers={"critic": {"name": "sgd"}, "generator": {"weight_decay": 0.5}})
    (critic,), (generator,) = (optimizers[frozenset({name})].parts for name in ("critic", "generator"))
    assert isinstance(critic, torch.optim.SGD)
    assert critic.param_groups[0]["lr"] == 1e-3
    assert (generator.defaults["betas"], generator.defaults["weight_decay"]) == ((0.0, 0.99), 0.5)
