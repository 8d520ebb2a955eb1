"""Hash of images' stored bytes, computed once and kept in the cache.

Nothing is decoded for it. What was found is kept in the cache by the path, size, times and inode of the files that hold the
images, so that they are read again only where one of these has changed: a time alone never says that two sets are the same.
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

from genhub.data.decode import Reader
from genhub.errors import GenhubError
from genhub.ground.console import Progress
from genhub.ground.digests import file_hash, hash_of, seen_as
from genhub.ground.disk import cache_folder, made_once
from genhub.ground.processes import main_process

VERSION = 2
"""Number to raise when the way of hashing changes, so that no old hash is used."""
BLOCK = 256
MANY = 10_000
"""Number of images from which on a bar shows how far the reading is."""


def content_of(reader: Reader) -> str:
    """Return a hash of the stored bytes of all images, in their order."""
    if not (files := _held_in(reader)):
        return _read(reader)
    config = reader.config  # which says which rows of the files they are
    key = hash_of(VERSION, [seen_as(file) for file in files], config.split, config.image_column, reader.length)
    file = cache_folder() / "contents" / f"{key}.txt"
    with suppress(GenhubError):  # a cache that can't be written is none
        return _known(made_once(file, partial(_write, reader), there=lambda file: bool(_known(file))))
    return _read(reader)


def _write(reader: Reader, temporary: Path) -> None:
    digest = _read(reader)
    temporary.write_text(f"{digest} {hash_of(digest)}", encoding="utf-8")


def _known(file: Path) -> str:
    """Return the hash in a file of the cache; "" if it is not there, or damaged."""
    digest, _, check = file.read_text(encoding="utf-8", errors="replace").partition(" ") if file.is_file() else ("", "", "")
    return digest if check == hash_of(digest) else ""


def _held_in(reader: Reader) -> list[str]:
    """Return the files that hold the images' bytes; none if they are in memory, or if rows of a table name other files."""
    if isinstance(reader.rows, np.ndarray):
        return [row for row in reader.rows.tolist() if isinstance(row, str)]
    chunks = reader.rows.data.column(0).chunks
    if isinstance(reader.raw([0])[0], Mapping) and any(chunk.field("bytes").null_count for chunk in chunks):
        return []
    return [entry["filename"] for entry in reader.rows.cache_files]


def _read(reader: Reader) -> str:
    blocks = [range(start, min(start + BLOCK, reader.length)) for start in range(0, reader.length, BLOCK)]
    progress = Progress(reader.length, unit="image", shown=main_process() and reader.length >= MANY)
    hashes = list[bytes]()
    with ThreadPoolExecutor(os.cpu_count()) as pool, closing(progress):
        for found in pool.map(lambda rows: [_hash(raw) for raw in reader.raw(list(rows))], blocks):
            hashes += found
            progress.advance(len(hashes))
    return hash_of(b"".join(hashes))


def _hash(raw: Any) -> bytes:
    """Return 16 bytes that identify an image: a hash of its file's bytes, or of an array's shape and numbers."""
    if isinstance(raw, np.ndarray):
        return bytes.fromhex(hash_of(raw.shape, raw))
    content, path = (raw["bytes"], raw["path"]) if isinstance(raw, Mapping) else (None, raw)
    if content is None:
        return (file_hash(path) if path else b"").ljust(16, b"\0")
    return bytes.fromhex(hash_of(content))
