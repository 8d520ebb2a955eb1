"""Batches made ahead by worker processes: little shared memory, and what ends the wait for a batch."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import write_recipe
from test_trainer import metrics, pair, same_bits, wait_for

import genhub
from genhub.data.workers import deaths_explained, load_ahead
from genhub.errors import TrainingError
from genhub.interfaces.columns import DataConfig
from genhub.store.run_folder import RunFolder


@pytest.fixture
def recipe(tiny, tmp_path) -> str:
    """Of images that two workers read: 64 KiB a batch."""
    pair(tiny, save_every=100, log_every=1)
    tiny["data"] |= {"in_memory": False, "num_workers": 2, "columns": {"image": {"size": 64}}}
    return str(write_recipe(tmp_path, tiny))


def workers_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_shared_memory_that_is_too_small_changes_nothing_but_the_way(zygote, recipe, tmp_path):
    job = zygote.start("faults:genhub_with_small_shared_memory", "256k", "train", recipe, cwd=tmp_path)
    if job.wait() == 77:
        pytest.skip("needs the right to mount a file system")
    assert job.code == 0, job.err
    assert re.fullmatch(
        r"genhub: shared memory is full: /dev/shm has 0 of 0 MiB free, and 2 workers with batches of 0\.1 MiB take 0 MiB; "
        r"batches come through a pipe: slower, and nothing else is different\n", job.err)  # fmt: skip
    whole = genhub.train(recipe, ["data.num_workers=0"], run_dir=str(tmp_path / "whole"))
    same_bits(whole, tmp_path / "run" / "checkpoints" / "step-000006")


def test_no_shared_memory_for_a_start(zygote, recipe, tmp_path):
    job = zygote.start("faults:genhub_with_small_shared_memory", "20k", "train", recipe, cwd=tmp_path)
    if job.wait() == 77:
        pytest.skip("needs the right to mount a file system")
    assert job.code == 1
    assert job.err == (
        "genhub: data.num_workers=2: worker processes can't be started (No space left on device); data.num_workers=0 does "
        "without\n")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_a_batch_and_loses_nothing(zygote, recipe, tmp_path, number):
    """Each worker makes two batches, so four steps are done."""
    job = zygote.start("faults:genhub_with_stuck_workers", 2, {}, "train", recipe, cwd=tmp_path)
    wait_for(lambda: len(metrics(tmp_path / "run")) == 4 if (tmp_path / "run" / "metrics.jsonl").exists() else False)
    job.signal(number)
    assert job.wait() == 128 + number
    assert job.err == (
        f"genhub: {number.name}: saving what is done (once more: stop at once)\n"
        "genhub: stopped at step 4; the same command goes on from there\n"
    )
    assert RunFolder(tmp_path / "run").newest_whole()[0].name == "step-000004"
    parts = genhub.train(recipe, run_dir=str(tmp_path / "run"))
    same_bits(genhub.train(recipe, run_dir=str(tmp_path / "whole")), parts)


def test_a_signal_before_the_first_batch(zygote, recipe, tmp_path):
    job = zygote.start("faults:genhub_with_stuck_workers", 0, {}, "train", recipe, cwd=tmp_path)
    wait_for((tmp_path / "stuck").exists)
    job.signal(signal.SIGTERM)
    assert job.wait() == 143
    assert "stopped at step 0; the same command goes on from there" in job.err
    assert RunFolder(tmp_path / "run").newest_whole() == (None, [])


@pytest.mark.slow
def test_the_runs_deadline_ends_the_wait_for_a_batch(zygote, recipe, tmp_path):
    words = ["train", recipe, "trainer.stop_after=1s"]
    job = zygote.start("faults:genhub_with_stuck_workers", 0, {"GRACE": 0.1}, *words, cwd=tmp_path)
    assert job.wait() == 143
    assert "stopped at step 0" in job.err


def test_a_wait_without_end_is_said_and_ended(zygote, recipe, tmp_path):
    limits = {"PATIENCE": 1, "LONGEST_WAIT": 2}
    job = zygote.start("faults:genhub_with_stuck_workers", 1, limits, "train", recipe, cwd=tmp_path)
    assert job.wait() == 1
    assert job.err == (
        "genhub: data: waiting for a batch for 1 seconds\n"
        "genhub: data: no batch came for 2 seconds; look whether the disk with the images still answers. The same command "
        "goes on from the last checkpoint\n"
    )


def test_a_death_noticed_in_a_destructor_is_not_printed(capsys, monkeypatch):
    """torch raises it from a signal's handler, wherever the main thread is: Python prints what a destructor raises."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)

    class Noticing:
        def __init__(self, text: str) -> None:
            self.text = text

        def __del__(self) -> None:
            raise RuntimeError(self.text)

    with deaths_explained():
        Noticing("DataLoader worker (pid 19809) is killed by signal: Killed. ")
        Noticing("DataLoader of another kind")
    Noticing("DataLoader worker (pid 7) exited unexpectedly")
    said = re.findall("RuntimeError: (.*)", capsys.readouterr().err)
    assert said == ["DataLoader of another kind", "DataLoader worker (pid 7) exited unexpectedly"]


class Late:
    """Data set whose workers die late, and not as they should, when they are told to end."""

    def __getitem__(self, item: int) -> list[np.ndarray]:
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), os._exit(3)))
        return [np.zeros(item)]


def test_workers_that_are_ended_raise_nothing_later(monkeypatch):
    def cut_off(batches):
        next(batches)
        raise TrainingError("a worker process has died")

    monkeypatch.setattr("genhub.data.workers._until_it_is_too_long", cut_off)
    with pytest.raises(TrainingError, match="a worker process has died") as caught:
        next(load_ahead(Late(), iter([1] * 100), DataConfig(num_workers=2), torch.device("cpu")))
    until = time.monotonic() + 1
    while time.monotonic() < until:  # `caught` holds torch's iterator, and with it its list of workers
        time.sleep(0.01)
    assert caught.value.__traceback__


def test_a_killed_worker_is_named(zygote, recipe, tmp_path):
    job = zygote.genhub("train", recipe, "trainer.max_steps=1000000", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists())
    worker = workers_of(job.pid)[0]
    os.kill(worker, signal.SIGKILL)
    assert job.wait() == 1
    assert re.fullmatch(
        rf"genhub: data\.num_workers: (worker process {worker} was killed \(Killed\)|worker process {worker} has died|a worker "
        r"process has died); if memory was short, fewer workers or a smaller data\.batch_size need less\. The same command "
        r"goes on from the last checkpoint\n", job.err)  # fmt: skip
