"""What evaluation keeps beside the figures: two at once, damaged files, a run and a cache that can't be written to."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from faults import _genhub
from test_evaluation_weights import RECIPE, measured

import genhub
from genhub.evaluation.cache import kept
from genhub.evaluation.compare import compare
from genhub.evaluation.protocol import read_evaluation, stored_evaluations

WORDS = ("--extractor", "pixels", "--metrics")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return genhub.train(RECIPE | {"run_dir": str(tmp_path_factory.mktemp("runs") / "run")}).parents[1]


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_two_evaluations_of_one_run_at_once(run, tmp_path, cache, zygote):
    """Two processes, each its metric: no traceback, and both figures in one file."""
    environment = {"GENHUB_CACHE": str(cache)}
    jobs = [
        zygote.start("genhub.cli:main", "evaluate", "run", "-n", "700", *WORDS, metric, cwd=tmp_path, env=environment)
        for metric in ("frechet_distance", "kernel_distance")
    ]
    assert [(job.wait(), job.err) for job in jobs] == [(0, "")] * 2
    (found,) = compare([run]).rows[0].evaluations
    assert found.values.keys() == {"frechet_distance", "kernel_distance", "kernel_distance_std"}
    alone = genhub.evaluate(run, 700, metrics=["frechet_distance"], extractor="pixels")
    assert alone.values["frechet_distance"] == found.values["frechet_distance"]


def test_many_figures_kept_at_once(run, tmp_path):
    measured(run)
    (found,) = stored_evaluations(next((run / "checkpoints").iterdir()))
    each = [found.model_copy(update={"values": {f"figure_{i}": float(i)}, "notes": (f"note {i}",)}) for i in range(24)]
    with ThreadPoolExecutor(12) as pool:
        (file,) = set(pool.map(lambda one: one.write(tmp_path / "kept"), each))
    merged = read_evaluation(file)
    assert merged.values == {f"figure_{i}": i for i in range(24)}
    assert len(merged.notes) == 24
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {file.name, ".lock"}


def test_a_damaged_evaluation_is_said_and_measured_again(run, capsys):
    """Every way of damaging the file: it is as if it had not been measured, for every verb, and a line says so."""
    value = measured(run)
    (file,) = (run / "evaluations").glob("*.json")
    whole = file.read_bytes()
    damaged = [b"", b"\0" * len(whole), b"[]", b"{}", whole[:-3], whole + b"x"]
    damaged += [whole[:at] for at in range(1, len(whole), 97)]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(5, len(whole), 53)]
    for content in damaged:
        file.write_bytes(content)
        if content.split() == whole.split():  # between the words
            continue
        found = compare([run]).rows[0].evaluations
        said = capsys.readouterr().err
        assert found == () or (found[0].values["frechet_distance"] == value and json.loads(content) == json.loads(whole))
        assert bool(found) or f"{file}: " in said
        assert "left out: genhub evaluate measures again" in said or found
        assert said.count("\n") <= 1
    file.write_bytes(damaged[-1])
    assert measured(run) == value
    assert compare([run]).rows[0].evaluations[0].values["frechet_distance"] == value


def damage(file: Path) -> list[bytes]:
    whole = file.read_bytes()
    return [b"", b"\0" * len(whole), whole[: len(whole) // 2], whole[:-100] + b"\0" * 100,
            whole[:400] + b"\0" * (len(whole) - 400), whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]]  # fmt: skip


def test_damaged_caches_and_images_are_not_used(run, cache):
    """Each file that evaluation keeps: emptied, zero, cut, a bit turned; the figures are the right ones, and it is made again."""

    def figures() -> dict[str, float]:
        return dict(genhub.evaluate(run, 20, metrics=["frechet_distance", "precision_recall"], extractor="pixels").values)

    right = figures()
    files = [*(cache / "features").glob("*.safetensors"), *(run / "evaluations").rglob("part-*")]
    assert len(files) == 4  # features, their radii, what the extractor can tell, images
    for file in files:
        whole = file.read_bytes()
        for content in damage(file):
            file.write_bytes(content)
            assert figures() == right
            assert file.read_bytes() == whole


def test_a_cache_that_can_not_be_written_is_said(tmp_path, capsys):
    (tmp_path / "file").touch()
    values = {"x": torch.arange(3)}
    for file in (tmp_path / "file" / "x.safetensors", Path("/proc/genhub/x.safetensors")):
        assert kept(file, lambda: (values, {"a": "b"})) == (values, {"a": "b"})
        assert f"genhub: {file}: can't be saved: " in (said := capsys.readouterr().err)
        assert said.endswith("; it is computed each time\n")

    def unreadable():
        raise genhub.DataError("an image can't be read")

    with pytest.raises(genhub.DataError):
        kept(tmp_path / "x.safetensors", unreadable)


def test_a_full_disk_does_not_lose_figures(run, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("genhub.evaluation.protocol.write_whole", full)
    assert measured(run) > 0
    assert "No space left on device" in (said := capsys.readouterr().err)
    assert said.endswith("the figures are shown, but not kept\n")


def evaluate_by_the_rules(*words: str) -> None:
    """For a child: where it is root's, who may write anywhere, modes count from now on (Linux's CAP_DAC_OVERRIDE, bit 1)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets, libc = (ctypes.c_uint32 * 6)(), ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    sets[0] &= ~2
    assert libc.capset(header, sets) == 0
    _genhub("evaluate", *words)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="root may write anywhere elsewhere")
@pytest.mark.parametrize("cache_too", [False, True])
def test_a_run_that_can_not_be_written_is_measured(run, cache, tmp_path, monkeypatch, zygote, cache_too):
    """It is measured and said; where the cache can be written to, figures and images are kept there and found again."""
    cache.mkdir()
    if cache_too:
        cache.chmod(0o555)
    folders = [run, *(path for path in run.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    before = sorted(run.rglob("*"))
    words = (str(run), "-n", "20", *WORDS, "frechet_distance", "--json")
    call, environment = "test_evaluation_side:evaluate_by_the_rules", {"GENHUB_CACHE": str(cache)}
    job = zygote.start(call, *words, cwd=tmp_path, env=environment)
    assert job.wait() == 0, job.err
    values = json.loads(job.out[job.out.index("{") :])["values"]
    (said,) = [line for line in job.err.splitlines() if "evaluations" in line]
    assert said.startswith(f"genhub: {run}/evaluations: Permission denied; ")
    in_cache = f"figures and drawn rows are kept in {cache}/evaluations/"
    where = "the figures are shown, but not kept" if cache_too else in_cache
    assert where in said
    assert sorted(run.rglob("*")) == before
    for folder in folders:
        folder.chmod(0o755)
    assert [found.values for found in compare([run]).rows[0].evaluations] == ([] if cache_too else [values])
