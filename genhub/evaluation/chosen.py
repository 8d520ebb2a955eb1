"""The registered metrics by name, why one can't be computed, and notes for those who read its figures."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

from pydantic import TypeAdapter
from torch import Tensor

from genhub.data.batches import TableData
from genhub.errors import GenhubError, InputError, PluginError, did_you_mean, shown
from genhub.evaluation.in_place import Half
from genhub.evaluation.intervals import Interval, by_halves, intervals_of, values_of
from genhub.evaluation.measurement import Measurement
from genhub.interfaces.metric import Better, Metric
from genhub.interfaces.registry import METRICS, find_plugin, load_all, load_class, plugin_names
from genhub.store.manifest import Word

Found = TypeVar("Found")
FIGURES = TypeAdapter(dict[Word, float])


class MetricFailed(PluginError):
    """A metric raised something, or returned no figures."""


@dataclass(frozen=True)
class Chosen:
    """A metric by the name that it is registered under."""

    name: str
    metric: Metric

    @property
    def own(self) -> str:
        """The name of the figure that stands for the metric."""
        return next(iter(self.metric.figures))

    @property
    def better(self) -> Better | None:
        return self.metric.figures[self.own]

    def missing(self, subject: Measurement) -> str | None:
        """Return why it can't be computed; None if it can.

        Raises:
            MetricFailed: it fails to say so.
        """
        return self.too_few(subject) or self._tried(subject, partial(self.metric.missing, subject))

    def too_few(self, subject: Measurement) -> str | None:
        for what, found in (("drawn", subject.n), ("real", len(subject.reference_rows))):
            if found < self.metric.rows:
                return f"needs {self.metric.rows} {what} rows or more, not {found}"
        return None

    def warning(self, subject: Measurement) -> str | None:
        least = self.metric.least
        return (
            None if subject.n >= least else f"{self.name}: {subject.n} rows are few; below {least} it is {self.metric.bias}"
        )

    def compute(self, subject: Measurement) -> dict[str, float]:
        """Return the figures; see `rows`."""
        return values_of(self.rows(subject))

    def rows(self, subject: Measurement) -> dict[str, float | Tensor]:
        """Return the figures, as numbers or as rows' values (n,).

        Raises:
            MetricFailed: it fails, whatever it raises, or returns something else than figures by name.
        """
        return self._tried(subject, lambda: _checked(self.metric.compute(subject)))

    def intervals(self, subject: Measurement, found: Mapping[str, float | Tensor]) -> dict[str, Interval]:
        """Return the intervals of the figures that it gave, of those that have one.

        Raises:
            MetricFailed: it fails on half of the rows.
        """
        times, numbers = self.metric.resamples, {name: one for name, one in found.items() if isinstance(one, float)}
        if not times or subject.n < 2 * max(self.metric.rows, 2) or not numbers:
            return intervals_of(found)

        def on(rows: Tensor) -> dict[str, float]:
            return self.compute(cast(Measurement, Half(subject, rows)))

        return intervals_of(found) | by_halves(numbers, on, subject.n, times)

    def _tried(self, subject: Measurement, function: Callable[[], Found]) -> Found:
        try:
            return function()
        except GenhubError:  # which says what is wrong
            raise
        except Exception as error:
            if subject.is_drawing:  # the model's fault, whichever metric asked for what it draws
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            said = " ".join(traceback.format_exception_only(error)[-1].split())
            place = f"{Path(last.filename).name}:{last.lineno}"
            raise MetricFailed(f"{find_plugin(METRICS, self.name)} failed: {said} ({place})") from error


def _checked(found: Mapping[str, float | Tensor]) -> dict[str, float | Tensor]:
    """Return figures as a metric may give them: numbers, or rows' values, as float64 on the CPU."""
    rows = {name: value.detach().double().cpu() for name, value in found.items() if isinstance(value, Tensor)}
    for name, values in rows.items():
        if values.ndim > 1:
            raise ValueError(f"{name} is {tuple(values.shape)}; give a number, or rows' values (n,)")
    numbers = {name: rows[name].mean().item() if name in rows else value for name, value in found.items()}
    checked = FIGURES.validate_python(numbers)
    return {name: rows[name] if name in rows and rows[name].ndim else value for name, value in checked.items()}


def metric_named(name: str) -> Chosen:
    """Return a registered metric.

    Raises:
        PluginError: unknown, claimed twice, or broken.
    """
    return Chosen(name, load_class(METRICS, name)())


def check_names(names: Iterable[str]) -> None:
    """
    Raises:
        InputError: no metric has such a name; the nearest right one.
    """
    known = plugin_names(METRICS)
    for name in names:
        if name not in known:
            raise InputError(f"--metrics: no metric is called {shown(name)}; {did_you_mean(name, known)}")


def all_metrics() -> tuple[list[Chosen], list[str]]:
    """Return all metrics that can be used, by name, those that tell nothing of quality last; and what is wrong with the
    others."""
    classes, faults = load_all(METRICS)
    found = [Chosen(name, cls()) for name, cls in classes.items()]
    return sorted(found, key=lambda chosen: chosen.better is None), faults


def that_compare_features(names: Sequence[str] | None) -> list[str]:
    """Return those metrics of a choice, or of those that are computed by default, whose figures another extractor changes;
    all that were named where it is none of them."""
    chosen = all_metrics()[0] if names is None else [metric_named(name) for name in names]
    found = [one.name for one in chosen if one.metric.by_features and (names is not None or one.metric.by_default)]
    return found or list(names or ())


def directions() -> Mapping[str, Better]:
    """Return by figure which way it is better, of those that are better one way."""
    sides = {figure: better for chosen in all_metrics()[0] for figure, better in chosen.metric.figures.items()}
    return {figure: better for figure, better in sides.items() if better}


def about(subject: Measurement, metrics: Iterable[Chosen]) -> list[str]:
    """Return notes for the readers of several metrics: on the extractor, on what rows are given, and on those that were not
    trained on."""
    notes = [] if subject.rows_of is None else [f"drawn for the conditions of rows of split {subject.rows_of.split}"]
    if any(chosen.metric.by_features for chosen in metrics) and (note := distrust(subject)):
        notes.append(note)
    if isinstance(subject.held_out, TableData) and "seen" in subject.__dict__ and subject.seen.any():
        seen, split = subject.seen, subject.held_out.spec.split
        notes.append(f"{seen.sum()} of the {len(seen)} held-out rows of split {split} were trained on, and are left out")
    return notes


def distrust(subject: Measurement) -> str | None:
    """Return a warning if the extractor can't tell good elements of these data from bad ones: if more than half as much of
    what is surely bad passes for real as of real images."""
    if subject.passing is None:
        return None
    mush, real = subject.passing
    if mush <= real / 2:
        return None
    name = subject.extractor_name.partition(":")[0]
    right = f", and is right on {subject.probe.accuracy:.0%} of rows it was not trained on" if name == "probe" else ""
    better = "inception" if name == "dinov2" else "dinov2"
    advice = f"; --extractor {better} may do better" if len(subject.reference.spec.modality.shape) == 3 else ""
    return (
        f"{name} can hardly tell good from bad here: it takes {mush:.0%} of means of eight real rows for real, of real "
        f"rows {real:.0%}{right}{advice}"
    )
