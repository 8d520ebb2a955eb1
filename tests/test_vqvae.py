"""The VQ-VAE: quantizers, the loss, its prior, and what it is for: codes of anything, given anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from genhub_vae import VQVAE
from genhub_vae.quantizers import FiniteScalarQuantizer
from made_columns import LABEL, NUMBER, TARGETS, batch, columns, image, vector
from test_trainer import same_bits

import genhub

MANY = {"label": LABEL, "ink": NUMBER, "point": vector(2), "source": image(1, 4, 4)}
GRIDS = {"image": (2, 2), "signal": (7,), "vector": (4,), "volume": (1, 2, 2)}
QUANTIZERS = ["vq", "fsq"]


def make(target="image", given=None, **keys) -> VQVAE:
    torch.manual_seed(0)
    target = TARGETS[target] if isinstance(target, str) else target
    model = VQVAE(VQVAE.Config.model_validate({**columns(target, **(given or {})), "channels": [4, 8], **keys}))
    if model.config.quantizer == "vq":
        model.quantizer.codebook.data.normal_()
    return model


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("target", TARGETS)
def test_it_makes_codes_of_anything_given_anything(target, quantizer):
    model = make(target, MANY, quantizer=quantizer)
    rows = batch(model)
    for given in (rows.conditions, genhub.Conditions.nothing(model.conditions, 6)):
        model.zero_grad()
        model.loss(genhub.Batch(rows.x, given))["loss"].backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    assert isinstance(model, genhub.DiscreteAutoencoder)
    assert model.code_shape == GRIDS[target]
    codes = model.encode_codes(rows.x, rows.conditions)
    assert (codes.shape, codes.dtype) == ((6, *GRIDS[target]), torch.int64)
    assert 0 <= codes.min() <= codes.max() < model.num_codes
    copied = model.decode_codes(codes, rows.conditions)
    assert copied.shape == rows.x.shape
    assert torch.equal(copied, model.decode(model.encode(rows.x, rows.conditions), rows.conditions))
    for name in MANY:
        without = rows.conditions.without({name: torch.ones(6, dtype=torch.bool)})
        assert (copied - model.decode_codes(codes, without)).abs().max() > 1e-5, name
    torch.nn.init.constant_(model.decoder.last.bias, 7.0)
    assert (model.decode_codes(codes, rows.conditions).max() == 1) == (target == "image")  # what has bounds is clipped


def test_latents_become_their_nearest_codes():
    model = make(num_vq_embeddings=5)
    latents = torch.randn(3, 4, 2, 2)
    distances = (latents[:, None] - model.quantizer.codebook.view(1, 5, 4, 1, 1)).square().sum(2)
    codes = model.quantizer.codes(latents)
    assert torch.equal(codes, distances.argmin(1))
    assert torch.equal(model.quantizer.vectors(codes)[1, :, 0, 1], model.quantizer.codebook[codes[1, 0, 1]])


def test_each_term_of_the_loss_trains_its_own():
    """Eq. 3: the copy trains encoder and decoder, as if codes were latents; the codebook learns by the second term alone."""
    model = make(commitment_cost=0.0)
    rows = batch(model)
    losses = model.loss(rows)
    losses["reconstruction"].backward(retain_graph=True)
    assert model.encoder.last.weight.grad.abs().sum() > 0
    assert model.quantizer.codebook.grad is None
    before = model.encoder.last.weight.grad.clone()
    losses["loss"].backward()
    assert model.quantizer.codebook.grad.abs().sum() > 0
    torch.testing.assert_close(model.encoder.last.weight.grad, 2 * before)  # nothing of the second term reached it


def test_terms_of_the_loss_are_equation_3():
    model = make(num_vq_embeddings=5, commitment_cost=0.3).eval()
    rows = batch(model)
    latents = model.encode(rows.x)
    distance = (latents - model.quantizer.vectors(model.quantizer.codes(latents))).square().mean()
    losses = model.loss(rows)
    torch.testing.assert_close(losses["loss"], losses["reconstruction"] + 1.3 * distance)
    counts = model.quantizer.codes(latents).flatten().bincount(minlength=5) / (6 * 4)
    torch.testing.assert_close(losses["perplexity"], torch.special.entr(counts).sum().exp())


@pytest.mark.parametrize("levels", [(3,), (2, 4), (8, 5, 5, 5)])
def test_each_code_of_fsq_is_a_point_of_its_own(levels):
    """All of them, and each point of the grid in [-1, 1] is its own code: vectors and codes are inverse."""
    quantizer = FiniteScalarQuantizer(make(quantizer="fsq", levels=levels).config)
    codes = torch.arange(np.prod(levels))[None]
    vectors = quantizer.vectors(codes)
    assert vectors.shape == (1, len(levels), len(codes[0]))
    assert len(vectors[0].T.unique(dim=0)) == len(codes[0])
    for row, count in zip(vectors[0], levels, strict=True):
        torch.testing.assert_close(row.unique(), torch.linspace(-1, 1, count))
    assert torch.equal(quantizer.codes(torch.atanh(vectors * (1 - 1e-6))), codes)


def test_fsq_rounds_as_the_paper_does_and_lets_the_gradient_through():
    """For 5 levels round(2 tanh(z)), counted from 0; the gradient is tanh's."""
    quantizer = FiniteScalarQuantizer(make(quantizer="fsq", levels=[5]).config)
    latents = torch.linspace(-3, 3, 50).view(1, 1, 50).requires_grad_()
    found = quantizer(latents)
    assert torch.equal(found.codes, (2 * latents[:, 0].tanh()).round().long() + 2)
    torch.testing.assert_close(found.vectors, (2 * latents.tanh()).round() / 2)
    found.vectors.sum().backward()
    torch.testing.assert_close(latents.grad, 1 - latents.tanh().square().detach())
    assert found.penalty == 0


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_the_prior_counts_codes_place_by_place(quantizer):
    model = make(num_vq_embeddings=5, quantizer=quantizer) if quantizer == "vq" else make(quantizer="fsq", levels=[5])
    x = batch(model, 60).x
    for part in x.split(20):
        model.loss(genhub.Batch(part))
    codes = model.encode_codes(x).flatten(1)
    counted = torch.stack([(codes == code).float().mean(0) for code in range(5)], dim=1)
    torch.testing.assert_close(model.frequencies, counted)
    drawn = []
    model.decode_codes = lambda codes, conditions: drawn.append(codes) or torch.zeros(len(codes), 1, 8, 8)
    model.sample(4000, generator=torch.Generator().manual_seed(0))
    shares = torch.stack([(drawn[0].flatten(1) == code).float().mean(0) for code in range(5)], dim=1)
    torch.testing.assert_close(shares, counted, atol=0.03, rtol=0)
    assert (shares[counted == 0] == 0).all()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"quantizer": "fsq", "latent_dim": 3}, "model.latent_dim: changes nothing without quantizer: vq; leave it out"),
        ({"levels": [3, 3]}, "model.levels: changes nothing without quantizer: fsq; leave it out"),
        ({"quantizer": "fsq", "levels": [1, 3]}, "model.levels.*greater than or equal to 2"),
        ({"quantizer": "fsq", "levels": [1024, 1025]}, "model.levels: 1,049,600 codes; at most 1,048,576"),
        ({"num_vq_embeddings": 1}, "model.num_vq_embeddings.*greater than or equal to 2"),
        ({"quantizer": "vqq"}, "model.quantizer"),
    ],
)
def test_what_changes_nothing_or_can_not_be_is_answered(keys, message):
    with pytest.raises(genhub.RecipeError, match=message) as error:
        genhub.read_recipe({"model": {"name": "vqvae", **keys}})
    assert "\n" not in str(error.value)


def test_more_halvings_than_sides_are_refused():
    with pytest.raises(ValueError, match="4 halvings given, but sides of 8x8 are 1 after 3"):
        make(channels=[4] * 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data"),
    [
        ({"quantizer": "vq"}, {"name": "digits"}),
        ({"quantizer": "fsq", "levels": [3, 3], "conditions": ["label"]}, {"name": "moons", "num_rows": 200}),
    ],
)
def test_resume_is_exact(tiny, tmp_path, model, data):
    tiny |= {"model": {"name": "vqvae", "channels": [8], **model}}
    tiny["data"] |= data
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    same_bits(whole, genhub.train(tiny, run_dir=str(tmp_path / "parts")))
    assert len(genhub.sample(whole, 5)) == 5


@pytest.mark.slow
def test_latent_diffusion_takes_it_as_it_takes_any_autoencoder(tiny, tmp_path):
    codes = tiny | {"model": {"name": "vqvae", "channels": [8]}, "run_dir": str(tmp_path / "codes")}
    tiny["model"]["autoencoder"] = str(genhub.train(codes, ["trainer.max_steps=1"]))
    folder = genhub.train(tiny, ["trainer.max_steps=2"])
    shutil.rmtree(tmp_path / "codes")  # the checkpoint has a copy
    assert genhub.sample(folder, 3).shape == (3, 1, 8, 8)
    stored = json.loads((Path(folder) / "genhub.json").read_text())["config"]["autoencoder"]
    assert (stored["plugin"]["name"], stored["latent_shape"]) == ("vqvae", [4, 4, 4])
