"""The density of a flow by the change of variables, held against distributions whose density is known."""

from __future__ import annotations

import math

import pytest
import torch
from genhub_flow.likelihood import log_prob, unit_vectors
from test_flow import UNET, Knowing, make

import genhub
from genhub import Batch, Conditions, Image, Label, Vector


def bits_of_normal(x: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    nats = 0.5 * (((x - mean) / std).square() + math.log(2 * math.pi)) + math.log(std)
    return nats.flatten(1).mean(1) / math.log(2)


@pytest.mark.parametrize(
    ("keys", "mean", "std"),
    [({}, 0.3, 0.5), pytest.param({"preconditioning": "edm"}, -1.0, 0.05, marks=pytest.mark.slow)],
)
def test_the_density_of_a_normal_distribution_is_exact(keys, mean, std):
    """Row by row, and in the column's units: numbers four times as far apart need two bits more each."""
    x = mean + std * torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    model = make(Vector(shape=(2,), mean=(0.0, 0.0), std=(2.0, 8.0)), **keys)
    model.network = Knowing(model, mean, std)
    assert isinstance(model, genhub.Likelihood)
    bits = model.bits_per_dimension(Batch(x))
    torch.testing.assert_close(bits, bits_of_normal(x, mean, std) + 2, atol=0.02, rtol=0)


def test_more_numbers_are_estimated_and_right_on_average():
    """Of a linear velocity with coupled numbers, v = A x: log p(x) is known, and random signs see A's trace with some noise."""
    size, x = 20, torch.randn(4000, 20, generator=torch.Generator().manual_seed(0))
    matrix = 0.3 * torch.randn(size, size, generator=torch.Generator().manual_seed(1)) / math.sqrt(size)
    velocity = lambda x, s: x @ matrix.T  # noqa: E731
    noise = x @ torch.matrix_exp(matrix).T
    expected = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(1) + matrix.trace()
    torch.testing.assert_close(log_prob(velocity, x[:8], unit_vectors(x[:8])), expected[:8], atol=1e-4, rtol=1e-5)
    signs = torch.randn(4000, size, generator=torch.Generator().manual_seed(2)).sign()
    estimates = log_prob(velocity, x, [signs]) - expected
    assert estimates.std() > 0.01
    assert estimates.mean().abs() < 4 * estimates.std() / math.sqrt(4000)


def test_images_have_the_probability_of_their_levels():
    """An 8-bit image of N(0, 0.3^2) in [-1, 1] needs the density's bits and those of a level's width, 2 / 255."""
    image = (0.3 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    image = (image * 127.5 + 127.5).round() / 127.5 - 1
    model = make()
    model.network = Knowing(model, 0.0, 0.3)
    bits = model.bits_per_dimension(Batch(image), generator=torch.Generator().manual_seed(1))
    expected = bits_of_normal(image, 0.0, 0.3) - math.log2(2 / 255)
    torch.testing.assert_close(bits.mean(), expected.mean(), atol=5e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", [UNET | {"add_attention": True}, {"name": "dit", "hidden_size": 16, "depth": 1, "num_heads": 2}]
)
def test_bits_are_the_generators_alone_under_inference_mode(network):
    model = make(Image(shape=(1, 8, 8)), {"label": Label(number=3)}, network=network)
    with torch.inference_mode():
        x = torch.rand(3, 1, 8, 8)
        told = Conditions({"label": torch.tensor([0, 1, 2])}, {"label": torch.tensor([True, True, False])})
        generators = lambda: [torch.Generator().manual_seed(row) for row in range(3)]  # noqa: E731
        bits = model.bits_per_dimension(Batch(x, told), generator=generators())
        assert torch.equal(bits, model.bits_per_dimension(Batch(x, told), generator=generators()))
        alone = model.bits_per_dimension(Batch(x[1:2], told.rows(slice(1, 2))), generator=generators()[1:2])
    assert bits.isfinite().all()
    torch.testing.assert_close(alone, bits[1:2], atol=1e-4, rtol=1e-4)
