"""Metrics of whether what is drawn is what was asked for: labels, numbers. Registered under `genhub.metrics`."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.evaluation import by_rows
from genhub.interfaces.metric import Figures, MeasuredModel, Metric

READS_WELL = 0.9
"""Accuracy that a probe should have: below, its own mistakes are a good part of a figure about labels."""
LONGEST = 60
"""Most characters of a column's name in that of a figure."""


class LabelEntropy(Metric):
    """Inception score, by the probe: exp of the mean KL of the labels that it reads from their average."""

    figures: ClassVar[Figures] = {"label_entropy": "higher"}
    least, bias, has_floor = 1000, "biased downwards", True

    def missing(self, subject: MeasuredModel) -> str | None:
        return subject.no_labels

    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        _say_how_well_labels_are_read(subject, "label_entropy")
        return {"label_entropy": by_rows.inception_score(subject.probabilities)}


class LabelAccuracy(Metric):
    """Share of drawn rows in which the probe reads the label that was asked for: by the label itself, or by a column that is
    made from it, such as a text."""

    figures: ClassVar[Figures] = {"label_accuracy": "higher"}
    has_floor = True

    def missing(self, subject: MeasuredModel) -> str | None:
        asked = subject.labels_asked
        return asked if isinstance(asked, str) else None

    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        _say_how_well_labels_are_read(subject, "label_accuracy")
        asked = subject.labels_asked
        assert not isinstance(asked, str)
        right = subject.probabilities.argmax(1) == asked[0]
        return {"label_accuracy": right[asked[1]]}


def _say_how_well_labels_are_read(subject: MeasuredModel, name: str) -> None:
    if subject.reads_right < READS_WELL:
        subject.notes.append(f"{name}: the probe reads only {subject.reads_right:.0%} of real rows' labels right")


class ConditionError(Metric):
    """Distance of what is drawn from the numbers that were asked for, where a function of what is drawn says them: ink.

    Of each such condition the mean absolute error, in its own units; and the mean over conditions of that error over the one
    of good rows that have nothing to do with what was asked for: 0 is exact, 1 no better than chance.
    """

    figures: ClassVar[Figures] = {"condition_error": "lower"}
    has_floor = True

    def missing(self, subject: MeasuredModel) -> str | None:
        if not subject.model.conditions:
            return "the model is given nothing"
        if any(self._told(subject)):
            return None
        names = ", ".join(subject.model.conditions)
        return f"nobody knows a function of what is drawn that tells what was asked for: {names}"

    def _told(self, subject: MeasuredModel) -> list[str]:
        """Return the conditions that are asked for and that a function of what is drawn tells."""
        names = [name for name in subject.model.conditions if subject.formula(name)]
        return [name for name in names if (asked := subject.asked(name)) and asked[1].any()]

    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        found, shares = dict[str, float | Tensor](), []
        for name in self._told(subject):
            errors, there, chance, real = self._errors(subject, name)
            found[f"condition_error_{_word(name)}"] = torch.from_numpy(errors[there])
            share = errors / chance if chance else np.full(len(errors), float(errors[there].mean() > 0))
            shares.append(np.where(there, share, 0) / there.mean())  # whose mean is that of the rows that have one
            subject.notes.append(
                f"condition_error_{_word(name)}: {chance:.4g} would be chance, rows that have nothing to do with what was "
                f"asked for; real rows are {real:.2g} from their own {name}"
            )
        return {"condition_error": torch.from_numpy(np.mean(shares, axis=0)), **found}

    def _errors(self, subject: MeasuredModel, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_], float, float]:
        """Return the mean absolute error of each drawn row (n,), and whether it was asked for one; the means of real rows in
        any order, and of real rows of their own values."""
        formula, asked = subject.formula(name), subject.asked(name)
        assert formula is not None
        assert asked is not None
        data, rows = subject.reference, subject.reference_rows
        column = data.column(name)
        has = column.present(rows).numpy()
        real = _flat(column.kept(rows))[has]
        wanted, there = _flat(asked[0]), asked[1].numpy()
        drawn = _flat(formula(subject.drawn.numpy()))
        blocks = np.array_split(rows, -(-len(rows) // 1000))
        told = np.concatenate([_flat(formula(data.own(block).numpy())) for block in blocks])[has]
        return np.abs(drawn - wanted).mean(1), there, _mean_distance(wanted[there], real), float(np.abs(told - real).mean())


def _flat(values: Tensor | NDArray[np.generic]) -> NDArray[np.float64]:
    """Return values (n, ...) as rows of numbers (n, d)."""
    return np.asarray(values, np.float64).reshape(len(values), -1)


def _mean_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the mean of |a - b| over all pairs of rows and all of their numbers (n, d): by sorting, not pair by pair."""
    total = 0.0
    for a, b in zip(one.T, np.sort(other, axis=0).T, strict=True):
        below, sums = np.searchsorted(b, a), np.concatenate([[0.0], np.cumsum(b)])
        total += float((a * (2 * below - len(b)) + sums[-1] - 2 * sums[below]).mean()) / len(b)
    return float(total / one.shape[1])


def _word(name: str) -> str:
    """Return a column's name as a part of a figure's name."""
    return re.sub(r"[^\w.+-]+", "_", name)[:LONGEST]
