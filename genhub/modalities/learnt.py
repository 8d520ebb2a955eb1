"""Values that modalities are learnt from, those of a column that can be read; and numbers of 32 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from genhub.interfaces.modality import RawColumn, Unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 3.4028234663852886e38
"""Largest number of 32 bits."""


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


def single(value: Any) -> NDArray[Any]:
    """Return numbers as float32.

    Raises:
        ValueError: they are none, not finite, or too large.
    """
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu()
    numbers: NDArray[Any] = np.asarray(value, np.float64)
    if not (np.abs(numbers) <= LARGEST).all():  # nor is NaN
        raise ValueError("has values that are not finite, or beyond 3.4e38")
    return numbers.astype(np.float32)


def deviation(std: NDArray[Any]) -> NDArray[Any]:
    """Return standard deviations with 1 in place of 0, and of what float32 can't divide by."""
    import numpy as np

    found: NDArray[Any] = np.where(std > np.finfo(np.float32).tiny, std, 1.0)
    return found
