"""What modalities are learnt from: the values of a column that can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from genhub.interfaces.modality import RawColumn, Unreadable


def readable(column: RawColumn, function: Callable[[Any], Any], rows: Sequence[int] | None = None) -> list[Any]:
    """Return `function` of each value of a column for which it doesn't raise: what is damaged is told, or left out, when the
    rows are read.

    Args:
        rows: to look at; None: all.
    Raises:
        ValueError: there is no such value: why the first can't be read.
    """
    rows = range(len(column)) if rows is None else rows
    found = column.each(function, rows)
    values = [value for value in found if value is not None and not isinstance(value, Unreadable)]
    if not values:
        first = next(((row, each) for row, each in zip(rows, found, strict=True) if isinstance(each, Unreadable)), None)
        raise ValueError(f"no value can be read: {column.place(first[0])}: {first[1]}" if first else "no row has a value")
    return values
