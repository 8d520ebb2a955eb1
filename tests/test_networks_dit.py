"""The transformer against the paper (Peebles & Xie 2023) and torch's own parts; the network of vectors."""

from __future__ import annotations

import math

import pytest
import torch
from genhub_networks import MLP, DiT, UNet1d
from genhub_networks.dit import Attention, from_patches, positions, to_patches
from genhub_networks.times import time_features
from parts import Asked, built, conditions, modalities
from torch import nn

from genhub import Conditioner, Given, folded, unfolded


def fresh(shape, parts=(), **keys):
    """Return a network as it is drawn, and its conditioner."""
    torch.manual_seed(0)
    config = DiT.Config(**{"hidden_size": 32, "depth": 2} | keys)
    conditioner = Conditioner(modalities(*parts), shape, config.width, config.takes)
    return DiT(config, shape, conditioner), conditioner


def test_the_papers_size():
    """Table 1: DiT-S/2 on 32x32x4 latents has 33 M weights, the 0.1 M fixed positions counted in."""
    with torch.device("meta"):
        config = DiT.Config(hidden_size=384, depth=12, num_heads=6, patch_size=2)
        conditioner = Conditioner({"label": Asked(shape=(), number=1000)}, (4, 32, 32), config.width, config.takes)
        network = DiT(config, (4, 32, 32), conditioner, 8)
    weights = sum(weight.numel() for module in (network, conditioner) for weight in module.parameters())
    assert weights + network.positions.numel() == pytest.approx(32.96e6, rel=0.001)


def test_it_starts_as_zero_and_its_blocks_as_the_identity():
    network, conditioner = fresh((1, 8, 8), ("vector", "sequence"))
    given, t = conditioner(conditions(modalities("vector", "sequence"), 2)), torch.tensor([1.0, 900.0])
    assert not network(torch.randn(2, 1, 8, 8), t, given).any()
    tokens = torch.randn(2, 16, 32)
    assert torch.equal(network.blocks[0](tokens, torch.randn(2, 32), given.sequence, None), tokens)


@pytest.mark.parametrize(("sides", "patch"), [((12,), (3,)), ((8, 12), (2, 4)), ((4, 6, 8), (2, 3, 1))])
def test_patches_and_back(sides, patch):
    x = torch.randn(2, 3, *sides)
    patches = to_patches(x, patch)
    assert patches.shape == (2, math.prod(sides) // math.prod(patch), 3 * math.prod(patch))
    assert torch.equal(from_patches(patches, patch, sides), x)
    first = x[(slice(None), slice(None), *(slice(step) for step in patch))]
    assert torch.equal(patches[:, 0], first.flatten(1))


def test_patches_of_an_image_are_torchs():
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(to_patches(x, (2, 4)), nn.functional.unfold(x, (2, 4), stride=(2, 4)).transpose(1, 2))


def test_attention_is_torchs():
    torch.manual_seed(0)
    ours, theirs = Attention(24, 3), nn.MultiheadAttention(24, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.leave.state_dict())
    x, to, mask = torch.randn(2, 5, 24), torch.randn(2, 7, 24), torch.arange(7) < torch.tensor([[7], [3]])
    bias = torch.zeros(2, 7).masked_fill(~mask, -1e4)[:, None, None]
    expected = theirs(x, to, to, key_padding_mask=~mask, need_weights=False)[0]
    torch.testing.assert_close(ours(x, to, bias), expected, rtol=1e-4, atol=1e-5)


def test_positions_are_vaswanis_along_each_side():
    line = positions((5,), 8)
    angles = torch.arange(5.0)[:, None] / 10_000 ** (torch.arange(4) / 4)
    torch.testing.assert_close(line, torch.cat([angles.sin(), angles.cos()], 1))
    plane = positions((3, 4), 16).view(3, 4, 2, 8)  # (rows, columns, (of the row, of the column), features)
    assert torch.equal(plane[:, :, 0], positions((3,), 8)[:, None].expand(3, 4, 8))
    assert torch.equal(plane[:, :, 1], positions((4,), 8)[None].expand(3, 4, 8))


@pytest.mark.parametrize(("grid", "width"), [((7,), 6), ((4, 5), 24), ((2, 3, 4), 20), ((2, 2, 2), 6)])
def test_every_place_is_another(grid, width):
    places = positions(grid, width)
    assert places.shape == (math.prod(grid), width)
    assert torch.pdist(places).min() > 1e-3


def test_a_patch_is_known_by_its_place():
    network, _ = built(DiT, (1, 8, 8), hidden_size=32, depth=1)
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([100.0])
    moved = network(x.roll(2, 3), t, Given())
    assert not torch.allclose(moved, network(x, t, Given()).roll(2, 3), atol=1e-3)


def test_tokens_that_are_not_there_change_nothing():
    network, conditioner = built(DiT, (1, 8, 8), ("sequence",), hidden_size=32, depth=2)
    given = conditioner(conditions(modalities("sequence"), 2, present=False))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([10.0, 800.0])
    unseen, seen = given.sequence.clone(), given.sequence.clone()
    unseen[:, 1:] += 1
    seen[:, 0] += 1
    before = network(x, t, given)
    assert torch.equal(before, network(x, t, Given(sequence=unseen, mask=given.mask)))
    assert not torch.allclose(before, network(x, t, Given(sequence=seen, mask=given.mask)))
    assert network(x, t, Given(sequence=seen, mask=torch.zeros_like(given.mask))).isfinite().all()


# Signals


def test_a_signal_is_folded_and_back():
    x = torch.arange(24.0).view(1, 2, 12)
    assert folded(x, 3)[0, :, 0].tolist() == [0, 1, 2, 12, 13, 14]
    assert torch.equal(unfolded(folded(x, 3), 3), x)


@pytest.mark.parametrize(
    ("length", "patch"), [(1, 1), (512, 1), (516, 1), (520, 2), (1024, 2), (4096, 8), (16_000, 32), (3000, 2)]
)
def test_a_long_signal_is_folded_as_far_as_it_divides(length, patch):
    assert UNet1d.Config().patch(length) == patch
    assert UNet1d.Config(patch_size=3).patch(length) == 3


# Times


def test_features_of_one_time_are_diffusers():
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0.0, 0.5, 17.0, 1000.0])
    expected = get_timestep_embedding(t, 32, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(time_features(t, 32), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_several_times_share_the_features(k):
    t = torch.rand(5, k) * 1000
    features = time_features(t, 32)
    assert features.shape == (5, 32)
    for place in range(32):  # cosines, then sines, from the fastest to the slowest
        assert torch.equal(features[:, place], time_features(t[:, place % 16 % k], 32)[:, place])
    assert torch.equal(time_features(t[:, :1].expand(5, k), 32), time_features(t[:, 0], 32))


# What is learnt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "shape", "keys"),
    [
        (DiT, (1, 8), {"hidden_size": 32, "depth": 2}),
        (UNet1d, (1, 8), {"block_out_channels": (16, 16)}),
        (MLP, (8,), {"hidden": 32}),
    ],
)
def test_it_learns_what_it_is_told(cls, shape, keys):
    """x times the number given, and a sine of the time: none of it can be told from x."""
    network, conditioner = built(cls, shape, ("vector",), **keys)
    weights = [*network.parameters(), *conditioner.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=3e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(150):
        values = conditions(modalities("vector"), 64, seed=step)
        x, t = torch.randn(64, *shape, generator=generator), torch.rand(64, generator=generator) * 1000
        each = (-1, *[1] * len(shape))
        target = values.values["vector"][:, 0].view(each) + (t / 150).sin().view(each) + 0 * x
        loss = (network(x, t, conditioner(values)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])


@pytest.mark.slow
def test_vectors_of_a_checkerboard():
    """A straight flow (Liu et al. 2023) of 5,000 steps by the default network: most of what it draws is on the dark squares,
    where half of a uniform plane would be."""
    torch.manual_seed(0)
    network = MLP(MLP.Config(), (2,), Conditioner({}, (2,), 64, frozenset()))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5000)
    for _ in range(5000):
        row = torch.randint(4, (256,))
        corner = torch.stack([row, 2 * torch.randint(2, (256,)) + row % 2], 1)
        x, noise, t = (corner + torch.rand(256, 2) - 2) / 1.15, torch.randn(256, 2), torch.rand(256, 1)
        loss = (network((1 - t) * x + t * noise, 1000 * t, Given()) - (noise - x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x = torch.randn(10_000, 2)
    with torch.inference_mode():
        for step in range(100):
            x = x - network(x, torch.full((len(x),), 1000 - 10 * step), Given()) / 100
    square = (1.15 * x + 2).floor()
    dark = (square.sum(1) % 2 == 0) & (square >= 0).all(1) & (square < 4).all(1)
    assert dark.float().mean() > 0.88
