"""In the manner of SQLite's tests: every call of a verb that touches a file fails once, in turn. Then nothing is lost,
nothing is half-written, and the same command ends with the bits of one that nothing happened to."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from file_calls import Call, Calls, watched
from minihub import MiniHub
from PIL import Image
from safetensors.torch import load_file

import genhub
from genhub.cli import main
from genhub.manifest import checkpoints, read_manifest

VAE = {"name": "vae", "channels": [8], "latent_dim": 2}
DATA = {"split": "train[:64]", "batch_size": 16}
TRAINER = {
    "max_steps": 2,
    "log_every": 1,
    "sample_every": 2,
    "num_samples": 2,
    "save_every": 1,
    "keep_last": 2,
    "trackers": [],
}
MEASURE = {"every": 2, "n": 8, "extractor": "pixels", "metrics": ["frechet_distance"], "save_best": "frechet_distance"}
LATENT = {"name": "ddpm", "unet": {"block_out_channels": [8, 16], "add_attention": False}, "autoencoder": "kl"}
RECIPES = {
    "new": {"model": VAE, "data": DATA, "trainer": TRAINER, "evaluate": MEASURE, "run_dir": "new"},
    "run": {"model": VAE, "data": DATA, "trainer": TRAINER, "evaluate": MEASURE, "run_dir": "run"},
    "latent": {"model": LATENT, "data": DATA | {"cache_latents": True}, "trainer": TRAINER | {"sample_every": None}, "run_dir": "latent"},
    "kl": {"model": VAE | {"network": "kl", "channels": [8, 8]}, "data": DATA, "trainer": TRAINER, "run_dir": "kl"},
}  # fmt: skip
VERBS = {
    "train": "train new.yaml",
    "resume": "train run.yaml trainer.max_steps=3 trainer.find_batch_size=true",
    "latents": "train latent.yaml",
    "sample-png": "sample run -n 3 --out a/b/x.png",
    "sample-folder": "sample run -n 7 --batch-size 3 --out folder",
    "sample-npz": "sample run -n 7 --batch-size 3 --out x.npz",
    "sample-parquet": "sample run -n 7 --batch-size 3 --out x.parquet",
    "evaluate": "evaluate run -n 8 --extractor pixels --metrics frechet_distance,precision_recall",
    "sweep": "sweep run.yaml --set seed=0,1 --run-dir swept --out swept.html",
    "compare": "compare run --out report.html",
    "show": "show reconstruct run --out x.png",
    "scaffold": "plugins new my-own",
    "push": "push run alice/pushed",
}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is before a verb: recipes, a run of two steps, and an autoencoder."""
    folder = tmp_path_factory.mktemp("before")
    for name, recipe in RECIPES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GENHUB_CACHE", str(folder / "cache"))
        for name in ("run", "kl"):
            genhub.train(f"{name}.yaml")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    return folder


@dataclass
class Place:
    """A copy of that folder, in which a verb is called."""

    before: Path
    folder: Path
    patch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    hub: MiniHub

    def anew(self) -> None:
        self.patch.chdir("/")
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.before, self.folder)
        self.patch.chdir(self.folder)
        self.patch.setenv("GENHUB_CACHE", str(self.folder / "cache"))
        self.hub.repos, self.hub.uploads = {}, {}

    def pushed(self) -> dict[str, bytes]:
        """The weights on the Hub."""
        files = self.hub.repos["alice/pushed"].files if self.hub.repos else {}
        return {name: content for name, content in files.items() if name.endswith(".safetensors")}

    def call(self, words: str, calls: Calls | None = None) -> tuple[int, str]:
        """Exit code and what was said on stderr."""
        self.patch.setattr(sys, "argv", ["genhub", *words.split()])
        code: object = 0
        try:
            with watched(calls or Calls(self.folder)):
                main()
        except SystemExit as error:
            code = error.code or 0
        assert isinstance(code, int)
        return code, self.capsys.readouterr().err

    def call_failing(self, words: str, number: int) -> tuple[int, str]:
        """The same, with its `number`-th call to a file failing: a write, with half of it done."""

        def fail(at: int, call: Call) -> None:
            if at == number:
                code = errno.ENOSPC if at % 2 else errno.EIO
                raise OSError(code, os.strerror(code), str(call.paths[0]))

        return self.call(words, Calls(self.folder, fail, lambda at: at == number))


@pytest.fixture
def place(before, tmp_path, monkeypatch, capsys, hub) -> Place:
    monkeypatch.setattr("genhub.sampling.PART", 3)
    monkeypatch.setattr("genhub.files.PART", 3)
    trains = tmp_path / "python"  # what a sweep starts: a run that is there at once
    trains.write_text(f'#!/bin/sh\nfor last; do :; done\necho trained\ntest -d "$last" || cp -r {before}/run "$last"\n')
    trains.chmod(0o755)
    monkeypatch.setattr("genhub.evaluation.sweep.sys.executable", str(trains))
    return Place(before, tmp_path / "place", monkeypatch, capsys, hub)


def read(file: Path) -> object:
    """What a file holds, by its own reader, but for times."""
    match file.suffix:
        case ".json":
            content = json.loads(file.read_bytes())
            times = {"seconds", "checksum", "files"} if isinstance(content, dict) else set()
            return {key: value for key, value in content.items() if key not in times} if times else content
        case ".jsonl":
            lines = [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
            return [{key: line[key] for key in line if key not in ("seconds", "images_per_second")} for line in lines]
        case ".png":
            with Image.open(file) as image:
                return np.asarray(image).tolist()
        case ".npz":
            with np.load(file) as arrays:
                return {name: arrays[name].tolist() for name in arrays}
        case ".parquet":
            return pyarrow.parquet.read_table(file).to_pylist()
        case ".safetensors":
            return {name: tensor.tolist() for name, tensor in load_file(file).items()}
        case ".html":
            assert file.read_text().rstrip().endswith("</html>")
            return None
        case ".log":
            return None
    content = file.read_bytes()
    assert content, file
    return content


def held_in(folder: Path) -> dict[str, object]:
    """All that a folder holds, read; and each checkpoint is whole."""
    for run in folder.glob("*/checkpoints"):
        for checkpoint in checkpoints(run.parent):
            read_manifest(checkpoint).verify(checkpoint)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    shown = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    return {str(file.relative_to(folder)): read(file) for file in shown if file.suffix != ".lock"}


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name not in (".lock", ".owner")]


def problem_after(place: Place, verb: str, number: int, expected: dict[str, object], pushed: object) -> str | None:
    """What is wrong after a verb in which a call failed, and after it was called once more."""
    place.anew()
    old = held_in(place.folder)
    try:
        code, said = place.call_failing(VERBS[verb], number)
        if any(not line.startswith("genhub: ") for line in said.splitlines()) or (code and not said):
            return f"exit code {code}, {said!r}"
        found = held_in(place.folder)
        lost = [
            name
            for name in old
            if found.get(name) != old[name] and "metrics.jsonl" not in name and "step-000001" not in name
        ]
        if lost:
            return f"lost or changed: {lost}"
        again, said = place.call(VERBS[verb])
        if again and not (verb == "scaffold" and "exists already" in said):
            return f"again: exit code {again}, {said!r}"
        found = held_in(place.folder)
        other = [name for name in {**found, **expected} if found.get(name, "none") != expected.get(name, "none")]
        if other or place.pushed() != pushed or left_over(place.folder):
            return f"other than without: {other}, left over: {left_over(place.folder)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def each_fails(place: Place, verb: str, every: int) -> None:
    place.anew()
    calls = Calls(place.folder)
    assert place.call(VERBS[verb], calls) == (0, "")
    expected, pushed = held_in(place.folder), place.pushed()
    problems = []
    for number in range(0, len(calls.seen), every):
        if problem := problem_after(place, verb, number, expected, pushed):
            call = calls.seen[number]
            problems.append(
                f"{number} {call.kind} {' '.join(str(path.relative_to(place.folder)) for path in call.paths)}: {problem}"
            )
    print(f"{verb}: {len(calls.seen)} calls, {len(range(0, len(calls.seen), every))} failed, {len(problems)} problems")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("verb", VERBS)
def test_some_calls_fail(place: Place, verb: str) -> None:
    each_fails(place, verb, int(os.environ.get("EVERY", "40")))
