"""Both autoencoders copy and draw vectors, signals, images and volumes, given labels, numbers, vectors and images."""

from __future__ import annotations

import math

import pytest
import torch
from genhub_vae import VAE, Autoencoder
from made_columns import LABEL, NUMBER, TARGETS, batch, columns, conditions, image, vector
from test_trainer import same_bits
from torch import nn

import genhub

MANY = {"label": LABEL, "ink": NUMBER, "point": vector(2), "source": image(1, 4, 4)}
CLASSES = [VAE, Autoencoder]


def make(cls=VAE, target="image", given=None, **keys):
    torch.manual_seed(0)
    target = TARGETS[target] if isinstance(target, str) else target
    values = {**columns(target, **(given or {})), "channels": [4, 8], "latent_dim": 4, **keys}
    return cls(cls.Config.model_validate(values))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cls", CLASSES)
def test_it_copies_and_draws_anything(cls, target):
    model = make(cls, target)
    rows = batch(model)
    loss = model.loss(rows)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in model.parameters())
    latents = model.eval().encode(rows.x)
    assert latents.shape == (6, 4)
    assert model.decode(latents).shape == rows.x.shape
    assert model.sample(3).shape == (3, *model.shape)
    nn.init.constant_(model.decoder.last.bias, 7.0)
    assert (model.decode(latents).max() > 5) == (target != "image")  # what has no bounds is not clipped
    assert (model.decode(latents).max() == 1) == (target == "image")


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 2), (2, 33), (1, 2, 2, 3), (2, 8, 9, 15)])
def test_default_widths_fit_any_size(shape):
    target = {"modality": "made_columns:Volume", "shape": shape}
    keys = {} if len(shape) == 1 or max(shape[1:]) > 2 else {"channels": [4]}
    model = VAE(VAE.Config(**columns(target), **keys))
    assert model.decode(model.encode(batch(model).x)).shape == (6, *shape)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cls", CLASSES)
def test_it_is_given_anything(cls, target):
    """Every parameter has a gradient, whatever is missing, and each column changes latents and drawings."""
    model = make(cls, target, MANY)
    rows = batch(model)
    for given in (rows.conditions, genhub.Conditions.nothing(model.conditions, 6)):
        model.zero_grad()
        model.loss(genhub.Batch(rows.x, given))["loss"].backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    latents, other = torch.randn(6, 4), conditions(model.conditions, 6, seed=2)
    for name in MANY:
        changed = genhub.Conditions({**rows.conditions.values, name: other.values[name]}, rows.conditions.present)
        dropped = rows.conditions.without({name: torch.ones(6, dtype=torch.bool)})
        for given in (changed, dropped):
            assert (model.encode(rows.x, rows.conditions) - model.encode(rows.x, given)).abs().max() > 1e-5, name
            assert (model.decode(latents, rows.conditions) - model.decode(latents, given)).abs().max() > 1e-5, name
    none = genhub.Conditions.nothing(model.conditions, 6)
    assert torch.equal(model.decode(latents), model.decode(latents, none))
    assert torch.equal(model.encode(rows.x), model.encode(rows.x, none))
    draw = lambda given: model.sample(6, conditions=given, generator=torch.Generator().manual_seed(0))  # noqa: E731
    assert (draw(rows.conditions) - draw(None)).abs().max() > 1e-5


def test_bits_depend_on_what_is_given():
    model = make(given={"label": LABEL}).eval()
    rows = batch(model)
    bits = lambda given: model.bits_per_dimension(  # noqa: E731
        genhub.Batch(rows.x, given), generator=torch.Generator().manual_seed(0)
    )
    assert (bits(rows.conditions) - bits(genhub.Conditions.nothing(model.conditions, 6))).abs().max() > 1e-5


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("given", [{}, {"label": LABEL}])
def test_without_conditions_weights_are_as_ever(cls, given):
    names = {".".join(name.split(".")[:2]) for name in make(cls, given=given).state_dict() if "coder" in name}
    told = {"encoder.conditioner", "decoder.conditioner", "encoder.from_vector"} if given else set()
    assert names == told | {f"encoder.{part}" for part in ("convolutions", "linear")} | {
        f"decoder.{part}" for part in ("convolutions", "linear", "last")}  # fmt: skip


# Likelihoods of what has no levels


class Affine(nn.Module):
    """x -> x @ weight.T + bias, whatever is given."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x, conditions=None):
        return x @ self.weight.T + self.bias


@pytest.mark.parametrize("unit", [1.0, 20.0])
def test_bits_of_a_continuous_column_are_its_densitys_in_its_own_units(unit):
    """p(x) = N(b, W W^T + s^2 I) for x in units of `unit`: with the exact posterior, the bound is the density itself."""
    model, generator = make(target=vector(3, std=unit), latent_dim=2), torch.Generator().manual_seed(2)
    weight = torch.linalg.qr(torch.randn(3, 2, generator=generator))[0] * torch.tensor([0.5, 0.3])
    bias, std = torch.tensor([0.1, -0.2, 0.3]), 0.4
    model.likelihood.scaled.data.fill_(2 * math.log(std) / 10)
    variance = 1 / (1 + weight.square().sum(0) / std**2)
    back = (weight * variance / std**2).T
    model.encoder = Affine(torch.cat([back, torch.zeros(2, 3)]), torch.cat([-back @ bias, variance.log()]))
    model.decoder = Affine(weight, bias)
    x = torch.randn(50, 3, generator=generator)
    own = torch.distributions.MultivariateNormal(unit * bias, unit**2 * (weight @ weight.T + std**2 * torch.eye(3)))
    expected = -own.log_prob(unit * x) / (3 * math.log(2))
    found = model.bits_per_dimension(genhub.Batch(x), generator=torch.Generator().manual_seed(0), importance_samples=3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_16_bits_are_256_times_as_many_values():
    """The same density's mass in bins that are 257 times narrower."""
    coarse, fine = (make(target={**image(1, 8, 8), "bits": bits}).eval() for bits in (8, 16))
    rows = genhub.Batch(0.5 * batch(coarse).x)  # off the open edges
    bits = [model.bits_per_dimension(rows, generator=torch.Generator().manual_seed(0)) for model in (coarse, fine)]
    torch.testing.assert_close(bits[1] - bits[0], torch.full((6,), 65535 / 255).log2(), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("target", "keys", "message"),
    [
        ("vector", {"likelihood": "discretized_logistic"}, "likelihood: .* a vector has none"),
        ("signal", {"likelihood": "bernoulli"}, "likelihood: .* a signal has none"),
        ("vector", {"network": "kl", "channels": [8]}, "network: kl is for images, of 2 sides, not 0"),
        ("volume", {"network": "kl", "channels": [8]}, "network: kl is for images, of 2 sides, not 3"),
        ("signal", {"channels": [4] * 6}, "6 halvings given, but sides of 25 are 1 after 5"),
    ],
)
def test_what_can_not_be_is_answered(target, keys, message):
    with pytest.raises(ValueError, match=message):
        make(target=target, **keys)


# Training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "autoencoder"])
@pytest.mark.parametrize(
    ("data", "given"),
    [
        ({"name": "moons", "num_rows": 200}, ["label"]),
        ({"name": "wine"}, []),
        ({"name": "digits"}, ["label", "ink", "source"]),
    ],
)
def test_resume_is_exact(tiny, tmp_path, name, data, given):
    if "source" in given:
        data |= {"target": "image", "columns": {"source": {"from": "image", "size": 4}}}
    tiny |= {"model": {"name": name, "conditions": given, "channels": [8], "latent_dim": 4}}
    tiny["data"] |= data
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    same_bits(whole, genhub.train(tiny, run_dir=str(tmp_path / "parts")))
    assert len(genhub.sample(whole, 5)) == 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_recipe_with_a_label_draws_the_digit_it_is_asked_for(tmp_path):
    import numpy as np
    from judge import judge, read_labels

    folder = genhub.train("digits-vae-label", run_dir=str(tmp_path / "run"))
    digits = genhub.sample(folder, 2000, conditions={"label": list(range(10))}).permute(0, 2, 3, 1).numpy()
    figures = judge(digits)
    assert figures["frechet"] <= 0.25, figures
    assert figures["near"] >= 0.9, figures
    assert (read_labels(digits) == np.arange(2000) % 10).mean() >= 0.97
