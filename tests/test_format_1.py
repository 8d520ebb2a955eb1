"""Folders that genhub wrote in format 1, when there were images and labels alone: they are drawn from, and start new runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_hub import sealed

import genhub
from genhub.interfaces.registry import MODELS, load_class
from genhub.store.classes import describe_folder
from genhub.store.manifest import FORMAT, check_resumable, describe_files, read_manifest

# Each genhub.json but for the files is as genhub wrote it, after two steps on the digits.
DATA = {"name": "digits", "split": "train", "shape": [1, 8, 8], "num_classes": 10, "class_names": [str(n) for n in range(10)],
        "num_images": 1797, "fingerprint": "6d26063191fa7d8dac9a7d070d760b83"}  # fmt: skip
SIDE = {"channels": [4], "blocks_per_level": 1}
GAN = {"sample_shape": [1, 8, 8], "num_classes": 10, "latent_dim": 4, "generator": SIDE, "discriminator": SIDE,
       "loss": "non_saturating", "penalty": None, "penalty_weight": None, "penalty_interval": 1, "n_critic": 1}  # fmt: skip
OLD: dict[str, dict[str, Any]] = {
    "gan": {"name": "gan", **GAN},
    "cgan": {"name": "cgan", **GAN, "conditioning": "projection"},
    "vae": {"name": "vae", "sample_shape": [1, 8, 8], "num_classes": 10, "network": "conv", "channels": [4], "latent_dim": 2,
            "kl": {"layers_per_block": 1, "norm_num_groups": 8, "mid_block_add_attention": False}, "likelihood": "gaussian",
            "beta": 1.0, "kl_warmup_steps": 0, "free_bits": 0.0},
}  # fmt: skip
COLUMNS = {"target": {"modality": "image", "shape": [1, 8, 8]}}
LABEL = {"modality": "label", "number": 10, "names": [str(n) for n in range(10)]}


def old_folder(folder: Path, name: str, data: dict[str, Any] | None = DATA) -> Path:
    """A folder of format 1, with weights of today's class."""
    cls = load_class(MODELS, name)
    conditions = ["labels"] if name == "cgan" else []
    own = {key: value for key, value in OLD[name].items() if key not in ("sample_shape", "num_classes")}
    given = (
        {"conditions": ["label"], "data": {**COLUMNS, "conditions": {"label": LABEL}}} if conditions else {"data": COLUMNS}
    )
    torch.manual_seed(0)
    model = cls(cls.Config.model_validate(own | given))
    folder.mkdir(parents=True)
    model.save_networks(folder)
    files = {file: entry.model_dump() for file, entry in describe_files(folder).items()}
    content = {"format": 1, "genhub": "0.1.0", "plugin": {"name": name, "distribution": "genhub-framework", "version": "0.1.0"},
               "config": OLD[name], "data": data, "step": 2, "conditions": conditions, "versions": {"python": "3.11.7"},
               "files": files, "code": None}  # fmt: skip
    (folder / "genhub.json").write_bytes(sealed(content))
    return folder


@pytest.mark.parametrize("name", OLD)
def test_it_is_drawn_from_as_today(tmp_path: Path, name: str) -> None:
    model = genhub.load(old_folder(tmp_path / "old", name))
    assert (model.shape, model.modality.modality) == ((1, 8, 8), "image")
    assert set(model.conditions) == ({"label"} if name == "cgan" else set())
    asked = {"conditions": {"label": ["7", "3"]}} if name == "cgan" else {}
    drawn = genhub.sample(model, 4, seed=3, **asked)
    assert (drawn.shape, drawn.dtype) == ((4, 1, 8, 8), torch.uint8)
    model.save_pretrained(tmp_path / "new")
    manifest = read_manifest(tmp_path / "new")
    assert manifest.format == FORMAT
    assert manifest.data == model.trained_on
    assert manifest.data is not None
    assert (manifest.data.num_rows, manifest.data.target) == (1797, "image")
    assert torch.equal(genhub.sample(tmp_path / "new", 4, seed=3, **asked), drawn)


def test_info_says_what_it_draws_and_can_be_told(tmp_path: Path) -> None:
    facts = describe_folder(old_folder(tmp_path / "old", "cgan"))
    assert facts["format"] == 1
    assert facts["draws"]["image"]["shape"] == [1, 8, 8]
    assert "0, 1, 2" in facts["can be told"]["label"]
    assert facts["data"]["columns"].keys() == {"image", "label"}


def test_of_no_known_data_its_config_says_the_shape(tmp_path: Path) -> None:
    model = genhub.load(old_folder(tmp_path / "old", "gan", data=None))
    assert model.trained_on is None
    assert model.shape == (1, 8, 8)


def test_shades_that_were_stretched_come_back(tmp_path: Path) -> None:
    data = DATA | {"value_range": [0.0, 16.0]}
    model = genhub.load(old_folder(tmp_path / "old", "vae", data))
    assert model.modality.value_range == (0.0, 16.0)
    genhub.sample(model, 2, out=tmp_path / "x.npz")
    arrays = np.load(tmp_path / "x.npz")
    assert arrays["image"].shape == (2, 8, 8, 1)
    assert arrays["image_value_range"].tolist() == [0.0, 16.0]


def test_a_run_of_it_is_not_gone_on_with_but_its_weights_start_another(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = old_folder(run / "checkpoints" / "step-000002", "gan")
    recipe = {"model": {"name": "gan", "latent_dim": 4, "generator": SIDE, "discriminator": SIDE}, "data": {"batch_size": 8},
              "trainer": {"max_steps": 3, "sample_every": None, "trackers": []}}  # fmt: skip
    (run / "recipe.yaml").write_text(genhub.read_recipe(recipe, run_dir=str(run)).yaml())
    with pytest.raises(
        genhub.CheckpointError, match=r"^[^\n]*run of format 1[^\n]*--fresh, or take its weights by model.from"
    ):
        check_resumable(folder)
    before = json.loads((folder / "genhub.json").read_text())
    with pytest.raises(genhub.GenhubError, match=r"^[^\n]*format 1[^\n]*--fresh[^\n]*model.from=[^\n]*$"):
        genhub.train(recipe, run_dir=str(run))
    assert json.loads((folder / "genhub.json").read_text()) == before
    started = genhub.train({"model": {"from": str(run)}, "data": {"batch_size": 8}, "trainer": recipe["trainer"],
                            "run_dir": str(tmp_path / "another")})  # fmt: skip
    assert genhub.load(started).shape == (1, 8, 8)
    assert read_manifest(started).format == FORMAT


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"sample_shape": "wide"}, "config: data.target.shape: "), ({"latent_dim": -1}, "config: latent_dim: "),
     ({"sample_shape": [1, 8]}, "")],
)  # fmt: skip
def test_a_config_that_is_not_valid_is_one_line(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    folder = old_folder(tmp_path / "old", "gan")
    content = json.loads((folder / "genhub.json").read_text())
    content["config"] |= config
    (folder / "genhub.json").write_bytes(sealed(content))
    with pytest.raises(genhub.CheckpointError, match=rf"^[^\n]*{reason}[^\n]*$"):
        genhub.load(folder)
