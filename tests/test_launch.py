"""Several processes by one command: what they return and say, and what is refused; torch's own launcher, real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_trainer import pair, wait_for

import genhub
from genhub.ground.processes import check_launcher, command_line

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def start(*words: str, cwd: Path, before: tuple[str, ...] = (sys.executable,)) -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    command = [*before, "-m", "genhub", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd)


def recipe(tmp_path: Path, tiny: dict, name: str = "models:Pair", **trainer) -> str:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(pair(tiny, name, **trainer)))
    return str(tmp_path / "recipe.yaml")


@pytest.mark.slow
def test_a_signal_stops_both_and_the_same_command_goes_on(tiny, tmp_path):
    """SIGTERM to the one command that a user knows of: its own exit code, two lines, and no word of a launcher's."""
    file = recipe(tmp_path, tiny, max_steps=10**5, save_every=20, log_every=1000)
    run = Path(tiny["run_dir"])
    command = start("train", file, "--num-processes", "2", cwd=tmp_path)
    wait_for(lambda: (run / "checkpoints" / "step-000020").exists() or command.poll() is not None)
    command.send_signal(signal.SIGTERM)
    _, errors = command.communicate(timeout=120)
    assert command.returncode == 143, errors
    stopped = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    assert sorted(errors.splitlines()) == [
        "genhub: SIGTERM: finishing the step and saving (once more: stop at once)",
        f"genhub: stopped at step {stopped}; the same command goes on from there",
    ]
    steps = f"trainer.max_steps={stopped + 5}"
    again = start("train", file, steps, "--num-processes", "2", cwd=tmp_path)
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert f"resuming at step {stopped}" in output
    assert output.count("Model    ") == 2  # what is trained, and where it is: said by one process


@pytest.mark.slow
def test_what_goes_wrong_in_all_is_said_once(tiny, tmp_path):
    command = start("train", recipe(tmp_path, tiny, "models:Explodes"), "--num-processes", "2", cwd=tmp_path)
    _, errors = command.communicate(timeout=120)
    assert command.returncode == 1
    assert errors.startswith("genhub: step 5, phase 'generator': loss is nan.")
    assert "Traceback" not in errors
    # Each process has rows of its own to name; who was still waiting for the other says that and no more.
    said = ("genhub: step ", "genhub: stopped: another process")
    assert all(line.startswith(said) for line in errors.splitlines()), errors


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the command's processes in /proc")
def test_a_death_stops_the_others(tiny, tmp_path):
    file = recipe(tmp_path, tiny, max_steps=10**5, save_every=20, log_every=1000)
    command = start("train", file, "--num-processes", "2", cwd=tmp_path)
    first = Path(tiny["run_dir"], "checkpoints", "step-000020")
    wait_for(lambda: first.exists() or command.poll() is not None)
    processes = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    os.kill(int(processes[1]), signal.SIGKILL)
    _, errors = command.communicate(timeout=120)
    assert command.returncode == 1
    assert "genhub: process 1 was killed by SIGKILL" in errors
    assert "Traceback" not in errors
    assert not any(Path("/proc", process).exists() for process in processes)


def test_mistakes_are_answered_before_anything_starts(tiny, tmp_path, monkeypatch, capsys):
    from genhub import cli

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["genhub", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, capsys.readouterr().err

    file = recipe(tmp_path, tiny, gradient_accumulation_steps=2)
    message = "can't be split over 3 processes x 2 accumulation steps; the nearest that can: 18"
    assert run("train", file, "--num-processes", "3") == (2, f"genhub: data.batch_size: 16 {message}\n")
    assert run("train", file, "--num-processes", "3", "--dry-run") == (2, f"genhub: data.batch_size: 16 {message}\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = "genhub: --num-processes 3: a launcher has started 2; leave it out\n"
    assert run("train", file, "--num-processes", "3") == (2, message)
    assert not Path(tiny["run_dir"]).exists()


@pytest.mark.slow
def test_a_launcher_that_drops_processes_is_refused(tiny, tmp_path):
    """`accelerate launch --cpu` starts one process, whatever it is asked for, and says nothing."""
    accelerate = (sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
                  "--mixed_precision", "no", "--dynamo_backend", "no", "--quiet")  # fmt: skip
    command = start("train", recipe(tmp_path, tiny), cwd=tmp_path, before=accelerate)
    _, errors = command.communicate(timeout=120)
    assert command.returncode != 0
    refusal = [line for line in errors.splitlines() if line.startswith("genhub: ")]
    assert refusal == ["genhub: accelerate launch was asked for several processes and started one, as it does on CPUs; use "
                       "genhub train RECIPE --num-processes N, or torchrun"]  # fmt: skip
    assert not Path(tiny["run_dir"]).exists()


HOSTILE = ("yaml", "accelerate", "torch", "genhub", "typer", "pydantic", "safetensors", "datasets", "sitecustomize")
"""Modules that a folder which was unpacked or cloned may hold."""


def hostile(folder: Path, names: tuple[str, ...] = HOSTILE) -> Path:
    """A folder whose modules, imported by mistake, say so."""
    for name in names:
        (folder / f"{name}.py").write_text("open('ran', 'a').write(__name__ + '\\n'); raise SystemExit(7)")
    (folder / "mine.py").write_text((Path(__file__).parent / "models.py").read_text())
    return folder


def test_no_process_is_started_that_imports_from_the_current_folder(tmp_path):
    """Whoever starts a Python: each of the commands in the source, and the one that users type."""
    for file in Path(genhub.__file__).parent.rglob("*.py"):
        for started in re.findall(r"sys\.executable,(.*)", file.read_text()):
            assert started.startswith(' "-P"'), f"{file}: {started}"
    folder = hostile(tmp_path)
    for command in (command_line(), [str(Path(sys.executable).with_name("genhub"))]):
        done = subprocess.run([*command, "recipe", "list"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (folder / "genhub.py").unlink()  # of -m's own module Python takes what lies in the current folder, whatever genhub does
    done = subprocess.run([sys.executable, "-m", "genhub", "recipe", "list"], cwd=folder, capture_output=True)
    assert done.returncode == 0
    assert not (folder / "ran").exists()


@pytest.mark.slow
def test_modules_in_the_current_folder_are_not_run_by_any_way_of_starting(tiny, tmp_path):
    """But the class beside the recipe is found."""
    folder, file = hostile(tmp_path), recipe(tmp_path, tiny, "mine:Pair", max_steps=2, save_every=2)
    genhub_, two = [str(Path(sys.executable).with_name("genhub"))], ["--num-processes", "2"]
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    elsewhere = [[*genhub_, "sweep", file, "--set", "seed=0", "--launcher", "ray", "--run-dir", "ray"]]
    commands = [[*genhub_, "train", file, *two], [*genhub_, "sweep", file, "--set", "seed=0"], *elsewhere]
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    (folder / "genhub.py").unlink()
    done = subprocess.run([*torchrun, "-m", "genhub", "train", file], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (folder / "ran").exists()


WATCHED = """
import sys, weakref
import torch
from torch.nn.parallel import DistributedDataParallel
import genhub
made, start, end = [], DistributedDataParallel.__init__, torch.distributed.destroy_process_group

def started(self, *args, **options):
    start(self, *args, **options)
    made.append(weakref.ref(self))

def ended(group=None):
    sys.stderr.write(f"made {len(made)}, left {sum(wrapper() is not None for wrapper in made)}\\n")
    end(group)

DistributedDataParallel.__init__, torch.distributed.destroy_process_group = started, ended
genhub.train(sys.argv[1])
"""


@pytest.mark.slow
def test_no_wrapper_outlives_the_process_group(tiny, tmp_path):
    """Its reducer would be the last to hold the group; the run then hung at its end, once in some ten on a busy machine."""
    (tmp_path / "watched.py").write_text(WATCHED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    command = [*torchrun, "watched.py", recipe(tmp_path, tiny, max_steps=2, save_every=2)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("made 1, left 0\n") == 2, done.stderr


def test_what_a_launcher_may_say():
    check_launcher({})
    check_launcher({"MASTER_PORT": "29500"})  # a queue's script may set it for all that it starts
    check_launcher({"ACCELERATE_MIXED_PRECISION": "no"})  # accelerate launch, for one process
    check_launcher({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500", "WORLD_SIZE": "2"})
    with pytest.raises(genhub.InputError, match="accelerate's config asks for FSDP: take it out there"):
        check_launcher({"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2"})
