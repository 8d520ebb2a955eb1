"""Checkpoints and metrics that are damaged, or of a newer genhub. Case numbers are those of docs/reliability.md."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from pathlib import Path

import models
import pytest
import torch
from file_calls import Call, Calls, watched
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_trainer import metrics, pair

import genhub
from genhub.store.find import find_checkpoint
from genhub.store.run_folder import RunFolder


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """A run with three checkpoints."""
    folder = tmp_path_factory.mktemp("three")
    tiny = {"model": {"name": "models:Pair"}, "data": {"batch_size": 16}, "run_dir": str(folder / "run"),
            "trainer": {"max_steps": 3, "save_every": 1, "sample_every": None, "trackers": []}}  # fmt: skip
    genhub.train(tiny)
    return folder / "run"


def failing(file: Path) -> Calls:
    """A file that can't be opened."""

    def fail(call: Call) -> None:
        if call.paths[0] == file:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))

    return Calls(file.parent, fail)


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.slow
def test_case_04_05_any_damage_to_checkpoints_is_found(three, tmp_path_factory, data):
    """Truncated, flipped, swapped, emptied, lengthened, deleted, exchanged between checkpoints, renamed: a run goes on from
    a checkpoint that is what it was when it was written, or is told that there is none; a model loads right or not at all."""
    run = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(three, run)
    originals = {folder.name: content_of(folder) for folder in (three / "checkpoints").iterdir()}
    models_of = {name: models.Pair.from_pretrained(three / "checkpoints" / name).state_dict() for name in originals}
    for _ in range(data.draw(st.integers(1, 4))):
        files = sorted(file for file in (run / "checkpoints").rglob("*") if file.is_file())
        if not files:
            break
        file = data.draw(st.sampled_from(files))
        content = file.read_bytes()
        match data.draw(st.sampled_from(["cut", "flip", "swap", "empty", "longer", "delete", "folders", "vanish"])):
            case "cut":
                file.write_bytes(content[: data.draw(st.integers(0, max(0, len(content) - 1)))])
            case "flip" if content:
                at = data.draw(st.integers(0, len(content) - 1))
                file.write_bytes(content[:at] + bytes([content[at] ^ 1 << data.draw(st.integers(0, 7))]) + content[at + 1 :])
            case "swap":
                other = data.draw(st.sampled_from(files))
                theirs = other.read_bytes()
                other.write_bytes(content)
                file.write_bytes(theirs)
            case "empty":
                file.write_bytes(b"")
            case "longer":
                file.write_bytes(content + data.draw(st.binary(min_size=1, max_size=9)))
            case "delete":
                file.unlink()
            case "folders":
                one, other = data.draw(st.tuples(*[st.sampled_from(sorted((run / "checkpoints").iterdir()))] * 2))
                for source, target in [(one, run / "x"), (other, one), (run / "x", other)] if one != other else []:
                    source.rename(target)
            case "vanish":
                shutil.rmtree(data.draw(st.sampled_from(sorted((run / "checkpoints").iterdir()))))

    whole = [name for name in originals if (folder := run / "checkpoints" / name).is_dir()
             and same_meaning(content_of(folder), originals[name])]  # fmt: skip
    there = list((run / "checkpoints").iterdir())
    if there and not whole:
        with pytest.raises(genhub.CheckpointError, match="^[^\n]*no checkpoint is whole[^\n]*$"):
            RunFolder(run).newest_whole()
        return
    newest, complaints = RunFolder(run).newest_whole()
    assert (newest.name if newest else None) == max(whole, default=None)
    assert len(complaints) == sum(folder.name > (newest.name if newest else "") for folder in there)
    for folder in there:  # the model alone: what only resuming needs doesn't matter to it
        with contextlib.suppress(genhub.CheckpointError):
            loaded = models.Pair.from_pretrained(folder).state_dict()
            rights = [models_of[name] for name in originals]
            assert any(all(torch.equal(loaded[key], right[key]) for key in right) for right in rights)


def same_meaning(content: dict[str, bytes], original: dict[str, bytes]) -> bool:
    """Equal to the bit; genhub.json may differ in what JSON doesn't care about."""
    try:
        same_json = json.loads(content.get("genhub.json", b"")) == json.loads(original["genhub.json"])
    except (ValueError, RecursionError):
        return False
    return same_json and all(content.get(name) == original[name] for name in original if name != "genhub.json")


def test_whoever_takes_an_earlier_checkpoint_says_so(three, tmp_path, capsys):
    """A damaged one is named; one that can't be read now is no reason to take another."""
    run = shutil.copytree(three, tmp_path / "run")
    newest = run / "checkpoints" / "step-000003"
    content = (newest / "genhub.json").read_bytes()
    (newest / "genhub.json").write_bytes(b"")
    assert find_checkpoint(run) == newest.with_name("step-000002")
    said = capsys.readouterr().err
    assert re.fullmatch(rf"genhub: {newest}/genhub.json: damaged: [^\n]*; taking an earlier checkpoint\n", said)
    (newest / "genhub.json").write_bytes(content)
    assert find_checkpoint(run) == newest
    for unreadable in ("genhub.json", "model.safetensors"):
        with watched(failing(newest / unreadable)), pytest.raises(genhub.GenhubError, match="^[^\n]*: Input/output error$"):
            find_checkpoint(run)
    assert capsys.readouterr().err == ""


def test_case_05_a_checkpoint_of_a_newer_genhub_is_left_alone(tiny):
    folder = genhub.train(pair(tiny))
    from genhub.store.manifest import Manifest, read_manifest

    newer = Manifest.model_validate(read_manifest(folder).model_dump() | {"format": 3, "genhub": "9.1.0"}).sealed()
    (folder / "genhub.json").write_text(newer.model_dump_json())
    with pytest.raises(genhub.CheckpointError, match=r"step-000006/genhub.json: format 3 needs genhub >= 9.1.0"):
        genhub.train(tiny)
    assert (folder.parent / "step-000003").is_dir()
    assert (folder / "genhub.json").is_file()


def test_metrics_that_a_crash_of_the_machine_damaged(tiny):
    pair(tiny, log_every=1)
    genhub.train(tiny, ["trainer.max_steps=3"])
    file = Path(tiny["run_dir"]) / "metrics.jsonl"
    lines = file.read_text().splitlines()
    file.write_bytes("\n".join([*lines[:2], "\0\0", "[3]", '{"step": "x"}', lines[2], '{"ste']).encode())
    genhub.train(tiny)
    assert [line["step"] for line in metrics(Path(tiny["run_dir"]))] == [1, 2, 3, 4, 5, 6]
