"""Train and measure every run of a plan, some at a time, and write the page as results come."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from genhub.bench.page import write_page
from genhub.bench.plan import RESULT, Entry, Plan
from genhub.bench.ranking import Ranking, ranking_of
from genhub.errors import Interrupted
from genhub.evaluation.sweep import Running
from genhub.ground.console import say

LOG = "bench.log"
"""Ending of the name of a run's log, beside its folder."""


def bench(plan: Plan, jobs: int = 1, num_processes: int = 1) -> Ranking:
    """Train and measure what isn't done yet, and return the ranking; the page is written after each run.

    Args:
        jobs: runs at a time.
        num_processes: processes of each run.
    Raises:
        Interrupted: a signal came; the runs have saved.
    """
    say(f"Bench    {plan.settings.title}")
    for entry in plan.entries:
        if entry.fault:
            say(f"left out {entry.model}: {entry.fault}")
    say(f"         {len(plan.jobs)} runs of {plan.settings.minutes:g} minutes, {jobs} at a time, in {plan.folder}")
    running = Running(jobs)
    faults: dict[str, str] = {}

    def run(job: tuple[Entry, int]) -> None:
        entry, seed = job
        if fault := _run(plan, entry, seed, num_processes, running):
            faults[f"{entry.model}, seed {seed}"] = fault
        if not running.stopped:
            write_page(ranking_of(plan, faults), plan.folder)

    with running.stopped_by_signals(), ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, plan.jobs))
    if running.stopped:
        raise Interrupted("stopped; the same command goes on with what is not done", running.stopped)
    ranking = ranking_of(plan, faults)
    write_page(ranking, plan.folder)
    return ranking


def _run(plan: Plan, entry: Entry, seed: int, num_processes: int, running: Running) -> str | None:
    """Run one job, its output in a log beside its folder; return what went wrong, if anything did."""
    folder = plan.run(entry.model, seed)
    if (folder / RESULT).is_file():
        return None
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.{LOG}")
    with log.open("a") as stream:
        code = running.run(_command(plan.folder, entry.model, seed, num_processes), stream)
    lines = log.read_text("utf-8", "replace").splitlines()
    if code == 0:
        say(f"done     {folder}: {lines[-1].removeprefix('Result   ')}")
        return None
    return f"exit code {code}: {lines[-1] if lines else 'it said nothing'} (all of it: {log})"


def _command(folder: Path, model: str, seed: int, num_processes: int) -> list[str]:
    """Return the command line of a job; -P, as `-m` alone would import from the current folder."""
    python = [sys.executable, "-P", "-m"]
    if num_processes > 1:
        python += ["torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}", "-m"]
    return [*python, "genhub.bench.job", str(folder), model, str(seed)]
