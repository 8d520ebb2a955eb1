"""Read and write WAV files: uncompressed sounds of 8 to 32 bits, as the standard library knows them."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from io import BytesIO
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_FRAMES = 2**28
"""Most values of a channel: a sound of more is taken for a decompression bomb."""


def read_sound(value: Any) -> tuple[NDArray[np.float32], int | None]:
    """Return a signal (c, t) and its rate, None of arrays: of a WAV file's path, {"bytes", "path"}, bytes, or of an array
    (t,) or (c, t). A WAV's values are in [-1, 1].

    Raises:
        ValueError: it is no WAV of a kind that can be read.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | list | tuple):
        array = np.asarray(value, dtype=np.float32)
        if array.ndim not in (1, 2):
            raise ValueError(f"must be (length,) or (channels, length), not of shape {array.shape}")
        return np.atleast_2d(array), None
    if isinstance(value, str | Path) and Path(value).suffix.lower() == ".npy":
        return read_sound(np.load(value, allow_pickle=False))
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (None, value)
    if isinstance(value, bytes):
        content = value
    if content is None and path is None:
        raise ValueError("there is no sound")
    if content is None and not Path(path).is_file() and Path(path).exists():
        raise ValueError("no regular file")
    try:
        with wave.open(BytesIO(content) if content is not None else str(path), "rb") as stream:
            channels, width, rate, frames = stream.getparams()[:4]
            if frames > MOST_FRAMES:
                raise ValueError(f"{frames:,} values are more than {MOST_FRAMES:,}")
            return _numbers(stream.readframes(frames), width).reshape(-1, channels).T, rate
    except (wave.Error, EOFError) as error:
        raise ValueError(f"not a WAV file that can be read ({error}); convert it to uncompressed WAV") from error


def _numbers(content: bytes, width: int) -> NDArray[np.float32]:
    """Return the values of a WAV's frames, `width` bytes each, in [-1, 1]."""
    if width == 1:  # the only one without a sign
        return (np.frombuffer(content, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:
        parts = np.frombuffer(content, np.uint8).reshape(-1, 3).astype(np.int32)
        whole = (parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16) << 8
        return whole.astype(np.float32) / 2**31
    return np.frombuffer(content, f"<i{width}").astype(np.float32) / 2 ** (8 * width - 1)


def resampled(values: NDArray[Any], rate: int, wanted: int) -> NDArray[Any]:
    """Return a signal (c, t) at another rate, low-pass filtered where that is lower."""
    from scipy.signal import resample_poly

    common = gcd(rate, wanted)
    found: NDArray[Any] = resample_poly(values, wanted // common, rate // common, axis=1)
    return found


def write_wav(values: NDArray[Any], rate: int, path: Path) -> None:
    """Write a signal (c, t) in [-1, 1], cut off there, as a WAV of 16 bits."""
    numbers = np.rint(np.clip(values, -1, 1) * 32767).astype("<i2")
    with path.open("wb") as file, wave.open(file, "wb") as stream:
        stream.setnchannels(len(values))
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes(numbers.T.tobytes())
