"""Columns of a split as they are stored: nothing is decoded here. Sources make them, modalities look at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genhub.errors import DataError
from genhub.ground.forks import cores
from genhub.ground.ids import HUB, nearest_path, split_id
from genhub.hub.repository import open_repository
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.modality import Unreadable

BLOCK = 64
"""Number of values that a thread takes at a time."""
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Classes:
    """Feature of a column of class names that no table of `datasets` holds: like its ClassLabel, it has `names`."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Numbers:
    """Feature of a column of vectors whose numbers have names."""

    numbers: tuple[str, ...]


@dataclass(frozen=True)
class Formula:
    """Function by which a column was computed from another one. Its value of anything drawn can be computed by it, too."""

    of: str
    """The other column."""
    function: Callable[[NDArray[Any]], NDArray[Any]]
    """Function of its values (n, *shape), in their own units, that gives this column's, (n, ...)."""


class Stored(Protocol):
    """Values of a column as they lie in memory or on the disk."""

    def __len__(self) -> int: ...

    def take(self, rows: Sequence[int]) -> Sequence[Any]:
        """Return the values of these rows; None where there is none."""

    def missing(self) -> NDArray[np.bool_]:
        """Return which rows have no value."""

    def whole(self) -> NDArray[Any] | None:
        """Return all values as one array of numbers (n, ...), NaN where there is none; None where they aren't numbers."""

    def files(self) -> list[str]:
        """Return the files that hold all the values' bytes; none if they are in memory, or in files that rows name."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Values in a NumPy array: numbers, arrays of them, or objects such as paths and texts."""

    values: NDArray[Any]
    are_files: bool = False
    """Whether they are paths of files with an element each."""

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Sequence[int]) -> Sequence[Any]:
        found = self.values[np.asarray(rows, dtype=np.int64)]
        return [None if _is_nan(value) else value for value in found.tolist()] if found.ndim == 1 else list(found)

    def missing(self) -> NDArray[np.bool_]:
        if self.values.ndim == 1 and self.values.dtype.kind == "f":
            missing: NDArray[np.bool_] = np.isnan(self.values)
            return missing
        if self.values.dtype.kind != "O":
            return np.zeros(len(self.values), np.bool_)
        return np.array([value is None or _is_nan(value) for value in self.values.tolist()], np.bool_)

    def whole(self) -> NDArray[Any] | None:
        return self.values if self.values.dtype.kind in "biuf" else None

    def files(self) -> list[str]:
        return [str(path) for path in self.values.tolist()] if self.are_files else []


@dataclass(frozen=True, eq=False)
class Joined:
    """Vectors of the numbers, or vectors, of several columns; a row that lacks one of them has none."""

    parts: tuple[Stored, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def take(self, rows: Sequence[int]) -> Sequence[Any]:
        found = zip(*(part.take(rows) for part in self.parts), strict=True)
        return [None if any(value is None for value in values) else _vector(values) for values in found]

    def missing(self) -> NDArray[np.bool_]:
        missing: NDArray[np.bool_] = np.logical_or.reduce([part.missing() for part in self.parts])
        return missing

    def whole(self) -> NDArray[Any] | None:
        found = [part.whole() for part in self.parts]
        arrays = [array.reshape(len(self), -1) for array in found if array is not None]
        return np.concatenate(arrays, axis=1) if len(arrays) == len(found) else None

    def files(self) -> list[str]:
        return []


def _vector(values: Sequence[Any]) -> Any:
    """Return the numbers of several values in one array; what is no number as it is, for a modality to refuse."""
    try:
        return np.concatenate([np.asarray(value, dtype=np.float64).reshape(-1) for value in values])
    except (TypeError, ValueError):
        return list(values)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and isnan(value)


def numbered(row: int) -> str:
    return f"row {row}"


@dataclass(eq=False)
class StoredColumn:
    """Column of a split, undecoded: what `Modality.learn` looks at."""

    name: str
    title: str
    stored: Stored
    feature: Any = None
    where: Callable[[int], str] = numbered
    """Function that says where a row is, for messages."""
    remote: bool = False
    """Whether it is somebody else's, from the Hub: its texts are never read as paths of this machine."""
    formula: Formula | None = None
    """Formula by which it was computed from another column; None: it was not, or nobody knows."""

    def __len__(self) -> int:
        return len(self.stored)

    def called(self, name: str) -> StoredColumn:
        """Return the column under another name."""
        return replace(self, name=name)

    def raw(self, rows: Sequence[int]) -> Sequence[Any]:
        values = self.stored.take(rows)
        if isinstance(names := getattr(self.feature, "names", None), list):  # a ClassLabel's numbers; -1: it has none
            return [value if isinstance(value, str) else _name_of(value, names) for value in values]
        return values

    def first_of(self) -> StoredColumn:
        """Return the column with its first value alone."""
        rows = np.flatnonzero(~self.stored.missing())[:1].tolist()
        return replace(self, stored=as_objects(self.stored.take(rows)))

    def spread(self, most: int) -> list[int]:
        return [int(row) for row in np.linspace(0, len(self) - 1, min(len(self), most))]

    def each(self, function: Callable[[Any], Any], rows: Sequence[int]) -> list[Any]:
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        if len(blocks) < 2:
            return [found for block in blocks for found in self._each(function, block)]
        # The standard library's other pools take shared memory, which a container may lack.
        with ThreadPoolExecutor(cores()) as pool:
            return [found for part in pool.map(lambda block: self._each(function, block), blocks) for found in part]

    def _each(self, function: Callable[[Any], Any], rows: Sequence[int]) -> list[Any]:
        return [None if value is None else attempt(function, value) for value in self.raw(rows)]

    def place(self, row: int) -> str:
        value = self.stored.take([row])[0]
        path = value.get("path") if isinstance(value, Mapping) else value if self.has_paths else None
        return f"{self.where(row)} ({path})" if isinstance(path, str) else self.where(row)

    def fetched(self, source: str, wanted: Callable[[str], bool]) -> tuple[Path, str]:
        if split_id(source) is None:
            folder = Path(source).expanduser()
            if not folder.is_dir():
                raise ValueError(f"no such folder: {source}{nearest_path(folder)}; one on the Hub would be {HUB}user/name")
            return folder, ""
        repository = open_repository(source)
        return repository.fetch_files(wanted), repository.commit

    @property
    def has_paths(self) -> bool:
        """Whether the values are paths of files with an element each."""
        return isinstance(self.stored, Arrays) and self.stored.are_files


def _name_of(number: int | None, names: Sequence[str]) -> str | None:
    return None if number is None or number < 0 else names[number]


def attempt(function: Callable[[Any], Any], value: Any) -> Any:
    """Return a function's result, or as `Unreadable` why it fails: decoders raise OSError, SyntaxError, struct.error, ..."""
    try:
        return function(value)
    except DataError:
        raise
    except FileNotFoundError:
        return Unreadable("the file is missing")
    except Exception as error:
        return Unreadable(first_line(error))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or else its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class Source:
    """Columns of one split, which all have the same rows."""

    columns: Mapping[str, StoredColumn]
    splits: tuple[str, ...] = ("train",)
    """Names of the splits that there are."""
    notes: tuple[str, ...] = ()
    """Lines on what is there and is no column or row: entries of a folder that are no regular files, arrays of other
    lengths."""
    not_streamed: str = "its rows are in memory"
    """Reason why it can't be read as a stream."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def parts_of(lengths: Mapping[str, int], config: DataConfig) -> list[tuple[str, slice]]:
    """Return the splits that `data.split` names, each with the slice to take.

    Args:
        lengths: how many rows each split has.
    """
    if config.split in lengths:
        return [(config.split, slice(None))]
    known = f"; the splits of {config.title}: {', '.join(sorted(lengths))}"
    if not set("[+") & set(config.split):
        raise DataError(f"data.split: no split '{config.split}'{known}")
    from datasets import ReadInstruction

    try:
        parts = ReadInstruction.from_spec(config.split).to_absolute(dict(lengths))
    except Exception as error:
        raise DataError(f"data.split: {first_line(error)}{known}") from error
    return [(part.splitname, slice(part.from_, part.to)) for part in parts]


def of_arrays(
    arrays: Mapping[str, NDArray[Any]], config: DataConfig, features: Mapping[str, Any] | None = None,
    formulas: Mapping[str, Formula] | None = None,
) -> Source:  # fmt: skip
    """Return the columns of arrays in memory, of one split `train` from which `data.split` may take slices."""
    length = len(next(iter(arrays.values())))
    slices = [part for _, part in parts_of({"train": length}, config)]
    columns = {}
    for name, array in arrays.items():
        chosen = array[slices[0]] if len(slices) == 1 else np.concatenate([array[part] for part in slices])
        column = StoredColumn(name, config.title, Arrays(chosen), (features or {}).get(name))
        columns[name] = replace(column, formula=(formulas or {}).get(name))
    return Source(columns)


def as_objects(values: Sequence[Any]) -> Arrays:
    """Return values of any kind, None where there is none, as they are."""
    array = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):  # at once, NumPy would look into lists of one length
        array[place] = value
    return Arrays(array)


def few(names: Sequence[str]) -> str:
    """Return the first names of many, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
