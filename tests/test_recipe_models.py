"""Recipes whose model is a folder or a class of one's own, and what reading a recipe imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import models
import pytest
from test_recipe import DDPM, fault

from genhub import RecipeError, read_recipe

# model.from, module:Class and other trainers

MODEL = """
import genhub

class Mean(genhub.GenerativeModel):
    class Config(genhub.ModelConfig):
        hidden: int = 3
    def __init__(self, config):
        super().__init__(config)
        import torch
        self.net = torch.nn.Linear(config.hidden, 1)
    def phases(self):
        return []
    def sample(self, n, *, conditions=None, generator=None):
        raise NotImplementedError

class Patient(genhub.Trainer):
    class Config(genhub.TrainerConfig):
        patience: int = 3
    def fit(self, model, data):
        raise NotImplementedError
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and a trainer of one's own."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_project.py").write_text(MODEL)
    yield tmp_path
    sys.modules.pop("my_project", None)


def test_a_class_beside_the_recipe(project: Path) -> None:
    file = project / "r.yaml"
    file.write_text("model: {name: 'my_project:Mean', hidden: 5}\ntrainer: {name: 'my_project:Patient', patience: 2}\n")
    recipe = read_recipe(file)
    assert (recipe.model_class().__name__, recipe.trainer_class().__name__) == ("Mean", "Patient")
    assert recipe.dump()["model"]["hidden"] == 5
    assert recipe.dump()["trainer"]["patience"] == 2
    message = fault(project, "model: {name: 'my_project:Mean'}\ntrainer: {name: 'my_project:Patient', patence: 2}\n")
    assert message == "r.yaml:2: trainer.patence: unknown key; did you mean 'patience'?"


def test_a_model_of_ones_own_goes_on_from_a_folder(project: Path) -> None:
    (project / "r.yaml").write_text("model: {name: 'my_project:Mean', hidden: 5}\n")
    recipe = read_recipe(project / "r.yaml")
    recipe.model_class()(recipe.model.model_copy(update={"data": models.images((1, 2, 2))})).save_pretrained(
        project / "saved"
    )
    again = read_recipe(project / "r.yaml", [f"model={{name: 'my_project:Mean', from: {project / 'saved'}}}"])
    assert again.dump()["model"] == {"from": str(project / "saved")} | recipe.dump()["model"]
    assert "my_project:Mean" in fault(project, f"model: {{from: {project / 'saved'}}}\n")  # named by no recipe: not imported


def test_from_a_folder_that_diffusers_saved(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    unet = {"_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 3, "block_out_channels": [8, 16],
            "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
            "norm_num_groups": 4}  # fmt: skip
    (saved / "config.json").write_text(json.dumps(unet))
    file = tmp_path / "r.yaml"
    file.write_text(f"model: {{from: {saved}, network: {{dropout: 0.5}}}}\n")
    recipe = read_recipe(file)
    assert recipe.init_from == str(saved)
    model = recipe.dump()["model"]
    assert (model["name"], model["network"]["name"], model["network"]["norm_num_groups"]) == ("ddpm", "unet", 4)
    assert recipe.known is not None
    assert recipe.known.target.shape == (3, 16, 16)
    assert model["network"]["dropout"] == 0.5
    file.write_text(recipe.yaml())
    assert read_recipe(file) == recipe
    (tmp_path / "other.yaml").write_text(f"model: {{name: 'models:Pair', from: {saved}}}\n")
    with pytest.raises(RecipeError, match="model.from"):
        read_recipe(tmp_path / "other.yaml")


def test_a_recipe_may_come_through_a_pipe() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m genhub recipe check <(echo 'model: {{name: dppm}}')"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "1: model.name: no model is called 'dppm'; did you mean 'ddpm'?" in done.stderr


# What is imported, in real processes

PROBE = """
import sys
from genhub import read_recipe
from genhub.errors import GenhubError
try:
    read_recipe(sys.argv[1])
except GenhubError as error:
    print(error)
print(sorted({"torch", "diffusers", "accelerate", "datasets"} & set(sys.modules)))
"""


def probe(tmp_path: Path, content: str) -> list[str]:
    (tmp_path / "r.yaml").write_text(content)
    done = subprocess.run([sys.executable, "-c", PROBE, "r.yaml"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_cores_sections_are_answered_without_torch(tmp_path: Path) -> None:
    lines = probe(tmp_path, "model: {name: ddpm, network: {x: 1}}\ntrainer: {max_step: 1}\n")
    assert lines == ["r.yaml:2: trainer.max_step: unknown key; did you mean 'max_steps'?", "[]"]


@pytest.mark.slow
def test_the_models_section_is_answered_without_diffusers(tmp_path: Path) -> None:
    assert probe(tmp_path, DDPM)[-1].endswith("['torch']")
    lines = probe(tmp_path, "model: {name: ddpm, network: {name: unet, block_out_channels: [60]}}\n")
    assert lines[0] == "r.yaml:1: model.network.block_out_channels: 60 does not divide by norm_num_groups 8; 64 does"
    assert lines[1].endswith("['torch']")
