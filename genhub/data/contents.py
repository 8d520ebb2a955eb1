"""Hash of a column's stored bytes, computed once and kept in the cache.

Nothing is decoded for it. What was found is kept in the cache by the path, size, times and inode of the files that hold the
values, so that they are read again only where one of these has changed: a time alone never says that two sets are the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from genhub.data.raw import StoredColumn
from genhub.errors import GenhubError
from genhub.ground.console import Progress
from genhub.ground.digests import file_hash, hash_of, seen_as
from genhub.ground.disk import cache_folder, made_once
from genhub.ground.processes import main_process
from genhub.interfaces.columns import DataConfig

VERSION = 3
"""Number to raise when the way of hashing changes, so that no old hash is used."""
BLOCK = 256
MANY = 10_000
"""Number of values from which on a bar shows how far the reading is."""


def content_of(column: StoredColumn, config: DataConfig) -> str:
    """Return a hash of the stored bytes of all values, in their order."""
    if not (files := column.stored.files()):
        return _read(column)
    source = config.columns[column.name].source if column.name in config.columns else None
    key = hash_of(VERSION, [seen_as(file) for file in files], config.split, source or column.name, len(column))
    file = cache_folder() / "contents" / f"{key}.txt"
    with suppress(GenhubError):  # a cache that can't be written is none
        return _known(made_once(file, partial(_write, column), there=lambda file: bool(_known(file))))
    return _read(column)


def _write(column: StoredColumn, temporary: Path) -> None:
    digest = _read(column)
    temporary.write_text(f"{digest} {hash_of(digest)}", encoding="utf-8")


def _known(file: Path) -> str:
    """Return the hash in a file of the cache; "" if it is not there, or damaged."""
    digest, _, check = file.read_text(encoding="utf-8", errors="replace").partition(" ") if file.is_file() else ("", "", "")
    return digest if check == hash_of(digest) else ""


def _read(column: StoredColumn) -> str:
    length = len(column)
    blocks = [range(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]
    progress = Progress(length, unit="row", shown=main_process() and length >= MANY)
    hashes = list[bytes]()
    with ThreadPoolExecutor(os.cpu_count()) as pool, closing(progress):
        for found in pool.map(lambda rows: [_hash(raw, column.has_paths) for raw in column.raw(list(rows))], blocks):
            hashes += found
            progress.advance(len(hashes))
    return hash_of(b"".join(hashes))


def _hash(raw: Any, is_path: bool) -> bytes:
    """Return 16 bytes that identify a value: a hash of its file's bytes, of an array's shape and numbers, or of what Python
    writes of anything else."""
    if isinstance(raw, np.ndarray):
        return bytes.fromhex(hash_of(raw.shape, raw))
    if not isinstance(raw, Mapping):
        return _hash_of_file(raw) if is_path and raw else bytes.fromhex(hash_of(raw))
    if raw.get("bytes") is None and raw.get("path"):
        return _hash_of_file(raw["path"])
    return bytes.fromhex(hash_of(raw.get("bytes", raw)))


def _hash_of_file(path: str) -> bytes:
    return file_hash(path).ljust(16, b"\0")
