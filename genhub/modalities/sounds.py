"""Read and write WAV files: uncompressed sounds, of integers of 8 to 32 bits or of floating-point numbers."""

from __future__ import annotations

import struct
import wave
from collections.abc import Mapping
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genhub.modalities.learnt import single

INTEGERS, FLOATS, EXTENDED = 1, 3, 0xFFFE
"""Kinds of values that a WAV names; an extended one says it elsewhere."""
UNKNOWN_SIZE = 0xFFFFFFFF
"""Size of the sound in a WAV that was written as a stream: up to the end."""


def read_sound(value: Any) -> tuple[NDArray[Any], int | None]:
    """Return a signal (c, t) float32 and its rate, None of arrays: of a WAV file's path, {"bytes", "path"}, bytes, or of an
    array (t,) or (c, t). A WAV's integers become values in [-1, 1].

    Raises:
        ValueError: it is no WAV of a kind that can be read.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, str | Path) and Path(value).suffix.lower() == ".npy":
        value = np.load(value, allow_pickle=False)
    if isinstance(value, np.ndarray | list | tuple):
        array = single(value)
        if array.ndim not in (1, 2) or not array.size:
            raise ValueError(f"must be (length,) or (channels, length), not of shape {array.shape}")
        return np.atleast_2d(array), None
    return _of_wav(_content(value))


def _content(value: Any) -> bytes:
    content, path = None, value
    if isinstance(value, Mapping) and {"bytes", "path"} <= value.keys():  # no other: sources look at the paths of these
        content, path = value["bytes"], value["path"]
    if isinstance(value, bytes):
        content = value
    if content is not None:
        return bytes(content)
    if not isinstance(path, str | Path):
        raise ValueError("there is no sound")
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("no regular file")  # reading a pipe would wait for ever
    return Path(path).read_bytes()


def _of_wav(content: bytes) -> tuple[NDArray[Any], int]:
    """Return the values (c, t) and the rate of a WAV: RIFF, of chunks: a name of 4 bytes, a size, so many bytes."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("not a WAV file; convert it to one")
    kind = channels = rate = bits = 0
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        body = content[at + 8 : at + 8 + size]
        if len(body) < size and size != UNKNOWN_SIZE:
            raise ValueError("a WAV file that is cut off")
        if name == b"fmt ":
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
            if kind == EXTENDED:
                (kind,) = struct.unpack_from("<H", body, 24)
        if name == b"data":
            values = _values(body, kind, bits)
            frames = len(values) // max(channels, 1)
            if not (frames and rate):
                raise ValueError("a WAV file without a sound")
            return values[: frames * channels].reshape(frames, channels).T, rate
        at += 8 + size + size % 2
    raise ValueError("a WAV file without a sound")


def _values(body: bytes, kind: int, bits: int) -> NDArray[Any]:
    """Return the numbers of a WAV's frames as float32, integers in [-1, 1]."""
    whole = body[: len(body) // max(bits // 8, 1) * max(bits // 8, 1)]
    if kind == FLOATS and bits in (32, 64):
        return np.frombuffer(whole, f"<f{bits // 8}").astype(np.float32)
    if kind != INTEGERS or bits not in (8, 16, 24, 32):
        raise ValueError(f"a WAV file of kind {kind} and {bits} bits; convert it to an uncompressed one of 16 bits")
    if bits == 8:  # the only one without a sign
        return (np.frombuffer(whole, np.uint8).astype(np.float32) - 128) / np.float32(128)
    if bits == 24:
        parts = np.frombuffer(whole, np.uint8).reshape(-1, 3)
        whole, bits = np.pad(parts, ((0, 0), (1, 0))).tobytes(), 32  # the lowest byte is 0
    return np.frombuffer(whole, f"<i{bits // 8}").astype(np.float32) / np.float32(2 ** (bits - 1))


def resampled(values: NDArray[Any], rate: int, wanted: int) -> NDArray[Any]:
    """Return a signal (c, t) at another rate, low-pass filtered where that is lower."""
    from scipy.signal import resample_poly  # type: ignore[import-untyped]  # scikit-learn brings it

    common = gcd(rate, wanted)
    found: NDArray[Any] = resample_poly(values, wanted // common, rate // common, axis=1)
    return found


def write_wav(values: NDArray[Any], rate: int, path: Path) -> None:
    """Write a signal (c, t) in [-1, 1], cut off there, as a WAV of 16 bits."""
    numbers = np.rint(values * 32768).clip(-32768, 32767).astype("<i2")
    with path.open("wb") as file, wave.open(file, "wb") as stream:
        stream.setnchannels(len(values))
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes(numbers.T.tobytes())
