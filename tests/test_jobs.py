"""Command lines as jobs, on this machine, by submitit and by ray: real processes, and what stops them."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_search import recipe
from test_trainer import wait_for

import genhub
from genhub.jobs.jobs import Jobs, last_line
from genhub.jobs.launchers import launcher_named
from genhub.store.run_folder import RunFolder

REMOTE = {
    "ray": ["--launcher", "ray"],
    "submitit": ["--launcher", "slurm", "--launcher-option", "cluster=local"],
    "slurm": ["--launcher", "slurm"],
}
WAITS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('ready', flush=True); time.sleep(600)"


@dataclass(eq=False)
class Line:
    command: list[str]
    log: Path


def python(code: str, log: Path) -> Line:
    return Line([sys.executable, "-c", code], log)


def local(folder: Path, at_once: int = 2) -> Jobs[Line]:
    return Jobs(launcher_named("local", [], folder=folder, at_once=at_once), at_once)


def test_exit_codes_and_logs(tmp_path):
    lines = [
        python(f"print('number', {number}); raise SystemExit({number})", tmp_path / f"{number}.log") for number in range(5)
    ]
    with local(tmp_path) as jobs:
        codes = {line.log.stem: code for line, code in jobs.run(lines)}
    assert codes == {str(number): number for number in range(5)}
    assert [last_line(line.log) for line in lines] == [f"number {number}" for number in range(5)]
    assert last_line(tmp_path / "none.log") == "it said nothing"
    with local(tmp_path) as jobs:
        list(jobs.run(lines[:1]))
    assert lines[0].log.read_text() == "number 0\n" * 2


def test_no_more_at_a_time_than_asked(tmp_path):
    """And a line is asked for when there is room for it."""
    running, most = set[str](), [0]

    def lines():
        for number in range(4):
            line = python("import time; time.sleep(0.2)", tmp_path / f"{number}.log")
            running.add(line.log.stem)
            most.append(len(running))
            yield line

    with local(tmp_path) as jobs:
        for line, code in jobs.run(lines()):
            assert code == 0
            running.remove(line.log.stem)
    assert max(most) == 2


def test_one_is_stopped_and_the_others_go_on(tmp_path):
    waits, other = python(WAITS, tmp_path / "waits.log"), python("print('done')", tmp_path / "other.log")

    def watch(running):
        if waits in running and last_line(waits.log) == "ready" and last_line(other.log) == "done":
            jobs.stop(waits)

    with local(tmp_path) as jobs:
        assert {line.log.stem: code for line, code in jobs.run([waits, other], watch)} == {"waits": 7, "other": 0}
    assert jobs.stopped == 0


def test_an_exception_stops_what_runs(tmp_path):
    waits, other = python(WAITS, tmp_path / "waits.log"), python("raise SystemExit(3)", tmp_path / "other.log")
    with pytest.raises(KeyError), local(tmp_path) as jobs:  # noqa: PT012
        for _, _ in jobs.run([waits, other]):
            wait_for(lambda: last_line(waits.log) == "ready")
            raise KeyError
    assert jobs.stopped == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_jobs_are_told_when_the_one_that_started_them_is_killed(tmp_path):
    code = f"""
from pathlib import Path
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_jobs import WAITS, local, python
with local(Path({str(tmp_path)!r})) as jobs:
    list(jobs.run([python("import os; print(os.getpid());" + WAITS, Path({str(tmp_path / "x.log")!r}))]))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: last_line(tmp_path / "x.log") == "ready")
    pid = int((tmp_path / "x.log").read_text().split()[0])
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("slurm", "timeout_mn=5", "submitit has no parameter timeout_mn; did you mean 'timeout_min'?"),
        ("slurm", "timeout_min=long", 'Parameter "timeout_min" expected type <class \'int\'> (but value: "long")'),
        ("slurm", "cluster=cloud", "cluster: can't be 'cloud'; known: local, slurm"),
        ("ray", "num_gpu=1", "ray has no option num_gpu; did you mean 'num_gpus'?"),
        ("ray", "num_cpus=-1", "The quantity of resource num_cpus cannot be negative"),
        ("slurm", "timeout_min", "'timeout_min' must look like key.path=value"),
    ],
)
def test_options_that_a_launcher_does_not_take(tmp_path, name, option, message):
    options = ["cluster=local", option] if name == "slurm" else [option]
    with pytest.raises(genhub.InputError) as raised:
        launcher_named(name, options, folder=tmp_path, at_once=1)
    assert str(raised.value).startswith(f"--launcher-option: {message}")


def test_where_there_is_no_slurm_and_no_ray(tmp_path, monkeypatch):
    with pytest.raises(genhub.InputError, match="^--launcher ray: nothing answers at '127.0.0.1:1': Connection refused$"):
        launcher_named("ray", ["address=127.0.0.1:1"], folder=tmp_path, at_once=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        genhub.InputError, match="^--launcher slurm: there is no Slurm here; start it on a machine of the cluster$"
    ):
        launcher_named("slurm", [], folder=tmp_path, at_once=1)


@pytest.fixture(params=REMOTE)
def words(request) -> list[str]:
    """The options of a launcher for other machines."""
    if request.param == "slurm":
        if shutil.which("sbatch") is None:
            pytest.skip("needs sbatch")
        if subprocess.run(["scontrol", "ping"], capture_output=True, timeout=60).returncode:
            pytest.skip("needs a Slurm that answers")
    return REMOTE[request.param]


@pytest.mark.slow
def test_a_sweep_elsewhere_is_the_same(tmp_path, zygote, words):
    file = recipe(tmp_path)
    here = zygote.genhub("sweep", file, "--set", "seed=0..1", "--run-dir", "s", cwd=tmp_path)
    assert here.wait() == 0, here.err
    shutil.move(tmp_path / "s", tmp_path / "here")
    there = zygote.genhub("sweep", file, "--set", "seed=0..1", "--jobs", "2", "--run-dir", "s", *words, cwd=tmp_path)
    assert there.wait() == 0, there.err
    for seed in (0, 1):
        name = f"seed={seed}/checkpoints/step-000040/trainer/weights.safetensors"
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "s" / name).read_bytes()
        assert "step 40/40" in (tmp_path / "s" / f"seed={seed}.log").read_text()


@pytest.mark.slow
def test_a_signal_reaches_runs_elsewhere(tmp_path, zygote, words):
    """And the same command goes on with them."""
    file = recipe(tmp_path, evaluate=None, trainer={"max_steps": 10**6, "save_every": 10**6})
    command = ["sweep", file, "--set", "seed=0..1", "--jobs", "2", "--run-dir", "s", *words]
    runs = [tmp_path / "s" / f"seed={seed}" for seed in range(2)]
    for _ in range(2):
        job = zygote.genhub(*command, cwd=tmp_path)
        before = [run.joinpath("metrics.jsonl").read_bytes() if run.exists() else b"" for run in runs]
        wait_for(lambda before=before: all(
            (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_bytes() != old
            for run, old in zip(runs, before, strict=True)))  # fmt: skip
        job.signal(signal.SIGTERM)
        assert job.wait() == 128 + signal.SIGTERM, job.err
        assert job.err.endswith("genhub: stopped; the same command goes on with what is not done\n")
        assert all(RunFolder(run).newest_whole()[0] for run in runs)
    for run in runs:
        log = run.with_name(run.name + ".log").read_text()
        assert len(re.findall("SIGTERM: .*saving", log)) == 2
        assert len(re.findall("resuming at step", log)) == 1
