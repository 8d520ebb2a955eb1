"""R3GAN's networks: their formula, their start, any number of sides, and what they are refused for."""

from __future__ import annotations

import math

import pytest
import torch
from genhub_gan import GAN, ConditionalGAN
from genhub_gan.blocks import Basis, InvertedBlock, Reading
from made_columns import LABEL, TARGETS, batch, columns, image
from torch.nn.functional import conv2d, leaky_relu

import genhub

R3GAN = {"architecture": "r3gan", "channels": [8, 16]}
SMALL = {"latent_dim": 4, "generator": R3GAN, "discriminator": R3GAN, "loss": "relativistic"}
WITH_SIDES = [name for name in TARGETS if name != "vector"]


def make(target, cls=GAN, **keys):
    torch.manual_seed(0)
    return cls(
        cls.Config.model_validate({**columns(TARGETS[target] if isinstance(target, str) else target), **SMALL, **keys})
    )


def test_a_block_is_its_formula():
    """x + W3 act(W2 * act(W1 x)): W1 and W3 of 1x1, W2 of 3x3 in groups of 16 channels."""
    torch.manual_seed(0)
    block, x = InvertedBlock(2, 16, depth=4), torch.randn(2, 16, 5, 6)
    torch.nn.init.normal_(block.narrow.weight)
    assert block.widen.weight.shape == (32, 16, 1, 1)
    assert block.mix.weight.shape == (32, 16, 3, 3)
    assert block.narrow.weight.shape == (16, 32, 1, 1)
    wide = leaky_relu(conv2d(x, block.widen.weight), 0.2)
    halves = [
        conv2d(part, weight, padding=1) for part, weight in zip(wide.chunk(2, 1), block.mix.weight.chunk(2), strict=True)
    ]
    expected = x + conv2d(leaky_relu(torch.cat(halves, 1), 0.2), block.narrow.weight)
    torch.testing.assert_close(block(x), expected)


def test_fix_up_initialisation():
    """Zhang et al. 2019: the last layer zero, the m - 1 others smaller by L^(-1 / (2m - 2)), of m = 3 layers and L blocks."""
    shallow, deep = (InvertedBlock(2, 256, depth=depth) for depth in (1, 16))
    x = torch.randn(2, 256, 4, 4)
    assert torch.equal(deep(x), x)
    for name, fan_in in (("widen", 256), ("mix", 16 * 9)):
        std = math.sqrt(2 / (1 + 0.2**2) / fan_in)  # He et al. 2015, eq. 15
        stds = [getattr(block, name).weight.std().item() for block in (shallow, deep)]
        assert stds == pytest.approx([std, std / 2], rel=0.03), name  # 16^(-1/4)


def test_the_first_layer_of_one_network_is_the_last_of_the_other_turned_round():
    basis, reading = Basis(3, (2, 5)), Reading(3, (2, 5))
    numbers = torch.randn(4, 3)
    x = basis(numbers)
    assert x.shape == (4, 3, 2, 5)
    assert torch.equal(x[1, 2], numbers[1, 2] * basis.weight[2])
    reading.weight.data = basis.weight.data.flatten(1)
    torch.testing.assert_close(reading(x.flatten(1)), numbers * basis.weight.square().sum((1, 2)))


@pytest.mark.parametrize("target", WITH_SIDES)
def test_it_draws_whatever_has_sides(target):
    model = make(target)
    rows = batch(model)
    for phase in model.phases():
        model(rows, phase.name)["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    drawn = model.eval().sample(3, generator=[torch.Generator().manual_seed(i) for i in range(3)])
    assert drawn.shape == (3, *model.shape)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3


def test_it_is_told_a_label():
    model = make("image", ConditionalGAN, **columns(TARGETS["image"], label=LABEL))
    rows = batch(model)
    model(rows, "discriminator")["loss"].backward()
    others = genhub.Conditions({"label": (rows.conditions.values["label"] + 1) % 3}, rows.conditions.present)
    assert not torch.equal(model.discriminator(rows.x, others), model.discriminator(rows.x, rows.conditions))


def test_it_has_a_third_of_the_numbers():
    """A block of c channels has 4c^2 + 288c weights, a plain one 18c^2; the first and last layers have 1 for each 2c there."""
    plain, r3gan = (
        GAN(GAN.Config.model_validate({**columns(image(3, 32, 32)), "generator": keys, "discriminator": keys}))
        for keys in ({"channels": [64, 128, 256]}, {"channels": [64, 128, 256], "architecture": "r3gan"})
    )
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert 3 * count(r3gan) < count(plain)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (columns(TARGETS["vector"]), "generator.architecture: r3gan is for x that has sides"),
        ({"generator": R3GAN | {"channels": [8, 12]}}, "generator.channels: 12 does not divide by 8, .*; 16 does"),
        ({"discriminator": {"architecture": "r3gam"}}, "discriminator.architecture"),
    ],
)
def test_options_are_checked(keys, message):
    with pytest.raises(ValueError, match=message):
        make("image", **keys)
