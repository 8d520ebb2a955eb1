"""NumPy's files: each array of an .npz is a column, and an .npy is one; the first dimension are the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genhub.data.raw import Source, few, first_line, of_arrays
from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig
from genhub.sampling.files import COPY_OF, IN_COLOUR

ENDINGS = {".npz", ".npy"}


def array_source(file: str, config: DataConfig) -> Source:
    """Return the columns of a file. Arrays of another length than the longest are passed over, and the copy in colour that
    `genhub sample` writes of images for others.

    Raises:
        DataError: it can't be read, or holds no rows; pickled objects are never read.
    """
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
        whole = {Path(file).stem: found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
        arrays = {name: array for name, array in whole.items() if isinstance(array, np.ndarray)}  # a zip may hold anything
        if str(arrays.get(COPY_OF)) in arrays.keys() - {IN_COLOUR}:
            arrays = {name: array for name, array in arrays.items() if name not in (IN_COLOUR, COPY_OF)}
    except Exception as error:  # whatever NumPy and zipfile raise
        raise DataError(f"data.name: {file}: {first_line(error)}") from error
    length = max((len(array) for array in arrays.values() if array.ndim), default=0)
    if not length:
        raise DataError(f"data.name: {file} holds no array with rows")
    columns = {name: array for name, array in arrays.items() if array.ndim and len(array) == length}
    source = of_arrays({name: _as_rows(array) for name, array in columns.items()}, config)
    others = [name for name in arrays if name not in columns]
    return Source(source.columns, notes=(f"passed over {few(others)}: not of {length:,} rows",) if others else ())


def _as_rows(array: NDArray[Any]) -> NDArray[Any]:
    """Return texts as Python's, so that rows are str; numbers as they are."""
    return array.astype(object) if array.dtype.kind in "US" else array
