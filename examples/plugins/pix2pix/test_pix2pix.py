"""Installed beside genhub, so that its name is registered: pip install . && pytest"""

from __future__ import annotations

import pytest
import torch
from genhub_pix2pix import Pix2Pix
from pydantic import ValidationError
from torch.nn.functional import avg_pool2d, interpolate

import genhub
from genhub.testing import check_model

SOURCE = {"modality": "image", "shape": (1, 4, 4)}


def make(shape=(1, 8, 8), conditions=None, **keys) -> Pix2Pix:
    torch.manual_seed(0)
    given = {"source": SOURCE} if conditions is None else conditions
    data = {"target": {"modality": "image", "shape": shape}, "conditions": given}
    small = {"generator_channels": [8, 8], "discriminator_channels": [8, 8]}
    values = {"name": "pix2pix", "conditions": list(given), "data": data, **small, **keys}
    return Pix2Pix(Pix2Pix.Config.model_validate(values))


def batch(n: int = 4, shape=(1, 8, 8)) -> genhub.Batch:
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return genhub.Batch(x, sources(avg_pool2d(x[:, :1], 2)))


def sources(images: torch.Tensor) -> genhub.Conditions:
    return genhub.Conditions({"source": images}, {"source": torch.ones(len(images), dtype=torch.bool)})


def test_the_losses_are_the_papers():
    """Eq. 1 and 4, for networks whose answers are known."""
    model, pairs = make(l1_weight=3.0), batch()
    model.generator.forward = lambda noise, given: torch.full((4, 1, 8, 8), 0.5, requires_grad=True)
    model.discriminator.forward = lambda x, given: x.mean((1, 2, 3)).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    real, fake = pairs.x.mean((1, 2, 3)).sigmoid(), torch.tensor(0.5).sigmoid()
    found = model.discriminator_loss(pairs)
    assert found["loss"].item() == pytest.approx((-real.log().mean() - (1 - fake).log()).item(), rel=1e-5)
    found, l1 = model.generator_loss(pairs), (pairs.x - 0.5).abs().mean()
    assert found["loss"].item() == pytest.approx((-fake.log() + 3 * l1).item(), rel=1e-5)


def test_each_phase_reaches_its_own_network():
    for phase, own in [("discriminator", "discriminator"), ("generator", "generator")]:
        model = make()
        other = model.discriminator if own == "generator" else model.generator
        other.requires_grad_(False)
        model(batch(), phase)["loss"].backward()
        assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {own}
        assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith(own))


def test_the_discriminator_judges_patches_and_sees_the_source():
    model, pairs = make((3, 12, 20)).eval(), batch(2, (3, 12, 20))
    logits = model.discriminator(pairs.x, pairs.conditions)
    assert logits.shape == (2, 1, 6, 10)
    swapped = pairs.conditions.rows(torch.tensor([1, 0]))
    assert (model.discriminator(pairs.x, swapped) - logits).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 5), (2, 9, 33)])
def test_what_is_drawn_is_the_sources_and_the_noises(shape):
    model, pairs = make(shape).eval(), batch(2, shape)

    def draw(given, seed=0):
        return model.sample(2, conditions=given, generator=torch.Generator().manual_seed(seed))

    drawn = draw(pairs.conditions)
    assert drawn.shape == (2, *shape)
    assert torch.equal(drawn, draw(pairs.conditions))
    assert (drawn - draw(pairs.conditions.rows(torch.tensor([1, 0])))).abs().max() > 1e-3
    assert (drawn - draw(pairs.conditions, 1)).abs().max() > 1e-4
    assert (drawn - draw(None)).abs().max() > 1e-4  # no source at all


def test_it_learns_pairs():
    """That x is its source, enlarged, where more is not to be known: half of the error is gone in a few steps."""
    model = make(l1_weight=10.0)
    networks = {phase.name: getattr(model, phase.trains[0]) for phase in model.phases()}
    optimizers = {name: torch.optim.Adam(network.parameters(), 2e-3) for name, network in networks.items()}
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(60):
        source = torch.rand(32, 1, 4, 4, generator=generator) * 2 - 1
        pairs = genhub.Batch(interpolate(source, scale_factor=2, mode="nearest"), sources(source))
        for name, optimizer in optimizers.items():
            optimizer.zero_grad()
            losses = model(pairs, name)
            losses["loss"].backward()
            optimizer.step()
        errors.append(losses["l1"].item())
    assert errors[-1] < 0.5 * errors[0]


def test_what_it_can_not_do_is_refused():
    with pytest.raises(ValidationError, match="conditions"):
        Pix2Pix.Config(conditions=[])
    signal = {"modality": "signal", "shape": (1, 16), "mean": [0], "std": [1]}
    with pytest.raises(ValidationError, match="pix2pix draws images, of 2 sides, not 1"):
        Pix2Pix.Config(conditions=["source"], data={"target": signal, "conditions": {"source": SOURCE}})
    with pytest.raises(genhub.RecipeError, match="conditions: label"):
        make(conditions={"label": {"modality": "label", "number": 10}})


def test_it_keeps_the_contract_of_a_model():
    data = genhub.ModelData.model_validate(
        {"target": {"modality": "image", "shape": (1, 8, 8)}, "conditions": {"source": SOURCE}}
    )
    check_model(Pix2Pix, {"generator_channels": [8, 8], "discriminator_channels": [8, 8]}, data=data)
