"""The flows: exact inverses and determinants, densities that are right, and what they draw and are given."""

from __future__ import annotations

import math

import pytest
import torch
from genhub_nf import RealNVP, TarFlow
from made_columns import LABEL, NUMBER, TARGETS, batch, columns, conditions, image, signal, vector
from pydantic import ValidationError

import genhub
from genhub import Batch, Conditions

MANY = {"label": LABEL, "ink": NUMBER, "point": vector(2), "source": image(1, 4, 4)}
SMALL = {
    RealNVP: {"hidden_features": 16},
    TarFlow: {"hidden_size": 8, "num_heads": 2, "num_blocks": 3, "layers_per_block": 1},
}
DRAWN = [(RealNVP, target) for target in TARGETS] + [(TarFlow, "image"), (TarFlow, "signal")]
"""Modalities of each shape that a flow draws."""


def make(cls, target, moved=0.2, given=None, **keys):
    """A flow moved away from the identity that it starts as."""
    torch.manual_seed(0)
    target = TARGETS[target] if isinstance(target, str) else target
    keys |= {"patch_size": 1 if target["shape"][-1] % 2 else 2} if cls is TarFlow and "patch_size" not in keys else {}
    model = cls(cls.Config.model_validate({**columns(target, **(given or {})), **SMALL[cls], **keys})).eval()
    for parameter in model.parameters():
        parameter.data += moved * torch.randn_like(parameter)
    return model


def seeds(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(n)]


# Inverses and determinants


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 4), (1, 1, 2), (2, 9), (2,), (5,), (1, 2, 3, 4)])
def test_realnvp_goes_both_ways_and_knows_its_determinant(shape):
    target = {"modality": "made_columns:Volume", "shape": shape}
    flow, y = make(RealNVP, target).flow.double(), torch.randn(2, math.prod(shape), dtype=torch.float64)
    z, log_determinant = flow(y)
    assert (z - y).abs().max() > 0.1
    torch.testing.assert_close(flow.inverse(z), y, atol=1e-4, rtol=1e-4)
    jacobian = torch.autograd.functional.jacobian(lambda one: flow(one[None])[0][0], y[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_determinant[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("shape", "halvings"), [((2,), 1), ((3,), 2), ((13,), 4)])
def test_every_number_of_a_vector_meets_every_other(shape, halvings):
    model = make(RealNVP, vector(*shape), num_couplings=2 * halvings)
    masks = torch.stack([layer.mask for layer in model.flow.layers])
    for first in range(*shape):
        for second in range(first):
            assert (masks[:, first] != masks[:, second]).any(), (first, second)


@pytest.mark.parametrize("target", [image(1, 4, 4), image(3, 4, 2), signal(2, 8)])
def test_tarflow_goes_both_ways_and_knows_its_determinant(target):
    """Token by token with a cache it undoes what it does to all at once, and log p is that of the change of variables."""
    model = make(TarFlow, target, noise_std=0.0, given=MANY).double()
    x = torch.randn(2, *model.shape, dtype=torch.float64) / 3
    given = model.conditioner.float()(conditions(model.conditions, 2)).each(torch.Tensor.double)

    def to_noise(x):
        tokens = model.tokens(x)
        for number, block in enumerate(model.flow):
            tokens = tokens.flip(1) if number % 2 else tokens
            tokens = block(tokens, given.each(lambda part: part[: len(x)]))[0]
            tokens = tokens.flip(1) if number % 2 else tokens
        return tokens

    z = to_noise(x)
    assert (z - model.tokens(x)).abs().max() > 0.1
    back = z
    for number, block in reversed(list(enumerate(model.flow))):
        back = back.flip(1) if number % 2 else back
        back = block.inverse(back, given, given, 1.0)
        back = back.flip(1) if number % 2 else back
    torch.testing.assert_close(model.untokened(back), x, atol=1e-5, rtol=1e-4)
    jacobian = torch.autograd.functional.jacobian(lambda one: to_noise(one[None]).flatten(), x[0]).flatten(1)
    prior = -0.5 * (z[0].square() + math.log(2 * math.pi)).sum()
    expected = prior + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(model.log_density(x, given)[0], expected, atol=1e-5, rtol=1e-5)


def test_a_token_of_tarflow_knows_those_before_it_alone():
    model = make(TarFlow, image(1, 4, 4))
    block, x = model.flow[0], torch.randn(1, 4, 4)
    jacobian = torch.autograd.functional.jacobian(lambda x: block(x, genhub.Given())[0], x)[0, :, :, 0]  # (4, 4, 4, 4)
    moves = jacobian.abs().sum((1, 3))
    assert (moves.triu(1) == 0).all()
    assert (moves.tril() > 0).sum() == 10


# Densities


@pytest.mark.parametrize("levels", [None, 17])
def test_all_256_values_of_a_pixel_have_the_probability_of_their_bins_together(levels):
    """An untrained flow is the identity, so y = logit(0.05 + 0.9 u) is standard normal."""
    model = make(RealNVP, image(1, 1, 1), moved=0.0, levels=levels)
    values = (torch.arange(256) / 127.5 - 1).view(256, 1, 1, 1)
    total = torch.stack([2 ** -model.bits_per_dimension(Batch(values)) for _ in range(20)]).mean(0).sum()
    levels = levels or 256
    first = model.bins.to_unit(values[0]) - (levels - 1) / levels / 255 / 2  # where the bin of value 0 begins
    ends = torch.cat([first, 1 - first]).flatten()
    expected = torch.special.ndtr(torch.logit(0.05 + 0.9 * ends)).diff()
    torch.testing.assert_close(total, expected[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("cls", [RealNVP, TarFlow])
def test_bits_of_a_continuous_column_are_in_its_own_units(cls):
    """Untrained, x is standard normal in a batch's units, of which one is 4 of the column's: h = log2(4 sqrt(2 pi e))."""
    model = make(cls, signal(1, 6, std=4.0), moved=0.0)
    x = torch.randn(20_000, 1, 6)
    expected = math.log2(4 * math.sqrt(2 * math.pi * math.e))
    assert model.bits_per_dimension(Batch(x)).mean().item() == pytest.approx(expected, abs=0.01)


def test_a_continuous_density_integrates_to_one():
    model = make(RealNVP, vector(2), num_couplings=4)
    ticks = torch.linspace(-12, 12, 600)
    energies = model.energy(torch.cartesian_prod(ticks, ticks))
    assert ((-energies).exp().sum() * (ticks[1] - ticks[0]) ** 2).item() == pytest.approx(1, abs=0.01)


def test_bits_per_dimension_of_tarflow_are_those_of_bins():
    """Untrained, x is standard normal, and each of 256 values has the mass of its bin, 2 / 255 wide."""
    model = make(TarFlow, image(1, 2, 2), moved=0.0)
    grey = torch.full((1, 1, 2, 2), 127 / 127.5 - 1)
    mass = torch.special.ndtr(grey + 1 / 255) - torch.special.ndtr(grey - 1 / 255)
    bits = model.bits_per_dimension(Batch(grey), generator=seeds(1))
    torch.testing.assert_close(bits, -mass.log2().mean()[None], atol=1e-3, rtol=0)


def test_with_fewer_levels_bins_are_wider():
    model = make(RealNVP, "image", levels=17)
    x = torch.randint(17, (6, 1, 8, 8)) / 8 - 1
    nats = torch.zeros(6)
    difference = model.bins.bits(nats, 64) - model.bins.trained_bits(nats, 64)
    torch.testing.assert_close(difference, torch.full((6,), 255 / 16).log2(), atol=1e-4, rtol=0)
    torch.testing.assert_close(model.bins.from_unit(model.bins.to_unit(x)), x)
    filled = torch.cat([model.bins.filled(x) for _ in range(100)])
    assert (filled - x.repeat(100, 1, 1, 1)).abs().max() == pytest.approx(1 / 16, abs=1e-3)


# Drawing


@pytest.mark.parametrize(("cls", "target"), DRAWN)
def test_it_draws_anything(cls, target):
    model = make(cls, target, moved=0.05)
    assert isinstance(model, genhub.Likelihood)
    assert isinstance(model, genhub.Energy)
    assert not isinstance(model, genhub.Autoencoder | genhub.Denoiser)
    with torch.inference_mode():
        drawn = model.sample(50, generator=seeds(50))
        alone = model.sample(1, generator=seeds(1))
    assert drawn.shape == (50, *model.shape)
    assert (drawn.abs().max() <= 1) == (target == "image")  # what has no bounds is not clipped
    torch.testing.assert_close(drawn[:1], alone, atol=1e-4, rtol=0)
    cold = model.sample(50, generator=seeds(50), temperature=0.1)
    assert cold.std(0).mean() < drawn.std(0).mean()


@pytest.mark.parametrize(("cls", "target"), DRAWN)
def test_it_is_given_anything(cls, target):
    """Every parameter has a gradient, whatever is missing, and each column changes density and drawings."""
    model = make(cls, target, given=MANY)
    rows = batch(model)
    for given in (rows.conditions, Conditions.nothing(model.conditions, 6)):
        model.zero_grad()
        model.loss(Batch(rows.x, given))["loss"].backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
    other = conditions(model.conditions, 6, seed=2)
    with torch.inference_mode():
        for name in MANY:
            changed = Conditions({**rows.conditions.values, name: other.values[name]}, rows.conditions.present)
            assert (model.energy(rows.x, rows.conditions) - model.energy(rows.x, changed)).abs().max() > 1e-3, name
            drawn, moved = (model.sample(6, conditions=given, generator=seeds(6)) for given in (rows.conditions, changed))
            assert (drawn - moved).abs().max() > 1e-5, name


def test_tarflow_s_guidance_exaggerates_and_its_step_denoises():
    """For the identity, x is standard normal: its score is -x, so noise of 0.5 is taken out as x - 0.25 x."""
    model = make(TarFlow, signal(1, 4), moved=0.0, noise_std=0.5)
    noisy, clean = (model.sample(3, generator=seeds(3), denoise=on) for on in (False, True))
    torch.testing.assert_close(clean, 0.75 * noisy)
    given = make(TarFlow, signal(1, 4), given={"label": LABEL}, num_blocks=1)
    asked = conditions(given.conditions, 3)
    none, one, two = (
        given.sample(3, conditions=asked, generator=seeds(3), guidance_scale=scale, denoise=False)[:, 0, :2]
        for scale in (0.0, 1.0, 2.0)
    )
    plain = given.sample(3, generator=seeds(3), denoise=False)[:, 0, :2]
    torch.testing.assert_close(none, plain)
    # z exp(alpha) + mu of the first token, where alpha and mu are on the line through theirs with and without the label
    z = given.tokens(torch.cat([torch.randn(1, 1, 4, generator=one) for one in seeds(3)]))[:, 0]
    with torch.no_grad():
        both = [
            given.flow[0].predicted(torch.zeros(3, 1, 2), given.conditioner(which))[:, 0].unbind(2)
            for which in (Conditions.nothing(given.conditions, 3), asked)
        ]
    alpha, mu = (torch.lerp(unasked, wanted, 2.0) for unasked, wanted in zip(*both, strict=True))
    torch.testing.assert_close(two, z * alpha.exp() + mu)
    assert not torch.allclose(one, two)


# Options


def test_what_it_can_not_draw_is_refused():
    for keys, message in (
        ({"levels": 300}, "levels: 300 are more than the 256 that the column can hold"),
        ({"patch_size": 3}, "patch_size: 3 does not divide the side 8; 2 does"),
        ({"hidden_size": 30}, "hidden_size: 30 does not divide by num_heads 4; 32 does"),
    ):
        with pytest.raises(ValidationError, match=message):
            TarFlow.Config.model_validate({**columns(TARGETS["image"]), **keys})
    with pytest.raises(ValidationError, match="tarflow is for images, signals and what else has sides; realnvp is for"):
        TarFlow.Config.model_validate(columns(vector(2)))
    with pytest.raises(ValidationError, match="levels: a vector has none, it is continuous; leave it out"):
        RealNVP.Config.model_validate({**columns(vector(2)), "levels": 4})


def test_keys_that_change_nothing_are_named():
    unused = TarFlow.Config(noise_std=0.0, sampling={"guidance_scale": 2.0, "denoise": False})
    assert unused.mistakes().keys() == {"sampling.guidance_scale", "sampling.denoise"}
    assert TarFlow.Config(levels=17).mistakes().keys() == {"levels"}
    assert TarFlow.Config(levels=17, noise_std=0.0, conditions=["label"]).mistakes() == {}
    assert make(TarFlow, "image", noise_std=0.0).unused_options({"denoise": True, "guidance_scale": 2.0}).keys() == {
        "denoise", "guidance_scale"}  # fmt: skip
