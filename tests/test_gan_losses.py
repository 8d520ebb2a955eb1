"""The GAN plugin's losses and penalties against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from genhub_gan import losses
from test_gan import LOSSES, batch, make

# Losses, on logits C where D = sigmoid(C)


def log_d(logit: float) -> float:
    return math.log(1 / (1 + math.exp(-logit)))


REAL, FAKE = [2.0, -0.5, 0.3], [-1.5, 0.8, 0.1]
PAIRS = list(zip(REAL, FAKE, strict=True))
EXPECTED = {  # (discriminator, generator), a pair of images at a time
    "minimax": (lambda r, f: -log_d(r) - log_d(-f), lambda r, f: log_d(-f)),
    "non_saturating": (lambda r, f: -log_d(r) - log_d(-f), lambda r, f: -log_d(f)),
    "hinge": (lambda r, f: max(0, 1 - r) + max(0, 1 + f), lambda r, f: -f),
    "wasserstein": (lambda r, f: f - r, lambda r, f: -f),
    "relativistic": (lambda r, f: -log_d(r - f), lambda r, f: -log_d(f - r)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_formulas(name):
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    of_discriminator, of_generator = EXPECTED[name]
    assert losses.discriminator_loss(name, real, fake).item() == pytest.approx(
        sum(of_discriminator(*p) for p in PAIRS) / 3, abs=1e-6
    )
    assert losses.generator_loss(name, real, fake).item() == pytest.approx(
        sum(of_generator(*p) for p in PAIRS) / 3, abs=1e-6
    )


def test_minimax_is_worth_minus_log_4_where_the_discriminator_cannot_tell():
    """Goodfellow et al. 2014, theorem 1: V = -loss = -log 4 at D = 1/2; the generator's half of V is then -log 2."""
    zero = torch.zeros(5)
    assert -losses.discriminator_loss("minimax", zero, zero).item() == pytest.approx(-math.log(4))
    assert losses.generator_loss("minimax", zero, zero).item() == pytest.approx(-math.log(2))


def test_the_optimal_discriminator_is_the_ratio_of_densities():
    """Proposition 1: D* = p / (p + q), found by descent for ten real and ten fake draws of three points."""
    real, fake = torch.tensor([0] * 5 + [1] * 3 + [2] * 2), torch.tensor([0] * 1 + [1] * 3 + [2] * 6)
    logits = torch.zeros(3, requires_grad=True)
    for _ in range(200):
        loss = losses.discriminator_loss("minimax", logits[real], logits[fake])
        logits.data -= 2 * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(torch.sigmoid(logits.detach()), torch.tensor([5 / 6, 3 / 6, 2 / 8]), atol=1e-4, rtol=0)


def test_minimax_generator_saturates_and_non_saturating_does_not():
    """Section 3: where the discriminator is sure (C = -12) only one of them has a gradient left."""
    gradients = {}
    for name in ("minimax", "non_saturating"):
        fake = torch.tensor([-12.0], requires_grad=True)
        losses.generator_loss(name, fake, fake).backward()
        gradients[name] = fake.grad.item()
    assert gradients["minimax"] == pytest.approx(0, abs=1e-5)
    assert gradients["non_saturating"] == pytest.approx(-1, abs=1e-5)


def test_relativistic_ignores_what_both_logits_share():
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    a, b = (losses.discriminator_loss("relativistic", real + shift, fake + shift) for shift in (0, 7))
    torch.testing.assert_close(a, b)


# Penalties


def test_penalties_of_a_linear_critic():
    """C(x) = w . x has the gradient w everywhere: R1 = R2 = |w|^2, and the gradient penalty is (|w| - 1)^2."""
    weight = torch.randn(1, 2, 3, 4, requires_grad=True)
    critic = lambda x: (x * weight).sum((1, 2, 3))  # noqa: E731
    real, fake = torch.randn(5, 2, 3, 4), torch.randn(5, 2, 3, 4)
    square = weight.detach().square().sum()
    torch.testing.assert_close(losses.squared_gradient(critic, real), square.expand(5))
    torch.testing.assert_close(losses.zero_centred(critic, fake), square)
    penalty = losses.one_centred(critic, real, fake)
    torch.testing.assert_close(penalty, (square.sqrt() - 1).square())
    (gradient,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(gradient, (2 * (1 - 1 / square.sqrt()) * weight).detach())
    (gradient,) = torch.autograd.grad(losses.zero_centred(critic, real), weight)
    torch.testing.assert_close(gradient, 2 * weight.detach())


def test_gp_is_taken_between_real_and_fake():
    """C(x) = x^2 / 2 has the gradient x: from the points' norms one sees where they lie."""
    seen = []
    critic = lambda x: (seen.append(x), x.square().sum((1, 2, 3)) / 2)[1]  # noqa: E731
    real, fake = torch.ones(400, 1, 1, 1), torch.full((400, 1, 1, 1), 3.0)
    penalty = losses.one_centred(critic, real, fake)
    assert seen[0].min() >= 1
    assert seen[0].max() <= 3
    assert seen[0].mean().item() == pytest.approx(2, abs=0.15)
    torch.testing.assert_close(penalty, (seen[0] - 1).square().mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["r1", "r1_r2", "gp"])
def test_the_models_penalty_is_weighted(name):
    model = make(penalty=name, penalty_weight=4.0)
    torch.manual_seed(3)
    parts = model.discriminator_loss(batch())
    weighted = 4 * parts["gp"] if name == "gp" else 2 * sum(parts[key] for key in ("r1", "r2") if key in parts)
    torch.testing.assert_close(parts["loss"], parts["adversarial"] + weighted)
    assert ("r2" in parts) == (name == "r1_r2")


def test_penalties_fit_the_loss_unless_told():
    assert [make(loss=loss).config.used_penalty for loss in LOSSES] == ["r1", "r1", "r1", "gp", "r1_r2"]
    assert make(loss="wasserstein").config.used_weight == 10
    assert make().config.used_weight == 1
    assert make().config.loss == "non_saturating"
    assert make(penalty="r1_r2", penalty_weight=0.0).config.used_weight == 0


def test_a_lazy_penalty_is_a_phase_as_many_times_as_heavy():
    eager, lazy = make(penalty="r1"), make(penalty="r1", penalty_interval=4)
    assert [phase.name for phase in eager.phases()] == ["discriminator", "generator"]
    assert [(p.name, p.interval, p.trains, p.ema) for p in lazy.phases()] == [
        ("discriminator", 1, ("discriminator",), False),
        ("penalty", 4, ("discriminator",), False),
        ("generator", 1, ("generator",), True),
    ]
    assert "r1" not in lazy.discriminator_loss(batch())
    once, four_times = eager.discriminator_loss(batch()), lazy.penalty(batch())
    torch.testing.assert_close(four_times["r1"], once["r1"])
    torch.testing.assert_close(four_times["loss"], 4 * (once["loss"] - once["adversarial"]))
    assert len(make(penalty="none", penalty_interval=4).phases()) == 2


@pytest.mark.parametrize("loss", LOSSES)
def test_penalties_and_losses_are_float32_under_autocast(loss):
    model = make(loss=loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = model.discriminator_loss(batch()) | model.generator_loss(batch())
        penalty = model.penalty(batch())["loss"]
    assert {value.dtype for value in [*parts.values(), penalty]} == {torch.float32}
    if loss != "wasserstein":  # R1 at real images has nothing random in it
        torch.testing.assert_close(losses.zero_centred(model.discriminator, batch().x), model.penalty(batch())["r1"])
