"""In the manner of SQLite's tests: every call of a verb that touches a file fails once, in turn. Then nothing is lost,
nothing is half-written, and the same command ends with the bits of one that nothing happened to."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from conftest import HUB
from file_calls import Call, Calls, watched
from hypothesis import settings
from PIL import Image
from safetensors.torch import load_file

import genhub
from genhub.cli import main
from genhub.store.manifest import read_manifest
from genhub.store.run_folder import RunFolder

VAE = {"name": "vae", "channels": [8], "latent_dim": 2}
DATA = {"split": "train[:64]", "batch_size": 16}
TRAINER = {"max_steps": 2, "log_every": 1, "sample_every": 2, "num_samples": 2, "save_every": 1, "keep_last": 2,
           "trackers": []}  # fmt: skip
MEASURE = {"every": 2, "n": 8, "extractor": "pixels", "metrics": ["frechet_distance"], "save_best": "frechet_distance"}
LATENT = {
    "name": "ddpm",
    "network": {"name": "unet", "block_out_channels": [8, 16], "add_attention": False},
    "autoencoder": "kl",
}
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
    "init": "init digits --model vae --out a/b/init.yaml",
    "data": "data digits --out a/b/x.png",
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

    def anew(self) -> None:
        self.patch.chdir("/")
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.before, self.folder)
        self.patch.chdir(self.folder)
        self.patch.setenv("GENHUB_CACHE", str(self.folder / "cache"))
        HUB.repos, HUB.uploads = {}, {}

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

    def call_failing(self, words: str, faulty: Call) -> tuple[int, str]:
        """The same, with a call to a file failing: a write, with half of it done."""

        def fail(call: Call) -> None:
            if call.place == faulty.place:
                code = errno.ENOSPC if call.place[1] % 2 else errno.EIO
                raise OSError(code, os.strerror(code), str(call.paths[0]))

        return self.call(words, Calls(self.folder, fail, lambda at: at == faulty.place))


@pytest.fixture
def place(before, tmp_path, monkeypatch, capsys, hub) -> Iterator[Place]:
    monkeypatch.setattr("genhub.sampling.draw.PART", 3)
    monkeypatch.setattr("genhub.sampling.files.PART", 3)
    trains = tmp_path / "python"  # what a sweep starts: a run that is there at once
    trains.write_text(f'#!/bin/sh\nfor last; do :; done\necho trained\ntest -d "$last" || cp -r {before}/run "$last"\n')
    trains.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(trains))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a child that is forked has no others
    yield Place(before, tmp_path / "place", monkeypatch, capsys)
    torch.set_num_threads(threads)


def as_json(line: str) -> dict[str, float] | None:
    """A line of metrics.jsonl; None for one that was cut off."""
    with contextlib.suppress(ValueError):
        return json.loads(line)
    return None


def read(file: Path) -> object:
    """What a file holds, by its own reader, but for times."""
    match file.suffix:
        case ".json":
            content = json.loads(file.read_bytes())
            times = {"seconds", "checksum", "files"} if isinstance(content, dict) else set()
            return {key: value for key, value in content.items() if key not in times} if times else content
        case ".jsonl":
            lines = filter(None, map(as_json, file.read_text("utf-8", "replace").splitlines()))
            return [{key: line[key] for key in line if key not in ("seconds", "rows_per_second")} for line in lines]
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
    """All that a folder holds, read, and what is on the Hub; each checkpoint is whole."""
    for run in folder.glob("*/checkpoints"):
        for checkpoint in RunFolder(run.parent).checkpoints():
            read_manifest(checkpoint).verify(checkpoint)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    shown = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    pushed = {f"{repo}: {name}": content for repo in HUB.repos for name, content in HUB.repos[repo].files.items()}
    return {str(file.relative_to(folder)): read(file) for file in shown if file.suffix != ".lock"} | {
        name: content for name, content in pushed.items() if name.endswith(".safetensors")
    }


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name not in (".lock", ".owner")]


def other_than(expected: dict[str, object], found: dict[str, object], old: dict[str, object]) -> list[str]:
    """The files that are not as they would be had nothing happened. What was to be deleted may be there still, whole, and a
    cache elsewhere."""
    kept = {name for name in old if name not in expected and found.get(name) == old[name]}
    names = {name for name in {**found, **expected} if not name.startswith("cache/")} - kept
    return [name for name in names if name not in found or name not in expected
            or found[name] != expected[name]]  # fmt: skip


def problem_after(place: Place, verb: str, faulty: Call, old: dict[str, object], expected: dict[str, object]) -> str | None:
    """What is wrong after a verb in which a call failed, or after it was called once more."""
    place.anew()
    try:
        code, said = place.call_failing(VERBS[verb], faulty)
        if any(not line.startswith("genhub: ") for line in said.splitlines()) or (code and not said):
            return f"exit code {code}, {said!r}"
        found, gone = held_in(place.folder), object()
        lost = [name for name in old if found.get(name, gone) not in (old[name], expected.get(name, gone))]
        for name in [name for name in lost if name.endswith("metrics.jsonl")]:  # its lines come one by one
            if all(line in found[name] for line in old[name]):
                lost.remove(name)
        if lost:
            return f"lost or changed: {lost}"
        again, said = place.call(VERBS[verb])
        if again and not (verb == "scaffold" and "exists already" in said):
            return f"again: exit code {again}, {said!r}"
        other = other_than(expected, held_in(place.folder), old)
        if other or left_over(place.folder):
            return f"other than without: {other}, left over: {left_over(place.folder)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def spread(calls: int, count: int) -> range:
    """The numbers of about so many of the calls, evenly; with `--hypothesis-profile thorough` those of all."""
    every = 1 if settings().max_examples > 1000 else max(1, calls // count)
    return range(every // 2, calls, every)


def each_fails(place: Place, verb: str, count: int) -> None:
    place.anew()
    old, calls = held_in(place.folder), Calls(place.folder)
    assert place.call(VERBS[verb], calls) == (0, "")
    expected, problems = held_in(place.folder), []
    for number in spread(len(calls.seen), count):
        if problem := problem_after(place, verb, calls.seen[number], old, expected):
            problems.append(f"{calls.seen[number].said(place.folder)}: {problem}")
    assert not problems, "\n".join(problems)


def test_a_call_that_fails_once(place: Place) -> None:
    each_fails(place, "train", 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("verb", VERBS)
def test_many_calls_that_fail_once(place: Place, verb: str) -> None:
    each_fails(place, verb, 12)
