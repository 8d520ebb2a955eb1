"""The public names, pinned: adding one is a decision, and removing one breaks somebody."""

from __future__ import annotations

import subprocess
import sys

import pytest

import genhub

PUBLIC = [
    "Autoencoder", "Batch", "CheckpointError", "DataError", "Denoiser", "DenoisingStep", "GenerativeModel", "Generators",
    "GenhubError", "HubError", "HubUnavailable", "InputError", "Interrupted", "Likelihood", "ModelConfig", "ModelPath", "Phase", "PluginError", "PositiveInt",
    "Recipe", "RecipeError", "Scheduler", "Section", "StoredModel", "Trainer", "TrainerConfig", "TrainingData", "TrainingError", "did_you_mean",
    "load",
    "load_scheduler", "load_strictly", "push_to_hub", "randn", "read_json", "read_recipe", "sample", "save_tensors", "scheduler_names", "show",
    "train",
]  # fmt: skip


def test_the_public_names() -> None:
    assert sorted(genhub.__all__) == PUBLIC
    assert all(getattr(genhub, name) is not None for name in PUBLIC)
    assert set(PUBLIC) <= set(dir(genhub))
    assert genhub.__version__ == __import__("importlib.metadata").metadata.version("genhub-framework")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        genhub.trian  # noqa: B018


def test_importing_genhub_costs_nothing() -> None:
    script = "import sys, genhub; print(sorted({'torch', 'pydantic', 'yaml', 'typer', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
