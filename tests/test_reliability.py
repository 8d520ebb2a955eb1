"""Runs that are killed, starved and stopped, in real processes; damaged checkpoints are test_damage.py's.
docs/reliability.md has the table of cases; a test's name has a case's number."""

from __future__ import annotations

import ast
import copy
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import faults
import models
import pytest
from faults import write_recipe
from test_trainer import metrics, pair, same_bits, wait_for

import genhub
from genhub.interfaces.section import MAY_CHANGE
from genhub.recipe.sections import AccelerateConfig
from genhub.store import checkpoints
from genhub.store.run_folder import RunFolder

DOCS = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text()
UNET = {"block_out_channels": [8, 16], "add_attention": False}
FAMILIES = {
    "autoencoder": {"name": "autoencoder", "channels": [8], "latent_dim": 4},
    "vae": {"name": "vae", "channels": [8], "latent_dim": 4},
    "gan": {"name": "gan", "latent_dim": 8, "generator": {"channels": [8]}, "penalty_interval": 2},
    "cgan": {"name": "cgan", "conditions": ["label"], "latent_dim": 8, "generator": {"channels": [8]}},
    "ddpm": {"name": "ddpm", "network": {"name": "unet"} | UNET, "sampling": {"num_inference_steps": 2}},
    "ddpm-conditional": {
        "name": "ddpm",
        "conditions": ["label"],
        "network": {"name": "unet"} | UNET,
        "sampling": {"num_inference_steps": 2},
    },
}


def same_run(a: Path, b: Path) -> None:
    """Weights, averages, optimizers, counters, metrics and pictures, to the bit; times aside."""
    newest, other = RunFolder(a).newest_whole()[0], RunFolder(b).newest_whole()[0]
    assert newest
    assert other
    assert newest.name == other.name
    same_bits(newest, other)
    states = [json.loads((folder / "trainer" / "state.json").read_text()) | {"seconds": 0} for folder in (newest, other)]
    assert states[0] == states[1]
    assert metrics(a) == metrics(b)
    pictures = [{file.name: file.read_bytes() for file in (run / "samples").glob("*.png")} for run in (a, b)]
    assert pictures[0] == pictures[1]


# Killed


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_case_01_killed_at_random_moments(zygote, tiny, tmp_path, family):
    """Three kills, wherever they fall: while it starts, in a step, a preview or a save (every second step has one)."""
    tiny["model"] = copy.deepcopy(FAMILIES[family])
    recipe = str(write_recipe(tmp_path, tiny, max_steps=24, save_every=2, log_every=3, sample_every=8))
    whole = zygote.genhub("train", recipe, "--run-dir", "whole", cwd=tmp_path)
    started = time.monotonic()
    assert whole.wait() == 0, whole.err
    seconds, moments, kills = time.monotonic() - started, random.Random(family), 0
    while kills < 3:
        job = zygote.genhub("train", recipe, "--run-dir", "killed", cwd=tmp_path)
        time.sleep(moments.uniform(0, seconds / 2))
        job.signal(signal.SIGKILL)
        kills += job.wait() == -signal.SIGKILL
        if job.code == 0 and kills:
            break
        if job.code == 0:  # the machine has become faster: again, and earlier
            shutil.rmtree(tmp_path / "killed")
            seconds /= 2
    last = zygote.genhub("train", recipe, "--run-dir", "killed", cwd=tmp_path)
    assert last.wait() == 0, last.err
    same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.fixture
def saves(tiny, tmp_path, monkeypatch):
    """A run with its first checkpoint, to be prepared; the save of its second one with all that belongs to it; and a check."""
    calls = []

    def remember(*args, **keys):
        calls.append(args)
        return save(*args, **keys)

    save = checkpoints.save_checkpoint
    monkeypatch.setattr("genhub.run.run.save_checkpoint", remember)
    genhub.train(pair(tiny, save_every=3, keep_last=1, keep_every=3))
    files, step, *rest = calls[-1]
    run = files.path
    model, state, data = rest
    model, state = copy.deepcopy(model), copy.deepcopy(state)
    original = tmp_path / "original"
    run.rename(original)

    def again() -> None:
        save(files, step, model, state, data)
        checkpoints.prune_checkpoints(files, keep_last=1)

    def prepare(damaged: bool) -> None:
        """A copy that has the first checkpoint, and perhaps a damaged second one."""
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(original, run)
        if damaged:
            (run / "checkpoints" / "step-000006" / "trainer" / "weights.safetensors").write_bytes(b"")
        else:
            shutil.rmtree(run / "checkpoints" / "step-000006")

    def check() -> str:
        """What a run would go on from: one of the two, and every bit of it."""
        RunFolder(run).remove_leftovers()
        newest, _ = RunFolder(run).newest_whole()
        assert newest
        same_bits(newest, original / "checkpoints" / newest.name)
        assert all(re.fullmatch(r"step-\d{6}", path.name) for path in (run / "checkpoints").iterdir())
        return newest.name

    return run, prepare, again, check


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True], ids=["new", "over-a-damaged-one"])
def test_case_02_killed_at_every_file_boundary_of_a_save(saves, tiny, damaged):
    _, prepare, again, check = saves
    prepare(damaged)
    with faults.at_boundary(None, faults.die) as boundaries:
        again()
    assert boundaries[0] > 40
    found = []
    for number in range(boundaries[0]):
        prepare(damaged)
        child = os.fork()
        if child == 0:
            with faults.at_boundary(number, faults.die):
                again()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, number
        found.append(check())
        if found[-1:] != found[-2:-1]:  # and the run goes on from there
            genhub.train(tiny, ["trainer.max_steps=7"])
    assert sorted(found) == found  # the first one until the new one is whole, never neither
    assert set(found) == {"step-000003", "step-000006"}


@pytest.mark.parametrize("damaged", [False, True], ids=["new", "over-a-damaged-one"])
@pytest.mark.slow
def test_case_03_disk_full_at_every_file_boundary_of_a_save(saves, damaged, capsys):
    run, prepare, again, check = saves
    prepare(damaged)
    with faults.at_boundary(None, faults.die) as boundaries:
        again()
    errors = []
    for number in range(boundaries[0]):
        prepare(damaged)
        try:
            with faults.at_boundary(number, faults.disk_full):
                again()
        except genhub.GenhubError as error:
            errors.append(str(error))
        assert not list((run / "checkpoints").glob(".*.tmp"))
        check()
    told = r"step-000006: can't be saved: .*No space left.*; it takes [\d,]+ bytes, and the disk has [\d,]+$"
    assert all(re.search(told, error) for error in errors), errors
    assert len(errors) > 30
    assert "step-000003: can't be deleted: " in capsys.readouterr().err  # saved, and no reason to stop


@pytest.mark.slow
def test_case_03_disk_full(zygote, tiny, tmp_path):
    recipe = str(write_recipe(tmp_path, tiny))
    whole = genhub.train(recipe, run_dir=str(tmp_path / "whole"))
    run = Path(tiny["run_dir"])
    genhub.train(recipe, ["trainer.max_steps=3"])
    full = zygote.start("faults:genhub_with", {"fsize": 20_000}, "train", recipe, cwd=tmp_path)
    assert full.wait() == 1
    assert re.fullmatch(
        r"genhub: .*/run/checkpoints/step-000006: can't be saved: .*File too large.*; it takes [\d,]+ bytes, and the disk "
        r"has [\d,]+\n", full.err
    )  # fmt: skip
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000003"]
    same_bits(whole, genhub.train(recipe))


def test_a_runs_folder_that_is_deleted_while_it_trains(tiny, monkeypatch):
    """One line, and no traceback: the folder is gone with the run's metrics."""
    sync = genhub.RunLog.sync

    def gone_before(log):
        shutil.rmtree(log.file.parent)
        sync(log)

    monkeypatch.setattr(genhub.RunLog, "sync", gone_before)
    with pytest.raises(genhub.GenhubError, match=r"run/metrics\.jsonl: can't be saved: .*No such file"):
        genhub.train(tiny)


# Stopped


@pytest.mark.slow
def test_case_07_two_runs_in_one_folder(zygote, tiny, tmp_path):
    pair(tiny)
    recipe = str(write_recipe(tmp_path, tiny, max_steps=10**6, save_every=1, trackers=[]))
    run = Path(tiny["run_dir"])
    first = zygote.genhub("train", recipe, cwd=tmp_path)
    wait_for(lambda: any((run / "checkpoints").glob("step-*")) or first.poll() is not None)
    for options in ([], ["--fresh"]):
        second = zygote.genhub("train", recipe, *options, cwd=tmp_path)
        assert second.wait() == 2
        assert second.err == (
            f"genhub: run_dir: {run} is in use by process {first.pid} on {socket.gethostname()}; wait until it ends, stop it, "
            "or choose another with --run-dir\n"
        )
    assert first.poll() is None
    first.signal(signal.SIGKILL)
    first.wait()
    steps = int(RunFolder(run).newest_whole()[0].name[5:]) + 2
    third = zygote.genhub("train", recipe, f"trainer.max_steps={steps}", cwd=tmp_path)
    assert third.wait() == 0, third.err
    assert "resuming at step" in third.out


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_case_08_a_second_signal_stops_at_once_and_harms_nothing(zygote, tiny, tmp_path, number, code):
    pair(tiny, "models:Waits")
    recipe = str(write_recipe(tmp_path, tiny, max_steps=400, save_every=1))
    run = Path(tiny["run_dir"])
    job = zygote.genhub("train", recipe, cwd=tmp_path)
    wait_for(lambda: any((run / "checkpoints").glob("step-*")) or job.poll() is not None)
    (tmp_path / "wait").touch()
    wait_for(lambda: (tmp_path / "waiting").exists())
    job.signal(number)
    wait_for(lambda: "finishing the step" in job.err)
    job.signal(number)
    assert job.wait() == code
    assert "Traceback" not in job.err
    (tmp_path / "wait").unlink()
    steps = int(RunFolder(run).newest_whole()[0].name[5:]) + 2
    again = zygote.genhub("train", recipe, f"trainer.max_steps={steps}", cwd=tmp_path)
    assert again.wait() == 0, again.err
    at_the_end = [f"trainer.max_steps={steps}", f"trainer.save_every={steps}"]  # the pair may have come far before it waited
    whole = genhub.train(recipe, at_the_end, run_dir=str(tmp_path / "whole"))
    same_bits(whole, run / "checkpoints" / f"step-{steps:06d}")


def test_stop_after_saves_and_goes_on(zygote, tiny, tmp_path):
    pair(tiny)
    recipe = str(write_recipe(tmp_path, tiny, max_steps=10**6, stop_after="1s", log_every=1))
    run = Path(tiny["run_dir"])
    job = zygote.genhub("train", recipe, cwd=tmp_path)
    assert job.wait() == 143
    stopped = RunFolder(run).newest_whole()[0]
    assert f"genhub: stopped at step {int(stopped.name[5:])}; the same command goes on from there\n" == job.err
    steps = int(stopped.name[5:]) + 2
    again = genhub.train(recipe, [f"trainer.max_steps={steps}", "trainer.stop_after=1d"])
    assert again.name == f"step-{steps:06d}"
    whole = genhub.train(recipe, [f"trainer.max_steps={steps}", "trainer.stop_after=null"], run_dir=str(tmp_path / "whole"))
    same_bits(whole, again)


def launch(recipe: Path, *overrides: str) -> subprocess.Popen[str]:
    """Two processes, by torch's own launcher."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "genhub",
               "train", str(recipe), *overrides]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=recipe.parent)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the launcher's children in /proc")
def test_case_09_28_two_processes_stop_die_and_go_on(tiny, tmp_path):
    """One run in two processes, a model of several phases. SIGTERM to the launcher; then one process killed, and the other
    stops with it; then to the end: the same bits as of a run that was let alone."""
    pair(tiny)
    recipe = write_recipe(tmp_path, tiny, max_steps=3000, save_every=50, log_every=1000, sample_every=10**6)
    run = Path(tiny["run_dir"])

    def running(steps: int) -> subprocess.Popen[str]:
        launcher = launch(recipe)
        wait_for(lambda: (newest(run) or 0) >= steps or launcher.poll() is not None, seconds=300)
        assert launcher.poll() is None, launcher.communicate()[1]
        return launcher

    launcher = running(50)
    launcher.send_signal(signal.SIGTERM)
    _, errors = launcher.communicate(timeout=120)
    assert launcher.returncode == 1  # whatever the processes return
    stopped = newest(run)
    assert f"stopped at step {stopped}; the same command goes on from there" in errors
    assert stopped is not None

    launcher = running(stopped + 50)
    os.kill(children(launcher.pid)[1], signal.SIGKILL)
    launcher.communicate(timeout=120)
    assert launcher.returncode == 1

    steps = f"trainer.max_steps={newest(run) + 20}"
    again = launch(recipe, steps)
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert "resuming at step" in output
    assert output.count("Model    ") == 2  # what is trained, and where it is: said by one process
    whole = launch(recipe, steps, "--run-dir", str(tmp_path / "whole"))
    assert whole.communicate(timeout=300) is not None
    same_run(tmp_path / "whole", run)
    assert genhub.sample(models.Pair.from_pretrained(run), 3).shape == (3, 1, 8, 8)


def newest(run: Path) -> int | None:
    return max((int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")), default=None)


# Where it runs


def test_case_27_paths_and_clocks(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for place, message in [("/proc/nowhere/run", "run_dir: /proc/nowhere/run: "), (str(tmp_path / "file"), "is a file"),
                           (str(tmp_path / "file" / "run"), "is a file"), (str(tmp_path / ("x" * 300)), "too long")]:  # fmt: skip
        with pytest.raises(genhub.RecipeError, match=f"{message}.*; choose another with --run-dir"):
            genhub.train(tiny, run_dir=place)
    backwards = iter(range(2**40, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(backwards)))
    pair(tiny, trackers=["tensorboard"])
    folder = genhub.train(tiny, run_dir=str(tmp_path / "mein Lauf ü 走る"))
    assert folder.name == "step-000006"
    assert all(line["seconds"] >= 0 for line in map(json.loads, (folder.parents[1] / "metrics.jsonl").open()))


def test_case_29_no_network(zygote, tiny, tmp_path):
    """Nothing so much as asks for a name: train, again, and sample."""
    recipe = str(write_recipe(tmp_path, tiny, trackers=["tensorboard"], sample_every=3))
    for words in (["train", recipe], ["train", recipe], ["sample", tiny["run_dir"], "-n", "2", "--out", "two.png"]):
        job = zygote.start("faults:genhub_without_network", *words, cwd=tmp_path)
        assert job.wait() == 0, job.err


# What the documentation says


def test_every_case_has_a_test_or_a_reason():
    rows = re.findall(r"^\| (\d+) \| .*? \| .*? \| (.*?) \|$", DOCS, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    for number, held_by in rows:
        tests = re.findall(r"`(test_\w+)::(test_\w+)`", held_by)
        assert tests or re.match(r"not here: \w+", held_by), number
        for file, test in tests:
            tree = ast.parse((Path(__file__).parent / f"{file}.py").read_text())
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (number, test)


def may_change(section: type[genhub.Section], path: str = "") -> Iterator[str]:
    """The keys of a recipe that are marked so in their Configs, those of the built-in trainer among them."""
    for name, field in section.model_fields.items():
        inner = AccelerateConfig if name == "trainer" else field.annotation
        if MAY_CHANGE in field.metadata:
            yield path + name
        elif isinstance(inner, type) and issubclass(inner, genhub.Section) and name != "model":
            yield from may_change(inner, f"{path}{name}.")


def test_the_safe_keys_are_the_documented_ones():
    section = DOCS.partition("## What may change")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^- `([\w.]+)`", section, re.MULTILINE)) == sorted(may_change(genhub.Recipe))


def test_the_commands_of_the_page_are_right():
    commands = re.findall(r"^(?:until )?genhub train ([^#;\n]*)", DOCS, re.MULTILINE)
    assert len(commands) == 10
    for name, *words in map(str.split, commands):
        genhub.read_recipe(name, [word for word in words if word != "--fresh"])
