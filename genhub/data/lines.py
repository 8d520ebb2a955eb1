"""Read tables that are text, CSV and JSON: what a column is, is known when all of its file is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from genhub.data.raw import first_line
from genhub.errors import DataError

JSON = {".json", ".jsonl"}
"""Endings of files of JSON: lines of objects, or one list of objects."""
TEXTS = JSON | {".csv"}
"""Endings of tables that are text."""
BLOCK = 2**26
"""Bytes of JSON that are read at a time: a line must fit."""
DEEPEST = 1000
"""Most lists and objects inside one another: pyarrow's parser takes the process with it at some 30,000."""
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


def read_text(file: str, key: str = "data.name") -> Any:
    """Return the pyarrow table of a CSV file, whose first line has the names, or of JSON objects. An empty field of a CSV,
    null, and a key that an object lacks are missing values.

    Args:
        key: the key that names the file, for messages.
    Raises:
        DataError: it can't be read, or has no rows.
    """
    import pyarrow as pa
    from pyarrow.csv import ConvertOptions, read_csv

    try:
        if Path(file).suffix in JSON:
            return _of_json(Path(file))
        return read_csv(file, convert_options=ConvertOptions(strings_can_be_null=True))
    except (pa.ArrowException, ValueError, RecursionError, OSError) as error:
        raise DataError(f"{key}: {file}: {first_line(error)}") from error


def _of_json(file: Path) -> Any:
    from pyarrow.json import ReadOptions, read_json

    with file.open("rb") as stream:
        start = stream.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not start.startswith(b"["):
            stream.seek(0)
            _check_depth(stream)
            stream.seek(0)
            return read_json(stream, ReadOptions(block_size=BLOCK))
    rows = json.loads(file.read_bytes())
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("must be a list of objects, {column: value, ...}, or a line each")
    return read_json(BytesIO("\n".join(map(json.dumps, rows)).encode()), ReadOptions(block_size=BLOCK))


def _check_depth(lines: Iterable[bytes]) -> None:
    """
    Raises:
        ValueError: lists and objects of JSON lie too deep inside one another.
    """
    depth = 0
    for number, line in enumerate(lines, start=1):
        bare = STRING.sub(b"", line)
        opened, closed = (bare.count(one) + bare.count(other) for one, other in ((b"[", b"{"), (b"]", b"}")))
        if depth + opened > DEEPEST:  # at most: now as it is
            found = np.frombuffer(bare, np.uint8)
            steps = np.isin(found, (ord("["), ord("{"))).astype(np.int64) - np.isin(found, (ord("]"), ord("}")))
            if depth + steps.cumsum().max() > DEEPEST:
                raise ValueError(f"line {number} has lists or objects more than {DEEPEST:,} deep inside one another")
        depth += opened - closed


def read_texts(files: Mapping[str, str]) -> Any:
    """Return the pyarrow table of several files of one format, one after another.

    Args:
        files: each with the key that names it, for messages.
    Raises:
        DataError: one can't be read, or hasn't the columns of the first, in their order if they are CSV.
    """
    import pyarrow as pa

    tables: dict[str, Any] = {}
    for file, key in files.items():
        tables[file] = read_text(file, key)
        first = next(iter(tables))
        names = [tables[each].column_names for each in (file, first)]
        if Path(file).suffix in JSON:
            names = [sorted(each) for each in names]
        if names[0] != names[1]:
            columns = [", ".join(each) for each in names]
            raise DataError(f"{key}: {file} has the columns {columns[0]}, and {first} has {columns[1]}")
        try:
            table = pa.concat_tables(tables.values(), promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(f"{key}: {file}: {first_line(error)}") from error
    return table
