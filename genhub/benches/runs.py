"""Train and measure every run of a plan, some at a time, and write the page as results come."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from genhub.benches.overview import write_page
from genhub.benches.plan import Entry, Plan
from genhub.benches.ranking import Ranking, ranking_of
from genhub.errors import Interrupted
from genhub.ground.console import say
from genhub.jobs.jobs import Jobs, last_line
from genhub.jobs.launcher import Launcher

LOG = "bench.log"
"""Ending of the name of a run's log, beside its folder."""


def run_all(plan: Plan, launcher: Launcher, jobs: int = 1, num_processes: int = 1) -> Ranking:
    """Train and measure what isn't done yet, and return the ranking; the page is written after each run.

    Args:
        launcher: where the runs run.
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
    lines = [_Line(plan, entry, seed, num_processes) for entry, seed in plan.jobs]
    lines = [line for line in lines if plan.result(line.entry, line.seed) is None]
    faults: dict[str, str] = {}
    with Jobs[_Line](launcher, jobs) as running:
        for line, code in running.run(lines):
            said = last_line(line.log)
            if code == 0:
                say(f"done     {line.folder}: {said.removeprefix('Result   ')}")
            else:
                faults[f"{line.entry.model}, seed {line.seed}"] = f"exit code {code}: {said} (all of it: {line.log})"
            if not running.stopped:
                write_page(ranking_of(plan, faults))
    if running.stopped:
        raise Interrupted("stopped; the same command goes on with what is not done", running.stopped)
    ranking = ranking_of(plan, faults)
    write_page(ranking)
    return ranking


@dataclass(frozen=True, eq=False)
class _Line:
    """The command line of a run."""

    plan: Plan
    entry: Entry
    seed: int
    num_processes: int

    @property
    def folder(self) -> Path:
        return self.plan.run(self.entry.model, self.seed)

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{LOG}")

    @property
    def command(self) -> list[str]:
        """The words; -P, as `-m` alone would import from the current folder."""
        job = [sys.executable, "-P", "-m", "genhub.benches.job", str(self.plan.folder), self.entry.model, str(self.seed)]
        return [*job, str(self.num_processes)]
