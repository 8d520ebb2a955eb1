"""Read and write sounds: WAV files by itself, uncompressed, of integers of 8 to 32 bits or of floating-point numbers; FLAC,
OGG and MP3 through soundfile, where it is installed."""

from __future__ import annotations

import struct
import wave
from collections.abc import Mapping
from io import BytesIO
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genhub.modalities.learnt import single

INTEGERS, FLOATS, EXTENDED = 1, 3, 0xFFFE
"""Kinds of values that a WAV names; an extended one says it elsewhere."""
MOST_VALUES = 2**27
"""Most values of a compressed sound, of a stereo one at 44.1 kHz 25 minutes: a few bytes can say hours of silence."""
UNKNOWN_SIZE = 0xFFFFFFFF
"""Size of the sound in a WAV that was written as a stream: up to the end."""


def read_sound(value: Any) -> tuple[NDArray[Any], int | None]:
    """Return a signal (c, t) float32 and its rate, None of arrays: of a sound file's path, {"bytes", "path"}, bytes, or of
    an array (t,) or (c, t). A file's integers become values in [-1, 1].

    Raises:
        ValueError: it is no sound of a kind that can be read, or soundfile is missing.
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
    content = _content(value)
    kind = _compressed(content)
    return _of_compressed(content, kind) if kind else _of_wav(content)


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


def _compressed(content: bytes) -> str | None:
    """Return what a file of a compressed sound begins as; None: it is none."""
    if content[:3] == b"ID3" or (content[:1] == b"\xff" and content[1:2] >= b"\xe0"):  # a frame of MPEG: eleven ones
        return "an MP3 file"
    return {b"fLaC": "a FLAC file", b"OggS": "an OGG file"}.get(content[:4])


def _of_compressed(content: bytes, kind: str) -> tuple[NDArray[Any], int]:
    """Return the values (c, t) and the rate of a file that libsndfile reads."""
    try:
        import soundfile
    except ImportError:
        raise ValueError(f"{kind} needs soundfile: pip install 'genhub-framework[audio]'") from None
    try:
        with soundfile.SoundFile(BytesIO(content)) as stream:
            if stream.frames * stream.channels > MOST_VALUES:
                raise ValueError(f"{kind} of {stream.frames:,} values in each channel: a decompression bomb?")
            values: NDArray[Any] = stream.read(dtype="float32", always_2d=True).T
            rate = int(stream.samplerate)
    except soundfile.SoundFileError as error:
        raise ValueError(f"{kind}: {getattr(error, 'error_string', error)}") from error
    if not values.size:
        raise ValueError(f"{kind} without a sound")
    return values, rate


def _of_wav(content: bytes) -> tuple[NDArray[Any], int]:
    """Return the values (c, t) and the rate of a WAV: RIFF, of chunks: a name of 4 bytes, a size, so many bytes."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("not a WAV, FLAC, OGG or MP3 file; convert it to one")
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
    from scipy.signal import resample_poly

    common = gcd(rate, wanted)
    found: NDArray[Any] = resample_poly(values, wanted // common, rate // common, axis=1)
    return found


def write_wav(values: NDArray[Any], rate: int, path: Path) -> None:
    """Write a signal (c, t) in [-1, 1], cut off there, as a WAV of 16 bits."""
    path.write_bytes(wav_of(values, rate))


def wav_of(values: NDArray[Any], rate: int) -> bytes:
    """Return the content of the WAV of 16 bits of a signal (c, t) in [-1, 1], cut off there."""
    numbers = np.rint(values * 32768).clip(-32768, 32767).astype("<i2")
    stream = BytesIO()
    with wave.open(stream, "wb") as writer:
        writer.setnchannels(len(values))
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(numbers.T.tobytes())
    return stream.getvalue()
