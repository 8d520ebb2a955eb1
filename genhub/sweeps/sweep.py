"""A grid of overrides of one recipe: each point a run of its own, which the same command resumes or passes over."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genhub.errors import InputError, Interrupted
from genhub.ground.console import say
from genhub.ground.processes import command_line
from genhub.jobs.jobs import Jobs
from genhub.jobs.launchers import launcher_named
from genhub.recipe.recipe import Recipe, read_recipe
from genhub.sweeps.figure import Figure, figure_of
from genhub.sweeps.point import Point, folder_name
from genhub.sweeps.settings import MOST_RUNS, read_settings


@dataclass(frozen=True)
class Swept:
    """Runs that a sweep has trained."""

    done: list[Path]
    """Folders of the runs that are done: best first, where a figure says which is, else in the grid's order."""
    faults: list[str]
    """A line for each run that failed."""
    best: list[str] = field(default_factory=list)
    """Lines on the best run, and the command that goes on with it."""


def sweep(
    recipe: str,
    settings: Sequence[str],
    *,
    folder: str | None = None,
    jobs: int = 1,
    by: str | None = None,
    launcher: str = "local",
    launcher_options: Sequence[str] = (),
) -> Swept:
    """Train every combination of the settings' values, `jobs` at a time, each in a process and a folder of its own.

    Args:
        recipe: a file or a shipped recipe's name.
        settings: `key.path=values`: values with commas between them, or a range of whole numbers such as 0..4.
        folder: where the runs' folders go; left out: the recipe's own run_dir, with `-sweep` behind.
        by: the figure that says which run is best, which the recipe measures while it trains; None: none does.
        launcher: where the processes run, and `launcher_options` for it: see `launcher_named`.
    Raises:
        RecipeError: a combination is no valid recipe; nothing has been trained then.
        InputError: a setting has no values, there are too many combinations, or the launcher can't be had.
        Interrupted: a signal came; the runs have saved.
    """
    points = grid(recipe, settings, folder)
    recipes = [read_recipe(recipe, point.overrides, str(point.run_dir)) for point in points]
    figure = figure_of(recipes[0], by) if by is not None else None
    jobs = min(jobs, len(points))
    place = launcher_named(launcher, launcher_options, folder=points[0].run_dir.parent, at_once=jobs)
    say(f"Sweep    {len(points)} runs, {jobs} at a time")
    faults: dict[Point, str] = {}
    with Jobs[Point](place, jobs) as running:
        for point, code in running.run(points):
            if code == 0:
                say(f"done     {point.run_dir}")
            elif not running.stopped:
                faults[point] = point.fault(code)
    if running.stopped:
        raise Interrupted("stopped; the same command goes on with what is not done", running.stopped)
    done = {point.run_dir: point for point in points if point not in faults}
    said = [faults[point] for point in points if point in faults]
    return ended(figure, done, said, recipes[0]) if figure else Swept(list(done), said)


def grid(recipe: str, settings: Sequence[str], folder: str | None = None) -> list[Point]:
    """Return all combinations of the settings' values, in order, the last setting changing fastest."""
    axes = [[f"{setting.key}={value}" for value in setting.listed()] for setting in read_settings(settings)]
    combinations = list(itertools.islice(itertools.product(*axes), MOST_RUNS + 1))
    if len(combinations) > MOST_RUNS:
        raise InputError(f"--set: more than {MOST_RUNS} combinations")
    base = Path(folder or read_recipe(recipe).run_dir + "-sweep")
    return [Point(recipe, overrides, base / folder_name(overrides)) for overrides in combinations]


def ended(figure: Figure, done: dict[Path, Point], faults: list[str], recipe: Recipe) -> Swept:
    """Return what a sweep has trained, best first by a figure; `recipe` is that of any of the runs."""
    runs = figure.best_first(done)
    value = figure.final(runs[0]) if runs else None
    if value is None:
        return Swept(runs, faults)
    steps = [] if recipe.trainer.max_time else [f"trainer.max_steps={2 * recipe.trainer.max_steps}"]
    words = ["genhub", *done[runs[0]].command[len(command_line()) :], *steps]
    return Swept(runs, faults, [f"Best     {runs[0]}, {figure.name} {value:.4g}", f"Next     {shlex.join(words)}"])
