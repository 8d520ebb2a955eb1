"""A measurement with other rows in the drawn ones' place: half of them, for an interval; real ones, for the floor."""

from __future__ import annotations

import inspect
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genhub.evaluation.cache import kept
from genhub.evaluation.given import WholeRows
from genhub.evaluation.intervals import values_of
from genhub.evaluation.measurement import Measurement
from genhub.ground.digests import hash_of
from genhub.ground.disk import cache_folder

if TYPE_CHECKING:
    from genhub.evaluation.chosen import Chosen

VERSION = 1
"""Number to raise when a built-in figure changes: cached floors of other versions are not used."""


class InPlace:
    """A measurement as it is, but for the drawn rows and what belongs to them."""

    def __init__(self, subject: Measurement, n: int) -> None:
        self.subject, self.n, self.notes = subject, n, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.subject, name)


class Half(InPlace):
    """Some of the drawn rows."""

    def __init__(self, subject: Measurement, rows: Tensor) -> None:
        super().__init__(subject, len(rows))
        self.rows = rows

    @property
    def drawn(self) -> Tensor:
        return self.subject.drawn[self.rows]

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        real, drawn = self.subject.features
        return real, drawn[self.rows]

    @property
    def probabilities(self) -> Tensor:
        return self.subject.probabilities[self.rows]

    def asked(self, name: str) -> tuple[Tensor, Tensor] | None:
        found = self.subject.asked(name)
        return found and (found[0][self.rows], found[1][self.rows])

    @property
    def labels_asked(self) -> tuple[Tensor, Tensor] | str:
        found = self.subject.labels_asked
        return found if isinstance(found, str) else (found[0][self.rows], found[1][self.rows])


class Unseen(InPlace):
    """Measurement of as many real rows as were drawn, or as there are, neither trained on nor compared with."""

    no_unseen = "they are in the drawn rows' place"

    def __init__(self, subject: Measurement) -> None:
        self.places = subject.fresh_rows[: subject.n]
        super().__init__(subject, len(self.places))
        self.whole = WholeRows(subject.unseen, subject.unseen_rows[self.places])

    @cached_property
    def drawn(self) -> Tensor:
        return self.whole.data.own(self.whole.numbers)

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        return self.subject.real_features, self.subject.unseen_features[torch.from_numpy(self.places)]

    @cached_property
    def probabilities(self) -> Tensor:
        return self.subject.probe.probabilities(self.drawn)

    def asked(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return what a row that was asked for as this one is would have been asked for."""
        if self.subject.asked(name) is None:
            return None
        column = self.whole.data.column(name)
        return column.kept(self.whole.numbers), column.present(self.whole.numbers)

    @cached_property
    def labels_asked(self) -> tuple[Tensor, Tensor] | str:
        asked = self.subject.labels_asked
        return asked if isinstance(asked, str) else self.subject.labels_of(self.whole)


def floor_of(chosen: Chosen, subject: Measurement) -> dict[str, float]:
    """Return a metric's figures of real rows in the drawn ones' place, those that are better one way; none where it has no
    floor, or there are too few such rows. A note says where they are fewer than were drawn.

    Raises:
        GenhubError: it fails.
    """
    if not chosen.metric.has_floor or subject.no_unseen is not None:
        return {}
    unseen = Unseen(subject)
    if unseen.n < max(chosen.metric.rows, 2) or chosen.metric.missing(unseen):
        return {}
    if unseen.n < subject.n:
        subject.notes.append(
            f"real rows beside the figures: {unseen.n} of split {subject.unseen.spec.split}, fewer than the {subject.n} "
            "drawn"
        )

    def compute() -> dict[str, Tensor]:
        found = values_of(chosen.rows(unseen))  # type: ignore[arg-type]
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    found = _kept(chosen, unseen, compute) if chosen.metric.by_features else compute()
    figures = {name: float(value) for name, value in found.items()}
    return {
        name: value for name, value in figures.items() if chosen.metric.figures.get(name, "lower") and np.isfinite(value)
    }


def _kept(chosen: Chosen, unseen: Unseen, compute: Any) -> Any:
    """Return what is computed of real rows alone, from the cache if it is there and was computed by the same code."""
    subject, code = unseen.subject, sys.modules.get(type(chosen.metric).__module__)
    try:
        source = inspect.getsource(code) if code else ""
    except OSError:
        source = ""
    key = hash_of(VERSION, chosen.name, source, subject.extractor.fingerprint, subject.reference.content,
                  subject.reference_rows, unseen.whole.data.content, unseen.whole.numbers)  # fmt: skip
    return kept(cache_folder() / "features" / f"{key}-floor.safetensors", lambda: (compute(), {}))[0]
