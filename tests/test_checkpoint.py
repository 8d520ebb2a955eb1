"""Folders: written whole or not at all, checked before use, never pickle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import models
import pytest
import torch
from genhub_ddpm import DDPM
from test_trainer import same_bits

import genhub
from genhub.store import checkpoints
from genhub.store.snapshot import snapshot


def make(cls=models.Pair) -> models.Pair:
    torch.manual_seed(0)
    return cls(cls.Config(data=models.images((1, 4, 4)))).eval()


def draw(model) -> torch.Tensor:
    return model.sample(3, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
def test_save_and_load_in_another_process_draws_the_same_bits(tiny, tmp_path):
    folder = genhub.train(tiny)
    here = genhub.sample(folder, 2, seed=5, num_inference_steps=3)
    code = "import genhub, sys; print(genhub.sample(sys.argv[1], 2, seed=5, num_inference_steps=3).flatten().tolist())"
    out = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True).stdout
    assert json.loads(out.splitlines()[-1]) == here.flatten().tolist()


def test_own_class_by_from_pretrained(tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "m")
    assert torch.equal(draw(models.Pair.from_pretrained(tmp_path / "m")), draw(model))
    with pytest.raises(genhub.CheckpointError, match="models:Pair"):
        genhub.load(tmp_path / "m")


def test_save_pretrained_leaves_other_files_alone_and_replaces_its_own(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    make().save_pretrained(tmp_path)
    make().save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["genhub.json", "model.safetensors", "notes.txt"]
    assert json.loads((tmp_path / "genhub.json").read_text())["files"].keys() == {"model.safetensors"}


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_found_and_named(tmp_path, damage):
    make().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "flip":
        content[-7] ^= 4
        weights.write_bytes(content)
    elif damage == "cut":
        weights.write_bytes(content[:-9])
    else:
        weights.unlink()
    with pytest.raises(genhub.CheckpointError, match="model.safetensors: (damaged|missing)"):
        models.Pair.from_pretrained(tmp_path)


def test_another_models_weights_are_refused(tmp_path):
    make().save_networks(tmp_path)
    bigger = models.Pair(models.Pair.Config(data=models.images((1, 4, 4)), hidden=9))
    with pytest.raises(
        genhub.CheckpointError, match=r"tensors don't fit: .*generator.0.weight is \(8, 4\), the model's is \(9, 4\)"
    ):
        bigger.load_networks(tmp_path)


def test_tied_weights_are_saved_and_come_back(tmp_path):
    class Tied(models.Pair):
        def __init__(self, config):
            super().__init__(config)
            self.unused = torch.nn.Linear(8, 1)
            self.unused.weight = self.critic[2].weight

    model = make(Tied)
    model.save_pretrained(tmp_path)
    again = Tied.from_pretrained(tmp_path)
    assert torch.equal(again.unused.weight, model.critic[2].weight)
    assert again.unused.weight is again.critic[2].weight


def test_nothing_half_written_stays_when_saving_fails(tiny, monkeypatch):
    """The disk fills up at the second checkpoint: the first stays, the message has the path."""
    real, calls = os.replace, []

    def full(source, target):
        if "step-" in str(target):
            calls.append(target)
            if len(calls) == 2:
                raise OSError(28, "No space left on device", str(target))
        return real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(genhub.GenhubError, match=r"step-000006: can't be saved: .*No space left on device"):
        genhub.train(tiny)
    folder = Path(tiny["run_dir"]) / "checkpoints"
    assert [p.name for p in folder.iterdir()] == ["step-000003"]
    genhub.load(folder / "step-000003")


def test_training_goes_on_while_a_checkpoint_is_written_and_it_has_the_bits_of_its_step(tiny, tmp_path, monkeypatch):
    keys = ["trainer.max_steps=8", "trainer.save_every=3"]
    whole = genhub.train(tiny, [*keys, f"run_dir={tmp_path / 'whole'}"]).parent
    put_in_place, there, seen = checkpoints.put_in_place, threading.Event(), []

    def late(temporary: Path, folder: Path) -> None:
        if folder.name == "step-000003":
            assert there.wait(60)
        put_in_place(temporary, folder)

    def update(model: DDPM, step: int) -> None:
        seen.append((Path(tiny["run_dir"]) / "checkpoints" / "step-000003").exists())
        if step == 4:
            there.set()

    monkeypatch.setattr(checkpoints, "put_in_place", late)
    monkeypatch.setattr(DDPM, "after_update", update)
    run = genhub.train(tiny, keys).parent
    assert seen[:5] == [False] * 5  # two steps were trained after that of the checkpoint, and it was not there
    for name in ("step-000003", "step-000006", "step-000008"):
        same_bits(run / name, whole / name)
        states = [json.loads((folder / name / "trainer/state.json").read_text()) for folder in (run, whole)]
        assert states[0].pop("seconds") > 0 < states[1].pop("seconds")
        assert states[0] == states[1]


@pytest.mark.parametrize(("cls", "can_be_copied"), [(models.Pair, True), (models.Uncopied, False)])
def test_a_model_that_python_can_not_copy_is_saved_as_any_other(tiny, cls, can_be_copied):
    model = make(cls)
    model.fake(2)
    assert bool(snapshot(model)) == can_be_copied
    tiny["model"] = {"name": f"models:{cls.__name__}"}
    last = genhub.train(tiny, ["trainer.ema=null"])
    assert [folder.name for folder in sorted(last.parent.iterdir())] == ["step-000003", "step-000006"]
    assert draw(cls.from_pretrained(last)).isfinite().all()


def test_a_checkpoint_that_can_not_be_written_ends_the_run_in_one_of_the_next_steps(tiny, monkeypatch):
    refused = threading.Event()

    def full(temporary: Path, folder: Path) -> None:
        refused.set()
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(checkpoints, "put_in_place", full)
    monkeypatch.setattr(DDPM, "after_update", lambda self, step: refused.wait(60) if step == 4 else None)
    with pytest.raises(genhub.GenhubError, match=r"step-000003: can't be saved: .*No space left on device"):
        genhub.train(tiny, ["trainer.max_steps=1000", "trainer.log_every=1"])
    run = Path(tiny["run_dir"])
    assert not list((run / "checkpoints").iterdir())
    assert len((run / "metrics.jsonl").read_text().splitlines()) < 500


def test_leftovers_of_a_killed_save_are_removed(tiny):
    leftover = Path(tiny["run_dir"]) / "checkpoints" / ".step-000003.tmp"
    genhub.train(tiny, ["trainer.max_steps=1"])
    leftover.mkdir(parents=True)
    genhub.train(tiny)
    assert not leftover.exists()


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_no_model_there(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(genhub.CheckpointError, match="no such folder|neither a run"):
        genhub.load(path)
