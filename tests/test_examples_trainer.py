"""The trainer of several processes in examples/plugins, as whoever writes one would see it: real processes, real signals."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_trainer import wait_for
from torch import Tensor

import genhub
from genhub.store.manifest import FileEntry, Manifest
from genhub.testing import check_trainer

DILOCO = Path(__file__).parents[1] / "examples" / "plugins" / "diloco"
RECIPE = {
    "model": {"name": "models:Pair"},  # with batch normalisation, and a phase that is not due in every step
    "data": {"batch_size": 16},
    "trainer": {"name": "genhub_diloco:DiLoCo", "inner_steps": 4, "lr": 0.01, "log_every": 5, "save_every": 6, "keep_last": 9,
                "sample_every": 12, "num_samples": 4},
    "evaluate": {"every": 12, "n": 16, "extractor": "pixels"},
}  # fmt: skip


@pytest.fixture
def diloco(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DILOCO)
    return importlib.import_module("genhub_diloco")


def test_it_keeps_the_contract(diloco: ModuleType) -> None:
    check_trainer(diloco.DiLoCo, {"inner_steps": 2})


def start_on_two(cwd: Path, *words: str) -> subprocess.Popen[str]:
    folders = os.pathsep.join(map(str, (Path(__file__).parent, DILOCO)))
    command = [sys.executable, "-m", "genhub", "train", "recipe.yaml", "--num-processes", "2", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": folders}
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def train_on_two(cwd: Path, *words: str) -> None:
    command = start_on_two(cwd, *words)
    _, errors = command.communicate(timeout=240)
    assert command.returncode == 0, errors


def steps_in(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in run.glob("checkpoints/step-*"))


def tensors_in(run: Path, step: int) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, by its file and name."""
    folder = run / "checkpoints" / f"step-{step:06d}"
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.relative_to(folder)}:{name}": value for file in files for name, value in load_file(file).items()}


def lines_of(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "rows_per_second")} for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_two_processes_are_stopped_and_go_on_to_the_same_bits(tmp_path: Path) -> None:
    """Stopped by a signal; then as if it had been killed, so that it goes on in the middle of a round. What is written is
    there once."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    stopping = start_on_two(tmp_path, "--run-dir", "parts", "trainer.max_steps=100000", "trainer.keep_last=99999")
    wait_for(lambda: 18 in steps_in(parts) or stopping.poll() is not None)
    stopping.send_signal(signal.SIGTERM)
    _, errors = stopping.communicate(timeout=240)
    assert stopping.returncode == 143, errors
    stopped = steps_in(parts)[-1]
    assert re.search(rf"^genhub: stopped at step {stopped}; the same command goes on from there$", errors, re.MULTILINE)
    assert stopped % 4 == 0  # a round's end

    for step in steps_in(parts):
        if step > 18:
            shutil.rmtree(parts / "checkpoints" / f"step-{step:06d}")
    train_on_two(tmp_path, "--run-dir", "parts", "trainer.max_steps=36")
    train_on_two(tmp_path, "--run-dir", "whole", "trainer.max_steps=36")
    ours, theirs = tensors_in(parts, 36), tensors_in(whole, 36)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    own = tensors_in(whole, 30)["trainer/own.safetensors:model.generator.0.weight"]
    assert own.shape[0] == 2
    assert not torch.equal(own[0], own[1])  # in the middle of a round

    lines = lines_of(whole)
    assert lines_of(parts) == lines
    assert [line["step"] for line in lines if "generator/loss" in line] == [*range(5, 36, 5), 36]
    measured = [line["step"] for line in lines if any(name.startswith("evaluate/") for name in line)]
    assert measured == [12, 24, 36]
    pictures = [f"step-{step:06d}.png" for step in measured]
    assert sorted(file.name for file in (whole / "samples").iterdir()) == pictures
    assert set(pictures) <= {file.name for file in (parts / "samples").iterdir()}  # the one that was stopped went further


def test_a_run_of_two_processes_does_not_go_on_in_one(diloco: ModuleType, tmp_path: Path) -> None:
    recipe = RECIPE | {"evaluate": None, "run_dir": str(tmp_path / "run")}
    folder = genhub.train(recipe, ["trainer.max_steps=2", "trainer.sample_every=null"])
    state = folder / "trainer" / "state.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps(content | {"processes": content["processes"] * 2}))
    manifest = json.loads((folder / "genhub.json").read_text())
    manifest["files"]["trainer/state.json"] = FileEntry.of(state).model_dump()
    (folder / "genhub.json").write_text(Manifest.model_validate(manifest).text())
    with pytest.raises(genhub.RecipeError, match="is of 2 processes, each with weights of its own; go on with --num-proc"):
        genhub.train(recipe, ["trainer.max_steps=4", "trainer.sample_every=null"])
