"""Installed beside genhub, so that its name is registered: pip install . && pytest"""

from __future__ import annotations

import pytest
import torch
from genhub_realnvp import RealNVP
from pydantic import ValidationError

import genhub


def make(shape=(1, 8, 8), moved: bool = True, **keys) -> RealNVP:
    torch.manual_seed(0)
    data = {"target": {"modality": "image", "shape": shape}}
    values = {"name": "realnvp", "data": data, "hidden_features": 16, **keys}
    model = RealNVP(RealNVP.Config.model_validate(values)).eval()
    for parameter in model.parameters() if moved else ():  # from the identity, which it starts as
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 4), (1, 1, 2)])
def test_the_flow_goes_both_ways_and_knows_its_determinant(shape):
    model = make(shape)
    flow, y = model.flow.double(), torch.randn(2, shape[0] * shape[1] * shape[2], dtype=torch.float64)
    z, log_determinant = flow(y.float().double())
    assert (z - y).abs().max() > 0.1
    torch.testing.assert_close(flow.inverse(z), y, atol=1e-4, rtol=1e-4)
    jacobian = torch.autograd.functional.jacobian(lambda one: flow(one[None])[0][0], y[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_determinant[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("levels", [256, 17])
def test_all_256_values_of_a_pixel_have_the_probability_of_their_bins_together(levels):
    """An untrained flow is the identity, so y = logit(0.05 + 0.9 u) is standard normal."""
    model = make((1, 1, 1), moved=False, levels=levels)
    values = (torch.arange(256) / 127.5 - 1).view(256, 1, 1, 1)
    total = torch.stack([2 ** -model.bits_per_dimension(genhub.Batch(values)) for _ in range(20)]).mean(0).sum()
    first = model.to_unit(values[0]) - (levels - 1) / levels / 255 / 2  # where the bin of value 0 begins
    ends = torch.cat([first, 1 - first]).flatten()
    expected = torch.special.ndtr(torch.logit(0.05 + 0.9 * ends)).diff()
    torch.testing.assert_close(total, expected[0], atol=1e-3, rtol=0)


def test_bits_of_fewer_levels_and_the_samples_range():
    model = make(levels=17)
    assert isinstance(model, genhub.Likelihood)
    assert not isinstance(model, genhub.Autoencoder | genhub.Denoiser)
    images = torch.randint(17, (6, 1, 8, 8)) / 8 - 1
    quiet = torch.zeros_like(images)
    difference = model.bits(images, quiet, 256) - model.bits(images, quiet, 17)
    torch.testing.assert_close(
        difference, torch.full((6,), 255 / 16).log2(), atol=1e-4, rtol=0
    )  # 8-bit bins are so much narrower
    torch.testing.assert_close(model.from_unit(model.to_unit(images)), images)
    cold, warm = (model.sample(50, temperature=t, generator=torch.Generator().manual_seed(0)) for t in (0.1, 1.0))
    assert cold.std(0).mean() < warm.std(0).mean()
    assert warm.abs().max() <= 1


def test_what_it_can_not_draw_is_refused():
    with pytest.raises(ValidationError, match="conditions: realnvp is given nothing"):
        RealNVP.Config(conditions=["label"])
    with pytest.raises(ValidationError, match="realnvp draws images of discrete values, not a vector"):
        RealNVP.Config(data={"target": {"modality": "vector", "shape": [2], "mean": [0, 0], "std": [1, 1]}})
