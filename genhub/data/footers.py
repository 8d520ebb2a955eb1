"""Read what parquet and arrow files say about themselves, before any of their rows is read."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from genhub.errors import DataError

MOST_GROUP, MOST_RATIO = 2**30, 100
"""Most bytes in memory of a part of a parquet file that is read at once, or most times the file's size."""


def schema_of(file: str) -> Any:
    """Return the pyarrow schema of a parquet or arrow file."""
    import pyarrow as pa
    from pyarrow.parquet import read_schema

    if file.endswith(".parquet"):
        return read_schema(file)
    with pa.memory_map(file) as stored:
        try:
            return pa.ipc.open_stream(stored).schema
        except pa.ArrowInvalid:
            return pa.ipc.open_file(stored).schema


@lru_cache
def rows_in(file: str) -> int:
    """Return how many rows a parquet or arrow file has."""
    import pyarrow as pa
    from pyarrow.parquet import read_metadata

    if file.endswith(".parquet"):
        return int(read_metadata(file).num_rows)
    with pa.memory_map(file) as stored:
        try:
            return sum(len(batch) for batch in pa.ipc.open_stream(stored))
        except pa.ArrowInvalid:
            return len(pa.ipc.open_file(stored).read_all())


def check_no_bomb(file: str) -> None:
    """
    Raises:
        DataError: a local parquet file says that a part of it, which is read at once, is far larger than the file.
    """
    from pyarrow.parquet import read_metadata

    if not os.path.isfile(file):  # noqa: PTH113  # on the Hub
        return
    footer, size = read_metadata(file), Path(file).stat().st_size
    most = max((footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)), default=0)
    if most > MOST_GROUP and most > MOST_RATIO * size:
        raise DataError(
            f"data.name: {file}: {size:,} bytes that become {most:,} in memory: a decompression bomb? If it is "
            "not, write it with smaller row groups"
        )
