"""Adaptive augmentation: what it does to x, how p follows the discriminator, and what it is refused for."""

from __future__ import annotations

import pytest
import torch
from genhub_gan import GAN, ConditionalGAN
from genhub_gan.augment import AdaptiveAugment, resampled
from genhub_gan.config import AugmentConfig
from made_columns import LABEL, TARGETS, batch, columns, image
from test_trainer import same_bits

import genhub

NETWORK = {"channels": [4, 8]}
SMALL = {"latent_dim": 4, "generator": NETWORK, "discriminator": NETWORK, "augment": {}}
WITH_SIDES = [name for name in TARGETS if name != "vector"]


def make(target="image", cls=GAN, **keys):
    torch.manual_seed(0)
    return cls(cls.Config.model_validate({**columns(TARGETS[target]), **SMALL, **keys}))


def augment(p: float) -> AdaptiveAugment:
    module = AdaptiveAugment(AugmentConfig())
    module.p.fill_(p)
    return module


# What it does to x


@pytest.mark.parametrize(
    ("scale", "shift", "expected"),
    [
        (1, 0, [0, 1, 2, 3, 4]),
        (-1, 0, [4, 3, 2, 1, 0]),
        (1, 2, [1, 0, 0, 1, 2]),  # a mirror behind the end
        (1, -1, [1, 2, 3, 4, 4]),
        (-1, 1, [4, 4, 3, 2, 1]),  # mirrored, then shifted
        (2, 0, [1, 1.5, 2, 2.5, 3]),
        (0.5, 0, [1, 0, 2, 4, 3]),  # twice as much of it: the middle, and both ends mirrored
    ],
)
def test_a_side_is_resampled(scale, shift, expected):
    x = torch.stack([torch.arange(5.0), torch.ones(5), -torch.arange(5.0)]).view(1, 3, 1, 5)
    wanted = torch.tensor(expected, dtype=torch.float32)
    changed = resampled(x, torch.tensor([float(scale)]), torch.tensor([float(shift)]))
    torch.testing.assert_close(changed, torch.stack([wanted, torch.ones(5), -wanted]).view(1, 3, 1, 5))


def test_rows_are_resampled_apart_and_have_second_derivatives():
    torch.manual_seed(0)
    x = torch.randn(3, 2, 7, dtype=torch.float64, requires_grad=True)
    scale, shift = torch.tensor([1.0, -0.7, 1.3], dtype=torch.float64), torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    together = resampled(x, scale, shift)
    for row in range(3):
        assert torch.equal(together[row], resampled(x[row : row + 1], scale[row : row + 1], shift[row : row + 1])[0])
    assert torch.autograd.gradgradcheck(lambda x: resampled(x, scale, shift) ** 2, x)


@pytest.mark.parametrize("target", WITH_SIDES)
def test_at_p_0_nothing_is_changed(target):
    x = torch.randn(7, *TARGETS[target]["shape"])
    assert torch.equal(augment(0)(x), x)


@pytest.mark.parametrize("target", WITH_SIDES)
def test_at_p_1_everything_is(target):
    x = torch.randn(200, *TARGETS[target]["shape"])
    changed = augment(1)(x)
    assert changed.shape == x.shape
    assert ((changed - x).flatten(1).abs().amax(1) > 1e-3).all()


def test_each_change_is_made_to_a_share_p_of_the_elements():
    """A constant picture shows brightness and contrast alone: it is left as it is with probability (1 - p)^2."""
    changed = augment(0.3)(torch.full((40_000, 1, 2, 2), 0.5))
    assert (changed.flatten(1).std(1) < 1e-6).all()
    untouched = (changed[:, 0, 0, 0] == 0.5).float().mean().item()
    assert untouched == pytest.approx(0.7**2, abs=0.01)
    brightness = augment(1)(torch.zeros(40_000, 1, 1, 1))
    assert brightness.std().item() == pytest.approx(0.2, rel=0.02)
    assert brightness.mean().item() == pytest.approx(0, abs=0.005)


def test_all_shifts_flips_and_channels_go_together():
    """Both channels of an element are moved alike, and every element by itself."""
    x = torch.rand(50, 1, 8, 8).expand(-1, 2, -1, -1)
    changed = augment(1)(x)
    assert torch.equal(changed[:, 0], changed[:, 1])
    same = augment(1)(x[:1].expand(50, -1, -1, -1))
    assert len({tuple(element.flatten().tolist()) for element in same}) == 50


def test_gradients_flow_to_what_is_changed():
    x = torch.randn(5, 1, 8, 8, requires_grad=True)
    augment(1)(x).square().sum().backward()
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


# How p follows the discriminator


def fed(target: float, share: float, steps: int, ramp_rows: int = 1000) -> AdaptiveAugment:
    """An augmentation that has seen steps of ten pairs of which so large a share was told apart."""
    module = AdaptiveAugment(AugmentConfig(target=target, ramp_rows=ramp_rows))
    right = torch.arange(10) < 10 * share
    for step in range(steps):
        module.see(torch.where(right, 1.0, -1.0) - 7, torch.zeros(10) - 7)  # whatever a constant in both: -7
        module.adapt(step)
    return module


def test_p_rises_with_overfitting_and_falls_without():
    """r_t = 2 * share - 1. Every fourth step moves p by the rows of four steps over ramp_rows."""
    assert fed(0.6, 0.9, 3).p == 0
    assert fed(0.6, 0.9, 4).p.item() == pytest.approx(0.04)
    assert fed(0.6, 0.9, 12).p.item() == pytest.approx(0.12)
    assert fed(0.6, 0.7, 12).p == 0  # r_t = 0.4: below its target, and p at its end
    assert fed(0.3, 0.7, 12).p.item() == pytest.approx(0.12)
    assert fed(0.6, 1.0, 400).p.item() == pytest.approx(0.8)  # no further: what is drawn would be augmented
    module = fed(0.6, 1.0, 12)
    for step in range(12, 16):
        module.see(torch.zeros(10), torch.ones(10))
        module.adapt(step)
    assert module.p.item() == pytest.approx(0.08)


@pytest.mark.parametrize("loss", ["non_saturating", "relativistic", "wasserstein"])
def test_the_discriminator_moves_it_and_sees_changed_x(loss):
    model = make(loss=loss, augment={"target": 0.0, "ramp_rows": 100})
    seen = []
    model.discriminator.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    rows = batch(model)
    for step in range(4):
        losses = model(rows, "discriminator")
        model.after_update(step)
    assert losses["augment_p"] == 0
    assert any(torch.equal(x, rows.x) for x in seen)
    model.augment.p.fill_(0.8)
    seen.clear()
    assert model(rows, "discriminator")["augment_p"].item() == pytest.approx(0.8)
    model(rows, "generator")
    assert not any(torch.equal(x, rows.x) for x in seen)


def test_in_eval_mode_nothing_is_counted():
    model = make().eval()
    model(batch(model), "discriminator")
    assert (model.augment.signs == 0).all()


@pytest.mark.slow
def test_resume_is_exact(tiny, tmp_path):
    """At step 7, between two changes of p; with R3GAN's networks, too."""
    networks = {name: NETWORK | {"channels": [8], "architecture": "r3gan"} for name in ("generator", "discriminator")}
    tiny["model"] = {"name": "gan", **SMALL, **networks, "augment": {"target": 0.0, "ramp_rows": 100}, "penalty_interval": 2}
    tiny["trainer"] |= {"optimizers": {"discriminator": {"lr": 0.02}}, "max_steps": 12}  # it learns more than the generator
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=7"], run_dir=str(tmp_path / "parts"))
    same_bits(whole, genhub.train(tiny, run_dir=str(tmp_path / "parts")))
    assert genhub.load(whole).augment.p > 0


# What it is refused for


def test_vectors_have_no_sides_to_move():
    with pytest.raises(ValueError, match="augment: moves x along its sides, and a vector has none; leave it out"):
        make("vector")


def test_pictures_beside_x_would_stay_where_they_are():
    with pytest.raises(genhub.RecipeError, match=r"model\.augment: moves x and not the images beside it"):
        make(cls=ConditionalGAN, **columns(TARGETS["image"], label=LABEL, source=image(1, 4, 4)))
    assert make(cls=ConditionalGAN, **columns(TARGETS["image"], label=LABEL)).augment
