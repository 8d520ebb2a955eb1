"""Plan of a bench: data, families, time and seeds, in a folder with which the same command goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from genhub.data.open import load_data
from genhub.errors import InputError, did_you_mean, first_fault, shown
from genhub.evaluation.probe import cannot_learn
from genhub.ground.console import warn
from genhub.ground.digests import hash_of
from genhub.ground.disk import saving, write_whole
from genhub.interfaces.registry import EXTRACTORS, MODELS, find_plugin, load_class, plugin_names
from genhub.interfaces.section import NonNegativeInt, PositiveInt, Section
from genhub.recipe.recipe import read_recipe
from genhub.recipe.written import write_beside
from genhub.run.suited import Task, write_recipe

SETTINGS, PAGE, TABLE = "settings.json", "bench.html", "bench.json"
"""Files of a bench's folder: what it was started with, its page, and its table."""
RESULT = "bench-result.json"
"""Name of the file, in a run's folder, of what was measured of it."""
TENTHS = range(0, 100, 10)
TRAINED_ON = "+".join(f"train[{at}%:{at + 9}%]" for at in TENTHS)
LAID_ASIDE = "+".join(f"train[{at + 9}%:{at + 10}%]" for at in TENTHS)
"""Rows that are trained on, and those that are not, of data that have one split: of each tenth, as rows may be sorted."""
OF_VECTORS, OF_OTHERS = "sliced_wasserstein", "frechet_distance"
"""The figure that families are ranked by: vectors need no features to be compared."""


class Settings(Section):
    """Settings that a bench was started with. Its figures depend on them, so that they can't change."""

    source: str
    keys: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    minutes: float
    n: PositiveInt
    """Rows drawn for the figures."""
    extractors: tuple[str, ...] = ("probe",)
    """The first one's figures rank; of the others there is the Frechet distance."""
    held_out: str = "test"
    """Split that is not trained on."""
    accelerator: bool = False
    """Whether there was a GPU or the like when the recipes were written."""
    ranked_by: str
    title: str
    """Description of the data in a few words."""


def by_other(extractor: str) -> str:
    """Return the name of the Frechet distance by an extractor that is not the first one."""
    return f"{OF_OTHERS}_{extractor.partition(':')[0]}"


class Entry(Section):
    """A family in a bench: its recipe, or why it has none."""

    model: str
    recipe: str | None = None
    """Name of the recipe's file."""
    fault: str | None = None
    """Reason why it can't be trained on these data."""


class RunResult(Section):
    """Figures of one run, and what it took."""

    model: str
    recipe: str
    """Digest of the recipe's file: a result of another recipe is none."""
    seed: NonNegativeInt
    steps: NonNegativeInt
    seconds: float
    """Seconds of training."""
    values: dict[str, float]
    """Figures, by name."""
    intervals: dict[str, tuple[float, float]] = {}  # noqa: RUF012
    """95% intervals of figures, over rows."""
    floor: dict[str, float] = {}  # noqa: RUF012
    """Figures of real rows in the place of drawn ones."""
    notes: tuple[str, ...] = ()
    peak_memory: NonNegativeInt = 0
    """Most bytes of memory that the process, or the accelerator, had in use."""
    by_time: tuple[tuple[float, float], ...] = ()
    """(seconds of training, the figure that is ranked by) while it trained, by fewer rows."""
    by_evaluations: tuple[tuple[float, float, float], ...] = ()
    """(network evaluations a row, seconds a row, the figure), by fewer rows; () where a model has no steps to choose."""
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A bench that can start."""

    folder: Path
    settings: Settings
    entries: tuple[Entry, ...]
    seeds: int

    @property
    def jobs(self) -> list[tuple[Entry, int]]:
        """Entries that are trained, by seed: all families once before any is trained again."""
        there = [entry for entry in self.entries if entry.recipe]
        return [(entry, seed) for seed in range(self.seeds) for entry in there]

    def result(self, entry: Entry, seed: int) -> RunResult | None:
        """Return what was measured of a run, by the recipe as it is now; None if it is to be trained or measured yet."""
        if entry.recipe is None:
            return None
        return read_result(self.run(entry.model, seed), digest(self.folder / entry.recipe))

    def run(self, model: str, seed: int) -> Path:
        """Return the folder of a family's run."""
        return self.folder / model / f"seed-{seed}"


def make_plan(folder: Path, settings: Settings, task: Task, models: Sequence[str] | None, seeds: int) -> Plan:
    """Write the recipe of each family into the folder, where it isn't there, and return the plan.

    Args:
        models: families by name; None: all that are installed.
    Raises:
        InputError: a family is unknown, or the folder has a bench of other data, time or rows.
    """
    known = plugin_names(MODELS)
    names = [extractor.partition(":")[0] for extractor in settings.extractors]
    if len(set(names)) < len(names):
        raise InputError(f"--extractor: {', '.join(settings.extractors)}: one is named twice")
    for name in names:
        find_plugin(EXTRACTORS, name)
    for name in models or ():
        if name not in known:
            raise InputError(f"--models: no family is called {shown(name)}; {did_you_mean(name, known)}")
    _check_folder(folder, settings)
    _check_measurable(task, settings)
    with saving(folder / SETTINGS):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / SETTINGS, json.dumps(settings.model_dump(mode="json"), indent=2) + "\n")
    entries = tuple(_entry(folder, task, name) for name in dict.fromkeys(models or known))
    return Plan(folder, settings, entries, seeds)


def read_settings(folder: Path) -> Settings:
    """Return the settings of a bench's folder."""
    return Settings.model_validate_json((folder / SETTINGS).read_text())


def _check_folder(folder: Path, settings: Settings) -> None:
    file = folder / SETTINGS
    if not file.exists():
        return
    try:
        before = read_settings(folder)
    except ValidationError as error:
        raise InputError(f"{file}: is no bench's: {first_fault(error)}; choose another folder by --out") from error
    old, new = before.model_dump(), settings.model_dump()
    if changed := [f"{key} was {shown(old[key])}, is {shown(new[key])}" for key in old if old[key] != new[key]]:
        raise InputError(f"{folder}: holds another bench: {'; '.join(changed)}; choose another folder by --out")


def _check_measurable(task: Task, settings: Settings) -> None:
    """Read the data, and look whether they can be compared, before anything is trained.

    Raises:
        InputError: a stream, rows that can't be read, or an extractor that is not for such data.
    """
    if task.data.streaming:
        raise InputError("bench: a stream's rows are not at hand to compare with; leave streaming out")
    data = load_data(task.data, tuple(task.spec.conditions))
    for extractor in settings.extractors:
        name, _, source = extractor.partition(":")
        name = "values" if name == "probe" and cannot_learn(data) else name
        load_class(EXTRACTORS, name)(data, source or None, torch.device("cpu"))


def _entry(folder: Path, task: Task, model: str) -> Entry:
    """Return a family with its recipe, which is written where it isn't there: one that was edited stays as it is."""
    file = folder / f"{model}.yaml"
    try:
        if not file.exists():
            write_beside(file, write_recipe(task, model, str(file)))
        read_recipe(file)
    except InputError as error:
        return Entry(model=model, fault=str(error))
    return Entry(model=model, recipe=file.name)


def settings_of(task: Task, values: dict[str, Any]) -> Settings:
    """Return the settings of a bench of these data."""
    ranked_by = OF_VECTORS if len(task.spec.modality.shape) == 1 else OF_OTHERS
    return Settings(ranked_by=ranked_by, title=task.title, **values)


def digest(recipe: Path) -> str:
    """Return a digest of a recipe's file."""
    return hash_of(recipe.read_text())


def read_result(run: Path, recipe: str) -> RunResult | None:
    """Return the result in a run's folder; None if there is none, or one of another recipe."""
    file = run / RESULT
    if not file.is_file():
        return None
    try:
        found = RunResult.model_validate_json(file.read_text())
    except ValidationError as error:
        warn(f"{file}: damaged: {first_fault(error)}; it is measured again")
        return None
    return found if found.recipe == recipe else None
