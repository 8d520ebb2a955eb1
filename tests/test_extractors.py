"""What is opened: safetensors alone, whoever names it. A pickle that would run when opened lies wherever a file is read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import genhub
from genhub.data.open import load_data
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.registry import EXTRACTORS, load_class


class Bomb:
    """Unpickled, it makes a folder."""

    def __reduce__(self) -> object:
        return os.mkdir, ("exploded",)


@pytest.fixture
def bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "bomb.pt"
    torch.save({"weights": Bomb()}, file)
    return file


def test_it_would_explode(bomb) -> None:
    with contextlib.suppress(Exception):
        torch.load(bomb, weights_only=False)
    assert Path("exploded").is_dir()


def extractor(name: str, source: str) -> None:
    load_class(EXTRACTORS, name)(load_data(DataConfig()), source, torch.device("cpu"))


@pytest.mark.parametrize("name", ["bomb.pt", "bomb.png", "bomb.safetensors"])
def test_inceptions_weights_are_safetensors(bomb, name) -> None:
    """With torch-fidelity installed or without."""
    if name != bomb.name:
        shutil.copy(bomb, name)
    with pytest.raises(genhub.InputError, match=r"^extractor 'inception'"):
        extractor("inception", name)
    with pytest.raises(
        genhub.InputError, match=r"needs its weights as safetensors, inception:FILE.safetensors; docs/evaluation.md"
    ):
        extractor("inception", "")
    assert not Path("exploded").exists()


def test_inception_opens_safetensors(bomb, tmp_path) -> None:
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict", lambda self, weights: None)
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        network = inception("inception-v3-compat", ["2048"])
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, "inception.safetensors")
    found = load_class(EXTRACTORS, "inception")(load_data(DataConfig()), "inception.safetensors", torch.device("cpu"))
    assert found.features(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 2048)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2", "clip"])
@pytest.mark.parametrize("indexed", [False, True])
def test_networks_of_transformers_are_safetensors(bomb, name, indexed) -> None:
    folder, kind = Path("network"), {"dinov2": "dinov2", "clip": "clip_vision_model"}[name]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "hidden_size": 8, "num_hidden_layers": 1,
                                                    "num_attention_heads": 1, "auto_map": {"AutoModel": "evil.Model"}}))  # fmt: skip
    (folder / "evil.py").write_text("import os; os.mkdir('exploded')")
    shutil.copy(bomb, folder / "pytorch_model.bin")
    if indexed:
        index = {"metadata": {}, "weight_map": {"embeddings.cls_token": "pytorch_model.bin"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(genhub.InputError, match=f"^extractor '{name}': no weights from network"):
        extractor(name, str(folder))
    assert not Path("exploded").exists()


@pytest.mark.slow
def test_no_file_that_is_read_is_unpickled(bomb) -> None:
    """Models, checkpoints, data, recipes, and what genhub itself keeps."""
    run = genhub.train({"model": {"name": "autoencoder", "channels": [8]}, "run_dir": "run",
                        "trainer": {"max_steps": 1, "trackers": [], "sample_every": None}})  # fmt: skip
    genhub.evaluate(run, 10, metrics=["frechet_distance"], extractor="pixels", seed=0)
    kept = {file.parent.name: file for file in Path("run").rglob("*.safetensors")}
    assert len(kept) == 3  # weights, what the trainer keeps, images that were drawn
    for file in kept.values():
        before = file.read_bytes()
        shutil.copy(bomb, file)
        for use in (lambda: genhub.load("run"), lambda: genhub.train("run/recipe.yaml", ["trainer.max_steps=2"])):
            with contextlib.suppress(Exception):
                use()
        with contextlib.suppress(Exception):
            genhub.evaluate(run, 10, metrics=["frechet_distance"], extractor="pixels", seed=0)
        file.write_bytes(before)
    for suffix in ("png", "parquet", "arrow", "npz", "npy", "zip", "tar", "gz", "csv", "json", "pkl", "yaml"):
        name = f"x.{suffix}"
        folder = Path("data", name)
        folder.mkdir(parents=True)
        shutil.copy(bomb, folder / name)
        for data in (folder, folder / name):
            with contextlib.suppress(genhub.GenhubError):
                load_data(DataConfig(name=str(data)))
        with contextlib.suppress(genhub.GenhubError):
            genhub.read_recipe(folder / name)
    for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin", "model.safetensors", "model.ckpt"):
        folder = Path("models", name)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "sample_size": 8}))
        shutil.copy(bomb, folder / name)
        with pytest.raises(genhub.GenhubError):
            genhub.load(folder)
    assert not Path("exploded").exists()
