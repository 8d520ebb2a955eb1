"""Installed beside genhub, so that its name is registered: pip install . && pytest"""

from __future__ import annotations

import pytest
import torch
from diffusers import VQModel
from genhub_vqvae import VQVAE
from pydantic import ValidationError

import genhub


def make(shape=(1, 8, 8), **keys) -> VQVAE:
    torch.manual_seed(0)
    data = {"target": {"modality": "image", "shape": shape}}
    values = {"name": "vqvae", "data": data, "block_out_channels": [8, 16], "num_vq_embeddings": 5, **keys}
    model = VQVAE(VQVAE.Config.model_validate(values))
    model.codebook.data.normal_()
    return model


def test_latents_become_their_nearest_codes():
    model, images = make((2, 8, 12)), torch.rand(3, 2, 8, 12) * 2 - 1
    assert isinstance(model, genhub.Autoencoder)
    assert not isinstance(model, genhub.Likelihood | genhub.Denoiser)
    latents = model.encode(images)
    assert latents.shape == (3, 4, 4, 6)
    codes = model.codes(latents)
    assert codes.shape == (3, 4, 6)
    distances = (latents[:, None] - model.codebook.view(1, 5, 4, 1, 1)).square().sum(2)
    assert torch.equal(codes, distances.argmin(1))
    assert torch.equal(model.decode(latents), model.decode(model.vectors(codes)))


def test_gradients_pass_the_codes_and_each_part_of_the_loss_trains_its_own():
    model, images = make(), torch.rand(4, 1, 8, 8) * 2 - 1
    losses = model.loss(genhub.Batch(images))
    losses["reconstruction"].backward(retain_graph=True)
    assert model.vq.encoder.conv_in.weight.grad.abs().sum() > 0
    assert model.codebook.grad is None  # the codes learn from the second term alone
    losses["loss"].backward()
    assert model.codebook.grad.abs().sum() > 0
    assert 1 <= losses["perplexity"] <= 5


def test_the_prior_counts_codes_place_by_place():
    model, images = make(), torch.rand(60, 1, 8, 8) * 2 - 1
    for part in images.split(20):
        model.loss(genhub.Batch(part))
    codes = model.codes(model.encode(images)).flatten(1)
    counted = torch.stack([(codes == code).float().mean(0) for code in range(5)], dim=1)
    torch.testing.assert_close(model.frequencies, counted)
    drawn = []
    model.decode_vectors = lambda vectors: drawn.append(vectors) or torch.zeros(len(vectors), 1, 8, 8)
    model.sample(4000, generator=torch.Generator().manual_seed(0))
    codes = model.codes(drawn[0]).flatten(1)
    shares = torch.stack([(codes == code).float().mean(0) for code in range(5)], dim=1)
    torch.testing.assert_close(shares, counted, atol=0.03, rtol=0)
    assert (shares[counted == 0] == 0).all()


def test_diffusers_opens_its_networks(tmp_path):
    model, images = make(), torch.rand(2, 1, 8, 8) * 2 - 1
    model.save_pretrained(tmp_path)
    theirs = VQModel.from_pretrained(tmp_path / "vq")
    torch.testing.assert_close(theirs(images).sample.clamp(-1, 1), model.decode(model.encode(images)))


def test_networks_that_cannot_be_are_refused():
    with pytest.raises(ValidationError, match="2 levels need sides divisible by 2, not 7x8"):
        make((1, 7, 8))
    with pytest.raises(ValidationError, match="conditions: a vqvae is given nothing"):
        VQVAE.Config(conditions=["label"])
    with pytest.raises(ValidationError, match="a vqvae copies images, of 2 sides, not 0"):
        VQVAE.Config(data={"target": {"modality": "vector", "shape": [2], "mean": [0, 0], "std": [1, 1]}})
    with pytest.raises(ValidationError, match="12 does not divide by norm_num_groups 8"):
        make(block_out_channels=[12])
