"""The autoregressive model over the codes of a vqvae: named in a recipe, frozen, stored inside the checkpoint."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY_DDPM
from genhub_ar import AR
from genhub_ar.tokens import Codes
from test_trainer import same_bits

import genhub
from genhub import Batch, Conditions, DataConfig, load_data

NETWORK = {"hidden_size": 16, "num_layers": 1, "num_heads": 2}


def recipe(model: dict, run_dir: Path, **data) -> dict:
    found = copy.deepcopy(TINY_DDPM) | {"model": model, "run_dir": str(run_dir)}
    found["data"] |= data
    return found


@pytest.fixture(scope="module")
def codes(tmp_path_factory) -> Path:
    """The run of a vqvae of digits, 4x4 codes of 8, a few steps old."""
    model = {"name": "vqvae", "channels": [8], "num_vq_embeddings": 8}
    return Path(genhub.train(recipe(model, tmp_path_factory.mktemp("vqvae") / "run"))).parents[1]


def ar(autoencoder: Path, **keys) -> dict:
    return {"name": "ar", "autoencoder": str(autoencoder), "network": NETWORK, **keys}


def test_a_folder_stands_alone_and_goes_on_exactly(codes, tmp_path):
    shutil.copytree(codes, tmp_path / "vqvae")
    wanted = recipe(ar(tmp_path / "vqvae", conditions=["label"]), tmp_path / "whole")
    whole = genhub.train(wanted)
    genhub.train(wanted, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    same_bits(whole, genhub.train(wanted, run_dir=str(tmp_path / "parts")))
    drawn = genhub.sample(whole, 4, conditions={"label": [3, 7]})
    shutil.rmtree(tmp_path / "vqvae")
    assert torch.equal(genhub.sample(whole, 4, conditions={"label": [3, 7]}), drawn)
    assert torch.equal(genhub.sample(whole, 4, conditions={"label": [3, 7]}, batch_size=1), drawn)
    stored = json.loads((Path(whole) / "genhub.json").read_text())["config"]["autoencoder"]
    assert stored["plugin"]["name"] == "vqvae"
    model = genhub.load(whole)
    assert isinstance(model, AR)
    assert isinstance(model.tokens, Codes)
    assert (model.tokens.num_tokens, model.tokens.length) == (8, 16)
    inside, own = genhub.load(codes), dict(model.tokens.model.state_dict())
    assert all(torch.equal(value, own[name]) for name, value in inside.state_dict().items())


def test_its_tokens_are_the_autoencoders_codes_and_what_it_draws_their_decoding(codes):
    inside = genhub.load(codes)
    model = AR(AR.Config(**ar(codes), data=inside.config.data)).eval()
    x = load_data(DataConfig()).x(range(10))
    tokens = model.tokens.of_batch(Batch(x))
    assert torch.equal(tokens, inside.encode_codes(x).flatten(1))
    kept = model.frozen_encoder().encode(x)
    assert kept.dtype == torch.float32
    assert torch.equal(model.tokens.of_batch(Batch(x, cached={"latents": kept})), tokens)
    assert torch.equal(model.tokens.decode(tokens, Conditions()), inside.decode_codes(inside.encode_codes(x)))
    with torch.no_grad():
        model.network.head.weight.zero_()
    assert model.loss(Batch(x))["bits"].item() == pytest.approx(3)  # log2 of 8 codes


def test_cached_codes_train_the_same_bits(codes, tmp_path):
    plain = genhub.train(recipe(ar(codes), tmp_path / "plain"))
    same_bits(plain, genhub.train(recipe(ar(codes), tmp_path / "cached", cache_latents=True)))


def test_points_are_drawn_by_codes(tmp_path):
    """Points, which have no levels, are drawn by the codes of a vqvae with fsq; both are told a class."""
    keys = {"name": "moons", "num_rows": 200}
    inner = {"name": "vqvae", "channels": [8], "quantizer": "fsq", "levels": [3, 3], "conditions": ["label"]}
    points = genhub.train(recipe(inner, tmp_path / "codes", **keys))
    folder = genhub.train(recipe(ar(points, conditions=["label"]), tmp_path / "ar", **keys))
    drawn = genhub.sample(folder, 5, conditions={"label": [0, 1, 0, 1, 0]})
    assert drawn.shape == (5, 2)
    assert genhub.load(folder).frozen_encoder() is None  # its codes hang on the class
    with pytest.raises(genhub.RecipeError, match="this 'vqvae' is given label; model.conditions needs it, too"):
        genhub.train(recipe(ar(points), tmp_path / "without", **keys))


def test_bits_of_codes_are_refused(codes):
    model = AR(AR.Config(**ar(codes), data=genhub.load(codes).config.data))
    with pytest.raises(genhub.InputError, match="bits per dimension: those of codes say nothing about x"):
        model.bits_per_dimension(Batch(torch.zeros(2, 1, 8, 8)))


def test_what_can_not_serve_is_refused(codes, tmp_path):
    vae = genhub.train(recipe({"name": "vae", "channels": [8]}, tmp_path / "vae"), ["trainer.max_steps=1"])
    with pytest.raises(genhub.RecipeError, match=r"model.autoencoder: 'vae' has no codes \(.*\); vqvae has"):
        genhub.train(recipe(ar(vae), tmp_path / "run"))
    with pytest.raises(genhub.RecipeError, match="model.autoencoder: nowhere: no such folder"):
        genhub.train(recipe(ar(Path("nowhere")), tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_by_class_through_codes(tmp_path):
    """The shipped recipes, one after the other: codes copy digits, and those drawn by codes are what was asked for."""
    import numpy as np
    from judge import judge, read_labels

    keys = ["trainer.sample_every=null"]
    vqvae = genhub.train("digits-vqvae", keys, run_dir=str(tmp_path / "vqvae"))
    copies, x = genhub.load(vqvae), load_data(DataConfig()).x(range(500))
    with torch.no_grad():
        codes = copies.encode_codes(x)
        assert (copies.decode_codes(codes) - x).square().mean() < 0.035
    assert len(codes.unique()) >= 30
    folder = genhub.train("digits-ar-vqvae", [*keys, f"model.autoencoder={vqvae}"], run_dir=str(tmp_path / "run"))
    digits = genhub.sample(folder, 1000, conditions={"label": list(range(10))}).permute(0, 2, 3, 1).numpy()
    figures = judge(digits)
    assert figures["frechet"] <= 0.25, figures
    assert figures["near"] >= 0.95, figures
    assert (read_labels(digits) == np.arange(1000) % 10).mean() >= 0.8
