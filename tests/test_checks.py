"""What is said before step 0."""

from __future__ import annotations

from pathlib import Path

import models
import pytest
import torch
from test_trainer import pair

import genhub
from genhub.recipe.sections import AccelerateConfig
from genhub.training.checks import check_config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("models:NoLoss", "phase 'generator': must return a mapping whose 'loss' is a tensor with a gradient"),
        ("models:WrongNetwork", "no network is called 'genrator'; did you mean 'generator'?"),
        ("models:Overlap", r"both train \['generator'\], but not the same networks"),
    ],
)
def test_a_broken_contract_is_named_before_the_first_update(tiny, name, message):
    with pytest.raises(genhub.TrainingError, match=message):
        genhub.train(pair(tiny, name))
    assert not (Path(tiny["run_dir"]) / "metrics.jsonl").exists()
    assert not (Path(tiny["run_dir"]) / "checkpoints").exists()


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The phases of all losses that a Pair computes, in their order."""
    seen: list[str] = []
    forward = models.Pair.forward
    monkeypatch.setattr(models.Pair, "forward", lambda self, batch, phase: seen.append(phase) or forward(self, batch, phase))
    return seen


def test_a_loss_is_computed_once_a_step(tiny, computed):
    """The first one, too, which is also checked."""
    genhub.train(pair(tiny, max_steps=2))
    assert computed == ["generator", "critic", "penalty", "generator", "critic"]


def test_a_first_loss_that_is_not_finite_ends_the_run_in_the_first_step(tiny, computed):
    recipe = pair(tiny, "models:Spikes", log_every=100)
    recipe["model"]["share"] = 1.0
    with pytest.raises(genhub.TrainingError, match=r"step 1, phase 'generator': loss is nan\."):
        genhub.train(recipe)
    assert computed == ["generator", "critic", "penalty"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.mixed_precision=fp16", "fp16 needs a CUDA device; use bf16 or no"),
        ("trainer.trackers=[tensorbord]", "no tracker is called 'tensorbord'; did you mean 'tensorboard'"),
        ("trainer.trackers=[comet_ml]", "comet_ml is not installed: pip install comet_ml"),
        ("trainer.optimizers.netwrk.lr=1", "trainer.optimizers.netwrk: no phase trains it; did you mean 'network'"),
        ("trainer.optimizer.momentum=0.9", "trainer.optimizer.momentum: AdamW has no such argument"),
        ("trainer.gradient_accumulation_steps=3", "data.batch_size"),
        ("model.conditions=[labl]", r"model.conditions: digits has no column 'labl'; did you mean 'label'"),
        ("data.columns.image.size=9", "need sides divisible by 2, .* are 9x9"),
    ],
)
def test_what_can_not_work_is_said_before_step_0(tiny, override, message):
    if torch.cuda.is_available() and "fp16" in override:
        pytest.skip("fp16 works here")
    with pytest.raises(genhub.InputError, match=message):
        genhub.train(tiny, [override])


def test_a_model_that_needs_labels_and_data_without(tiny, tmp_path):
    from PIL import Image

    for i in range(3):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    tiny["data"] = {"name": str(tmp_path), "batch_size": 2}
    recipe = pair(tiny, "models:Labelled")
    recipe["model"]["conditions"] = ["label"]
    with pytest.raises(genhub.DataError, match="model.conditions: .* has no column 'label'"):
        genhub.train(recipe)


def test_columns_nobody_uses_are_said_once(tiny, capsys):
    genhub.train(tiny)
    assert capsys.readouterr().out.count("the data also has label, ink; ddpm is not given them") == 1


def test_bf16_that_the_device_lacks(monkeypatch):
    """No such device is at hand: torch's answers are."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(genhub.RecipeError, match="trainer.mixed_precision: Tesla T4 has no bf16; use fp16 or no"):
        check_config(AccelerateConfig(mixed_precision="bf16"))
    check_config(AccelerateConfig(mixed_precision="bf16", device="cpu", trackers=()))
