from __future__ import annotations

import models
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genhub.errors import RecipeError
from genhub.recipe.sections import AccelerateConfig, LRSchedulerConfig
from genhub.training.optim import CLASSES, build_optimizers, lr_factor


def make(**trainer):
    model = models.Pair(models.Pair.Config(data=models.images((1, 4, 4))))
    return model, build_optimizers(model, model.phases(), AccelerateConfig(**trainer))


def test_phases_that_train_the_same_networks_share_an_optimizer():
    model, optimizers = make()
    assert list(optimizers) == [frozenset({"generator"}), frozenset({"critic"})]
    assert optimizers[frozenset({"critic"})].parameters == list(model.critic.parameters())


@pytest.mark.parametrize("name", sorted({"adamw", "adam", "adamax", "adadelta", "adagrad", "nadam", "radam", "rmsprop", "rprop", "sgd", "asgd"}))  # fmt: skip
def test_every_optimizer_steps(name):
    model, optimizers = make(optimizer={"name": name, "lr": 0.01})
    before = model.critic[0].weight.detach().clone()
    model.critic(torch.randn(4, 16)).sum().backward()
    norm = optimizers[frozenset({"critic"})].step(1.0)
    assert norm is not None
    assert norm > 0
    assert not torch.equal(before, model.critic[0].weight)
    assert model.critic[0].weight.grad is None
    assert type(optimizers[frozenset({"critic"})].torch) is CLASSES[name]


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
