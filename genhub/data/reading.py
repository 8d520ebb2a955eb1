"""Read stored values as their modality keeps them: all at once, or some rows at a time in worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from genhub.data.raw import Index, StoredColumn, attempt
from genhub.errors import DataError
from genhub.ground.forks import can_fork, cores, forked
from genhub.interfaces.modality import Modality, Unreadable

CHUNK = 32
SMALL, MANY = 2**14, 5000
"""Bytes of a small stored value; number of small ones from which on processes read them: a fork costs as much as reading a
few hundred."""

Flips = NDArray[np.bool_] | None
Faults = list[tuple[int, str]]
"""Row numbers, and what is wrong there."""
Values = list[NDArray[Any] | Unreadable | None]


def fault_of(column: StoredColumn, faults: Faults, total: int, on_error: str) -> DataError:
    """Return the error that values can't be read, the first few by name."""
    names = "; ".join(f"{column.place(row)}: {reason}" for row, reason in faults[:5])
    advice = "; data.on_error: skip leaves them out" if on_error == "fail" else ""
    return DataError(f"data.columns.{column.name}: {len(faults)} of {total} rows can't be read: {names}{advice}")


def read_values(column: StoredColumn, modality: Modality, rows: Sequence[int], wider: bool = False) -> Values:
    """Return the values of some rows as they are kept: `Unreadable` where one can't be read, None where there is none.

    Args:
        wider: leave values of another shape as they are where the modality can be widened to it.
    Raises:
        DataError: values have different shapes.
    """
    values: Values = [None if raw is None else attempt(modality.read, raw) for raw in column.raw(rows)]
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        if not isinstance(value, np.ndarray) or value.shape == modality.shape:
            continue
        if wider and modality.widened(value.shape):
            continue
        values[place] = modality.narrowed(value)
        if values[place] is None:
            raise _other_shape(column, modality, row, value.shape)
    return values


def _other_shape(column: StoredColumn, modality: Modality, row: int, shape: tuple[int, ...]) -> DataError:
    """Return the error that a row's value has another shape than the others."""
    names = list(type(modality).Options.model_fields)
    key = "channels" if shape[1:] == modality.shape[1:] and "channels" in names else next(iter(names), None)
    advice = f"; set data.columns.{column.name}.{key}" if key else ""
    of = "x".join(map(str, modality.shape))
    first = next((row for row in column.spread(1000) if _shape(column, modality, row) == modality.shape), None)
    before = f"the others are {of}" if first is None else f"{column.place(first)} is {of}"
    return DataError(f"data.columns.{column.name}: {before} but {column.place(row)} is {'x'.join(map(str, shape))}{advice}")


def _shape(column: StoredColumn, modality: Modality, row: int) -> tuple[int, ...] | None:
    (raw,) = column.raw([row])
    value = None if raw is None else attempt(modality.read, raw)
    return value.shape if isinstance(value, np.ndarray) else None


@dataclass(frozen=True)
class Kept:
    """Values of a column in memory."""

    modality: Modality
    values: NDArray[Any]
    """(n, *shape); zeros where a row has none, or an unreadable one."""
    present: NDArray[np.bool_]
    faults: Faults
    """By place among the n: what can't be read."""


def read_all(column: StoredColumn, modality: Modality, rows: Index, wider: bool) -> Kept:
    """Read all values of these rows.

    Args:
        wider: widen the modality by values that have another shape than those it was learnt from.
    """
    whole = column.stored.whole()
    if whole is not None and (kept := _at_once(whole[rows], modality)):
        return kept
    if not modality.shape:
        return _by_value(column, modality, rows)
    return _in_chunks(column, modality, rows, wider)


def _at_once(array: NDArray[Any], modality: Modality) -> Kept | None:
    """Read an array of numbers; None where some of it can't be read, which is then found out value by value."""
    present = np.ones(len(array), np.bool_)
    if array.ndim == 1 and array.dtype.kind == "f":
        present = ~np.isnan(array)
        array = np.where(present, array, 0)
    try:
        values = modality.read_all(array)
    except Exception:
        return None
    if values.shape != (len(array), *modality.shape):
        return None
    values[~present] = 0
    return Kept(modality, values, present, [])


def _by_value(column: StoredColumn, modality: Modality, rows: Index) -> Kept:
    """Read single numbers, texts and the like, each value that occurs once."""
    raw = column.raw(rows.tolist())
    places: dict[Any, list[int]] = {}
    for place, value in enumerate(raw):
        places.setdefault((type(value), value), []).append(place)
    values = np.zeros(len(rows), np.dtype(modality.dtype))
    present, faults = np.zeros(len(rows), np.bool_), Faults()
    for (_, value), found in places.items():
        read = None if value is None else attempt(modality.read, value)
        if isinstance(read, Unreadable):
            faults += [(place, read) for place in found]
        elif read is not None:
            values[found], present[found] = read, True
    return Kept(modality, values, present, sorted(faults))


def _in_chunks(column: StoredColumn, modality: Modality, rows: Index, wider: bool) -> Kept:
    values = np.zeros((len(rows), *modality.shape), np.dtype(modality.dtype))
    present, faults = np.zeros(len(rows), np.bool_), Faults()
    place = 0

    def chunk(number: int) -> Values:
        return read_values(column, modality, rows[CHUNK * number : CHUNK * (number + 1)].tolist(), wider)

    now = modality
    for read in _spread_out(chunk, -(-len(rows) // CHUNK), _is_small(column)):
        for value in read:
            if isinstance(value, Unreadable):
                faults.append((place, value))
            elif value is not None:
                if wider and value.shape != now.shape and (more := now.widened(value.shape)):
                    now, values = more, np.broadcast_to(values, (len(rows), *more.shape)).copy()
                values[place], present[place] = value, True
            place += 1
    return Kept(now, values, present, faults)


def _spread_out(chunk: Callable[[int], Values], chunks: int, small: bool) -> Iterator[Values]:
    """Yield the chunks, read by threads, or of many small values by processes: with those threads wait for each other."""
    if small and chunks * CHUNK >= MANY and can_fork():
        yield from forked(chunk, chunks, cores())
        return
    with ExitStack() as stack:
        # The standard library's other pools take shared memory, which a container may lack.
        pool = ThreadPoolExecutor(1 if small else os.cpu_count())
        stack.callback(pool.shutdown, cancel_futures=True)
        yield from pool.map(chunk, range(chunks))


def _is_small(column: StoredColumn) -> bool:
    """Whether the first value takes few bytes as it is stored."""
    value = next((value for value in column.raw(column.spread(10)) if value is not None), None)
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and os.path.isfile(value):  # noqa: PTH113
        return os.path.getsize(value) <= SMALL  # noqa: PTH202
    return int(getattr(value, "nbytes", 0) or (len(value) if isinstance(value, bytes | str) else 0)) <= SMALL


class RowReader(Dataset[Any]):
    """Reader of some rows of several columns at a time; each worker has a copy."""

    def __init__(self, columns: Mapping[str, tuple[StoredColumn, Modality]], rows: Index, on_error: str) -> None:
        """
        Args:
            rows: the row of each number that is asked for.
        """
        self.columns, self.rows, self.on_error = columns, rows, on_error

    def read(self, numbers: Index) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.bool_]], Index, Faults]:
        """Return, by column, values (n, *shape) and which are present; the numbers of their rows, and what can't be read:
        later rows stand in for it.

        Raises:
            DataError: a row can't be read, and `data.on_error` says `fail`.
        """
        used, faults = numbers.copy(), Faults()
        read = {name: read_values(*column, self.rows[numbers].tolist()) for name, column in self.columns.items()}
        for place, number in enumerate(numbers.tolist()):
            while bad := next((name for name, values in read.items() if isinstance(values[place], Unreadable)), None):
                row, column = int(self.rows[used[place]]), self.columns[bad][0]
                used[place] = (used[place] + 1) % len(self.rows)
                if self.on_error == "fail" or used[place] == number:
                    raise fault_of(column, [(row, str(read[bad][place]))], len(self.rows), self.on_error)
                faults.append((row, f"{column.place(row)}: {read[bad][place]}"))
                for name, its in self.columns.items():
                    read[name][place] = read_values(*its, [int(self.rows[used[place]])])[0]
        present = {name: np.array([value is not None for value in values], np.bool_) for name, values in read.items()}
        return {name: self._stacked(name, values) for name, values in read.items()}, present, used, faults

    def _stacked(self, name: str, values: Values) -> NDArray[Any]:
        modality = self.columns[name][1]
        none = np.zeros(modality.shape, np.dtype(modality.dtype))
        return np.stack([none if value is None else value for value in values]) if values else none[None][:0]

    def __getitem__(self, order: tuple[Index, Flips]) -> Any:
        """Return a batch for the DataLoader, or the DataError: one raised in a worker would come back as a traceback."""
        try:
            values, present, used, faults = self.read(order[0])
        except DataError as error:
            return error
        return (*values.values(), *present.values(), used, faults, order[1])
