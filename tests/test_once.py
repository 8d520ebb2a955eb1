"""Each command does once: validate its recipe, ask the Hub for a model, compare a checkpoint's files with their hashes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from minihub import MiniHub

import genhub
from genhub import cli
from genhub.recipe import recipe as recipes


@dataclass
class Counts:
    """Counts of a command's work."""

    validated: int
    """Number of recipes that were validated."""
    hashed: int
    """Largest number of times that one file was hashed."""
    looked_up: int
    """Number of times that the Hub was asked for a model."""


Run = Callable[..., Counts]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: dict, hub: MiniHub) -> Run:
    """Run a command in this process and count; recipe.yaml trains two steps."""
    validated, hashed = [0], Counter[Path]()
    validate, file_digest = recipes._validate, hashlib.file_digest

    def counting_validate(*arguments: Any) -> Any:
        validated[0] += 1
        return validate(*arguments)

    def counting_digest(stream: Any, digest: Any) -> Any:
        if digest == "sha256":  # images are known by another
            hashed[Path(stream.name).resolve()] += 1
        return file_digest(stream, digest)

    def run(*words: str, code: int = 0) -> Counts:
        validated[0], before = 0, len(hub.requests)
        hashed.clear()
        monkeypatch.setattr(sys, "argv", ["genhub", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code or 0) == code
        looked_up = [path for method, path in hub.requests[before:] if method == "GET" and path.startswith("/api/models/")]
        return Counts(validated[0], max(hashed.values(), default=0), len(looked_up))

    monkeypatch.setattr(recipes, "_validate", counting_validate)
    monkeypatch.setattr(hashlib, "file_digest", counting_digest)
    monkeypatch.chdir(tmp_path)
    tiny["trainer"] |= {"max_steps": 2, "save_every": 2}
    Path("recipe.yaml").write_text(yaml.safe_dump(tiny | {"run_dir": "run"}))
    return run


def test_training_and_going_on(run: Run) -> None:
    assert run("recipe", "check", "recipe.yaml") == Counts(validated=1, hashed=0, looked_up=0)
    assert run("train", "recipe.yaml") == Counts(1, 1, 0)  # what it wrote
    assert run("train", "recipe.yaml", "trainer.max_steps=4") == Counts(1, 1, 0)
    assert run("train", "recipe.yaml", "trainer.max_steps=4") == Counts(1, 1, 0)  # there is nothing to do
    assert run("train", "recipe.yaml", "trainer.max_steps=6", "--dry-run") == Counts(1, 1, 0)


def test_what_reads_a_run(run: Run) -> None:
    genhub.train("recipe.yaml")
    for where in ("run", "run/checkpoints/step-000002"):
        assert run("sample", where, "-n", "2", "--out", "images.npz") == Counts(0, 1, 0)
        assert run("info", where) == Counts(0, 1, 0)
        assert run("compare", where) == Counts(0, 1, 0)
        assert run("show", "neighbours", where, "-n", "2") == Counts(0, 1, 0)  # a model and its images
        assert run("evaluate", where, "-n", "8", "--metrics", "frechet_distance", "--extractor", "pixels") == Counts(0, 1, 0)
    assert run("show", "forward", "recipe.yaml") == Counts(1, 0, 0)


def test_a_model_on_the_hub(run: Run) -> None:
    genhub.train("recipe.yaml")
    pushed = run("push", "run", "alice/model")
    assert (pushed.validated, pushed.hashed) == (0, 1)
    assert run("sample", "alice/model", "-n", "2", "--out", "images.npz") == Counts(0, 1, 1)
    assert run("info", "alice/model").looked_up == 1
    assert run("show", "neighbours", "alice/model", "-n", "2") == Counts(0, 1, 1)
    measured = run("evaluate", "alice/model", "-n", "8", "--metrics", "frechet_distance", "--extractor", "pixels")
    assert measured == Counts(0, 1, 1)
    assert run("train", "alice/model", "trainer.max_steps=1", "--run-dir", "again") == Counts(1, 1, 1)
    assert run("train", "recipe.yaml", "model.from=alice/model", "--run-dir", "from") == Counts(1, 1, 1)


def test_a_sweep_validates_each_recipe_of_its_grid(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genhub.sweeps.point.command_line", lambda: ["false"])  # in processes of their own
    assert run("sweep", "recipe.yaml", "--set", "seed=0,1,2", code=1) == Counts(1 + 3, 0, 0)  # and the one as it is written
    assert run("sweep", "recipe.yaml", "--set", "seed=0,1,2", "--run-dir", "runs", code=1) == Counts(3, 0, 0)


HASHING = """
import hashlib, os, sys
from genhub import cli

file_digest = hashlib.file_digest

def told(stream, digest):
    if "step-000002" in str(stream.name):
        print(f"process {os.environ['RANK']} hashes {stream.name}", file=sys.stderr)
    return file_digest(stream, digest)

hashlib.file_digest = told
sys.argv[0] = "genhub"
cli.main()
"""


@pytest.mark.slow
def test_of_two_processes_the_first_alone_compares_files_with_their_hashes(run: Run, tmp_path: Path) -> None:
    genhub.train("recipe.yaml")
    (tmp_path / "hashing.py").write_text(HASHING)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "hashing.py"]
    words = ["train", "recipe.yaml", "trainer.max_steps=4"]
    done = subprocess.run([*command, *words], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if " hashes " in line]
    assert len(told) == len(set(told)) >= 5
    assert all(line.startswith("process 0 ") for line in told)
