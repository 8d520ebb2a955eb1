"""Hashes of content: fingerprints of data, digests of networks' weights."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

SAMPLES, SAMPLE_BYTES = 16, 2**20
"""Number of pieces, and bytes of each, that `sampled_hash` reads of a large file."""


def hash_of(*parts: Any) -> str:
    """Return the BLAKE2 hash of arrays' numbers, of bytes, and of anything else as Python writes it."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(part if isinstance(part, bytes) else repr(part).encode())
    return digest.hexdigest()


def file_hash(path: str | Path) -> bytes:
    """Return the BLAKE2 hash of a file's bytes; b"" if it can't be read: whoever opens it will say so."""
    try:
        if Path(path).is_file():
            with Path(path).open("rb") as stream:
                return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        pass
    return b""


def sampled_hash(path: str | Path) -> str:
    """Return the BLAKE2 hash of a file's size and of pieces of it, from its first bytes to its last, where a table's footer
    is; of a file no larger than the pieces, of all its bytes."""
    with Path(path).open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= SAMPLES * SAMPLE_BYTES:
            return hash_of(size, stream.read())
        pieces = []
        for number in range(SAMPLES):
            stream.seek(number * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            pieces.append(hash_of(stream.read(SAMPLE_BYTES)))
        return hash_of(size, pieces)


def seen_as(path: str | Path) -> tuple[Any, ...]:
    """Return a file's path, size, times and inode, some of which change when it is written again."""
    try:
        stat = os.stat(path)  # noqa: PTH116  # a million of them: without Path, in half the time
    except OSError:
        return (str(path),)
    return str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def digest_of(network: nn.Module, *more: str) -> str:
    """Return the SHA-256 of a network's weights, and of anything else that matters."""
    digest = hashlib.sha256(repr(more).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
