"""Search settings of one recipe for the best figure, with Optuna: each trial a run of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genhub.errors import InputError, Interrupted, RecipeError, did_you_mean, shown
from genhub.ground.console import say
from genhub.ground.disk import locked, saving
from genhub.ground.extras import import_extra
from genhub.jobs.jobs import Jobs
from genhub.jobs.launchers import launcher_named
from genhub.recipe.recipe import Recipe, read_recipe
from genhub.run.claims import changes
from genhub.store.run_folder import RunFolder
from genhub.sweeps.figure import Figure, figure_of
from genhub.sweeps.point import Point, folder_name
from genhub.sweeps.settings import MOST_RUNS, Range, Setting, read_settings
from genhub.sweeps.sweep import Swept, ended

if TYPE_CHECKING:
    from optuna.trial import Trial

    from genhub.sweeps.study import Study

STUDY = "study.jsonl"
"""Name of Optuna's file in a sweep's folder."""
SAMPLERS, PRUNERS = ("tpe", "gp", "random"), ("median", "hyperband", "none")
EVERY = 1.0
"""Seconds between two looks at what the runs have measured."""


def search(
    recipe: str,
    settings: Sequence[str],
    trials: int,
    *,
    folder: str | None = None,
    jobs: int = 1,
    by: str | None = None,
    sampler: str = "tpe",
    pruner: str = "median",
    launcher: str = "local",
    launcher_options: Sequence[str] = (),
) -> Swept:
    """Train a recipe with values that Optuna chooses, `trials` times, `jobs` at a time. A trial's value is the figure of its
    run's last checkpoint, as the recipe's `evaluate` measures it; a run whose figures are worse than others' is pruned.

    Args:
        recipe, folder, jobs, launcher, launcher_options: see `sweep`.
        settings: `key.path=values`: choices with commas between them, or a range, such as 0..4 or 1e-4..1e-2.
        by: the figure, or a metric, for its main figure; left out: what the recipe saves the best by, or measures first.
    Returns:
        The runs that were trained to their end, best first.
    Raises:
        RecipeError: a value makes no valid recipe, or the folder has a search of another recipe.
        InputError: nothing to search, the figure is not measured, no such sampler or pruner, or optuna is missing.
        Interrupted: a signal came; the runs have saved, and the same search goes on.
    """
    for option, name, known in (("--sampler", sampler, SAMPLERS), ("--pruner", pruner, PRUNERS)):
        if name not in known:
            raise InputError(f"{option}: can't be {shown(name)}; {did_you_mean(name, known)}")
    import_extra("optuna", "sweep", "--trials")
    from genhub.sweeps.study import Study, pruner_named

    read, axes, fixed = _checked(recipe, settings, trials)
    figure = figure_of(read, by)
    assert read.evaluate is not None
    base = Path(folder or read.run_dir + "-sweep")
    with saving(base):
        base.mkdir(parents=True, exist_ok=True)
    with locked(base):
        place = launcher_named(launcher, launcher_options, folder=base, at_once=jobs)
        pruning = pruner_named(pruner, trials, read.evaluate.every)
        study = Study(base / STUDY, axes, figure.better, read.seed, sampler=sampler, pruner=pruning)
        _begin(study, base, read, settings, figure)
        say(f"Sweep    {trials} trials by {figure.name}, {jobs} at a time")
        with Jobs[_Attempt](place, jobs) as running:
            hunt = _Search(study, figure, read, lambda trial: _point(recipe, fixed, study, trial, base), running)
            hunt.train(trials)
    if running.stopped:
        raise Interrupted("stopped; the same command goes on with what is not done", running.stopped)
    return hunt.result()


def _checked(recipe: str, settings: Sequence[str], trials: int) -> tuple[Recipe, list[Setting], tuple[str, ...]]:
    """Return the recipe, the settings that have several values, and those that have one, as overrides.

    Raises:
        RecipeError, InputError: see `search`.
    """
    if trials > MOST_RUNS:
        raise InputError(f"--trials: at most {MOST_RUNS}")
    read = read_settings(settings)
    single = [setting for setting in read if not isinstance(setting.values, Range) and len(setting.values) == 1]
    axes = [setting for setting in read if setting not in single]
    if not axes:
        raise InputError("--trials: nothing to search; --set takes choices, x=a,b, or a range, x=1e-4..1e-2")
    fixed = tuple(f"{setting.key}={setting.values[0]}" for setting in single if not isinstance(setting.values, Range))
    for setting in axes:
        for value in _ends(setting):
            read_recipe(recipe, [*fixed, f"{setting.key}={value}"])
    return read_recipe(recipe, fixed), axes, fixed


def _ends(setting: Setting) -> Sequence[object]:
    values = setting.values
    if not isinstance(values, Range):
        return values
    return [int(end) if values.whole else end for end in (values.low, values.high)]


def _begin(study: Study, base: Path, recipe: Recipe, settings: Sequence[str], figure: Figure) -> None:
    """Note what is searched; or compare it with what was when the folder was begun.

    Raises:
        RecipeError: it is something else.
    """
    content = {key: value for key, value in recipe.dump().items() if key != "run_dir"}
    now = {"settings": sorted(settings), "by": figure.name, "recipe": content}
    if not study.trials():
        study.begin(now)
        return
    before = study.searched
    was, own = before["recipe"], ("evaluate", "trainer.max_steps", "trainer.max_time")  # which a run by itself may change
    found = [("--set", " ".join(before["settings"]), " ".join(now["settings"])), ("--by", before["by"], figure.name)]
    found = [change for change in found if change[1] != change[2]] or [
        *changes(recipe, was),
        *((key, _at(was, key), _at(content, key)) for key in own if _at(was, key) != _at(content, key)),
    ]  # fmt: skip
    if found:
        faults = [f"{key}: was {shown(old)}, is {shown(new)}" for key, old, new in found]
        raise RecipeError(f"{base} has another search; choose another folder with --run-dir: {'; '.join(faults)}")


def _at(content: Any, path: str) -> Any:
    for key in path.split("."):
        content = content.get(key)
    return content


def _point(recipe: str, fixed: tuple[str, ...], study: Study, trial: Trial, base: Path) -> Point:
    values = study.values(trial)
    name = folder_name([f"{key}={_short(value)}" for key, value in values.items()])
    overrides = (*fixed, *(f"{key}={value}" for key, value in values.items()))
    return Point(recipe, overrides, base / f"{trial.number:03d},{name}")


def _short(value: str) -> str:
    """Return a number that has many digits with as many as a folder's name needs."""
    if len(value) > 6:
        with suppress(ValueError):
            return f"{float(value):.4g}"
    return value


@dataclass(eq=False)
class _Attempt:
    """A trial, and its run."""

    trial: Trial
    point: Point
    reported: set[int] = field(default_factory=set)
    """Steps whose figures Optuna has been told."""
    read: int = 0
    """Size of the log when it was last read."""
    pruned: bool = False
    """Whether it has been stopped, as the others are better."""

    @property
    def command(self) -> Sequence[str]:
        return self.point.command

    @property
    def log(self) -> Path:
        return self.point.log


class _Search:
    """The trials of a search while they run."""

    def __init__(
        self, study: Study, figure: Figure, recipe: Recipe, point_of: Callable[[Any], Point], running: Jobs[_Attempt]
    ) -> None:
        self._study, self._figure, self._recipe, self._point_of, self._running = study, figure, recipe, point_of, running
        self._faults: dict[int, str] = {}
        self._looked = 0.0

    def train(self, trials: int) -> None:
        for attempt, code in self._running.run(self._attempts(trials), self._watch):
            self._end(attempt, code)

    def _attempts(self, trials: int) -> Iterator[_Attempt]:
        """Yield the trials that were begun, and then new ones."""
        for trial in self._study.opened():
            known = self._study.trials()[trial.number].intermediate_values
            yield _Attempt(trial, self._point_of(trial), set(known))
        while len(self._study.trials()) < trials:
            trial = self._study.ask()
            point = self._point_of(trial)
            if (twin := self._study.twin(trial)) is None:
                yield _Attempt(trial, point)
            else:
                self._study.repeat(trial, twin)
                say(f"known    trial {trial.number} has the values of trial {twin.number}")

    def _watch(self, running: Sequence[_Attempt]) -> None:
        if time.monotonic() - self._looked < EVERY:
            return
        self._looked = time.monotonic()
        for attempt in running:
            if self._report(attempt) and not attempt.pruned and attempt.trial.should_prune():
                attempt.pruned = True
                self._running.stop(attempt)

    def _report(self, attempt: _Attempt) -> bool:
        """Tell Optuna what a run has measured since the last time; return whether it has."""
        file = RunFolder(attempt.point.run_dir).metrics
        before, attempt.read = attempt.read, file.stat().st_size if file.is_file() else 0
        measured = self._figure.measured(attempt.point.run_dir) if attempt.read != before else {}
        new = {step: value for step, value in measured.items() if step not in attempt.reported}
        for step, value in new.items():
            attempt.trial.report(value, step)
        attempt.reported |= new.keys()
        return bool(new)

    def _end(self, attempt: _Attempt, code: int) -> None:
        self._report(attempt)
        run = attempt.point.run_dir
        value = self._figure.final(run) if code == 0 else None
        if value is not None:
            self._study.tell(attempt.trial, value)
            say(f"done     {run}  {self._figure.name} {value:.4g}")
        elif code == 0:
            self._faults[attempt.trial.number] = f"{run}: {self._figure.name} was not measured at its end ({attempt.log})"
        elif attempt.pruned:
            self._study.tell(attempt.trial, None)
            say(f"pruned   {run} after step {max(attempt.reported)}")
        elif not self._running.stopped:
            self._faults[attempt.trial.number] = attempt.point.fault(code)

    def result(self) -> Swept:
        from optuna.trial import TrialState

        done: dict[Path, Point] = {}
        for frozen in self._study.trials(TrialState.COMPLETE):
            point = self._point_of(frozen)
            if point.run_dir.is_dir():  # not of one with the values of another
                done[point.run_dir] = point
        pruned = len(self._study.trials(TrialState.PRUNED))
        say(f"Trials   {len(done)} done, {pruned} pruned, {len(self._faults)} failed")
        return ended(self._figure, done, [self._faults[number] for number in sorted(self._faults)], self._recipe)
