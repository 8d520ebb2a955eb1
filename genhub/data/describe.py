"""Say what data there are, column by column, for `genhub data`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genhub.data.raw import Index, Source
from genhub.data.reading import read_all, read_values
from genhub.data.sources import find_source
from genhub.data.split_columns import SplitColumns
from genhub.data.stream import first_columns
from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.modality import Modality

if TYPE_CHECKING:
    from PIL import Image

MOST_CLASSES = 100
"""Most classes of which each one's rows are told."""
SHOWN = 64
"""Number of rows in a picture."""


@dataclass(frozen=True)
class Description:
    """Description of data, for people and for programs."""

    facts: dict[str, Any]
    """Name, splits, rows, the target, and by column what it is: JSON."""
    _columns: SplitColumns
    _target: str | None

    def picture(self) -> Image.Image:
        """Return a picture of evenly spaced rows of the target, or of the first column that can be drawn.

        Raises:
            DataError: there is none, or its values can't be read.
        """
        drawable = [name for name, facts in self.facts["columns"].items() if facts.get("can_be_target")]
        name = self._target or next(iter(drawable), None)
        if name is None:
            raise DataError(f"data: no column of {self._columns.config.title} can be drawn")
        stored, modality = self._columns.stored(name), self._columns.modality(name, name)
        rows = stored.spread(SHOWN)
        values = dict(zip(rows, read_values(stored, modality, rows), strict=True))
        there = {row: value for row, value in values.items() if isinstance(value, np.ndarray)}
        if not there:
            raise DataError(f"data.columns.{name}: none of {len(rows)} rows can be read")
        own = modality.from_batch(modality.to_batch(torch.from_numpy(np.stack(list(there.values())))))
        return modality.picture(own, self._captions(list(there), name))

    def _captions(self, rows: Sequence[int], target: str) -> list[str]:
        """Return the classes of rows, by the first column that has any."""
        for name in (name for name, facts in self.facts["columns"].items() if "classes" in facts and name != target):
            modality = self._columns.modality(name, target)
            kept = read_all(self._columns.stored(name), modality, np.array(rows, dtype=np.int64), wider=False)
            return [modality.caption(value) if present else ""
                    for value, present in zip(torch.from_numpy(kept.values), kept.present, strict=True)]  # fmt: skip
        return []


def describe(config: DataConfig) -> Description:
    """Look at the data that a section `data` names: every column is learnt, as training would.

    Raises:
        DataError: they are not there, or `data` says of them what can't be.
    """
    source = find_source(config)
    if isinstance(source, Source):
        columns, length, splits = SplitColumns(source.columns, config, None), len(source), list(source.splits)
    else:
        columns, length, splits = SplitColumns(first_columns(source, config), config, None), source.length, [config.split]
    target = _target(columns)
    facts: dict[str, Any] = {"name": config.title, "split": config.split, "splits": splits, "rows": length or None}
    facts |= {"target": target, "columns": {name: _facts(columns, name, target) for name in columns.names}}
    facts |= {"unrecognised": list(columns.unrecognised)} if columns.unrecognised else {}
    facts |= {"notes": list(source.notes)} if isinstance(source, Source) and source.notes else {}
    return Description(facts, columns, target)


def _target(columns: SplitColumns) -> str | None:
    """Return the target; None where the recipe must name it. A wrong one that it names is an error."""
    try:
        return columns.target()
    except DataError:
        if columns.config.target is not None:
            raise
        return None


def _facts(columns: SplitColumns, name: str, target: str | None) -> dict[str, Any]:
    stored = columns.stored(name)
    kind, cls = columns.recognised(name)
    missing = int(stored.stored.missing().sum())
    facts: dict[str, Any] = {"modality": kind, "can_be_target": cls.can_be_target, "missing": missing}
    try:
        modality = columns.modality(name, target or name)
        facts |= {"shape": list(modality.shape), **modality.facts()}
        notes = list(modality.notes(stored))
        if modality.classes:
            facts |= {"classes": modality.classes, "rows_of_each": _counts(columns, name, modality)}
        return facts | ({"notes": notes} if notes else {})
    except DataError as error:  # of one column, and the others are told all the same
        return facts | {"fault": str(error)}


def _counts(columns: SplitColumns, name: str, modality: Modality) -> dict[str, int]:
    """Return how many rows each class has; {} where there are very many classes."""
    if modality.classes > MOST_CLASSES:
        return {}
    stored = columns.stored(name)
    rows: Index = np.flatnonzero(~stored.stored.missing())
    kept = read_all(stored, modality, rows, wider=False)
    counts = np.bincount(kept.values[kept.present], minlength=modality.classes)
    return {modality.caption(torch.tensor(number)) or str(number): int(count) for number, count in enumerate(counts)}
