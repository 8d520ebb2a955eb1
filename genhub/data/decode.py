"""Decode files and bytes to pixels, all of one shape; sources.py finds them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from io import BytesIO
from math import isfinite, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from genhub.data.sources import IMAGE_FORMATS, ImageSource, first_line, refuse_outside
from genhub.errors import DataError
from genhub.ground.forks import can_fork, cores, forked
from genhub.interfaces.config import DataConfig

SURVEYED, CHUNK, BLOCK = 1000, 32, 2**20
MANY = 5000
"""Number of small images from which on processes decode them: a fork costs as much as decoding a few hundred."""
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
"""Most pixels of an image: one with more is taken for a decompression bomb, of which Pillow only warns."""
GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}

Pixels = NDArray[np.uint8]  # (c, h, w)
Index = NDArray[np.int64]
Flips = NDArray[np.bool_] | None
Faults = list[tuple[int, str]]  # row numbers, and what is wrong there
Span = tuple[float, float] | None
"""Values that become black and white, `data.value_range`; None: the type's."""


def _attempt(read: Callable[..., Any], *args: Any) -> Any:
    """Return the result of `read`, or as text why it fails: decoders raise OSError, SyntaxError, struct.error and more."""
    try:
        return read(*args)
    except DataError:
        raise
    except UnidentifiedImageError:  # its message has a memory address
        return "not an image of a known format"
    except FileNotFoundError:
        return "the file is missing"
    except Exception as error:
        return first_line(error)


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Return those of IMAGE_FORMATS that this Pillow was built with; called late, as it imports all of Pillow's plugins."""
    Image.init()
    return tuple(kind for kind in IMAGE_FORMATS if kind in Image.OPEN)


def _open(raw: Any) -> Image.Image:
    content, path = (raw["bytes"], raw["path"]) if isinstance(raw, Mapping) else (None, raw)
    if content is None and path is None:
        raise ValueError("there is no image")
    if content is None and os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
        raise ValueError("no regular file")  # opening a pipe would wait for ever
    image = Image.open(path if content is None else BytesIO(content), formats=_formats())
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}: a decompression bomb?")
    return image


def _as_chw(array: Pixels) -> Pixels:
    """Return an array (h, w), (c, h, w) or (h, w, c) as (c, h, w): of its ends, the smaller one counts channels."""
    if array.ndim == 2:
        return array[None]
    return array if array.shape[0] <= array.shape[-1] else np.moveaxis(array, -1, 0)


def _shape(raw: Any) -> tuple[int, ...]:
    """Return (channels, height, width) from an image's header, 1 channel if it is grey, else 3."""
    if isinstance(raw, np.ndarray):
        return _as_chw(raw).shape
    with _open(raw) as image:
        width, height = image.size
        # To tell its orientation a PNG would have to be decoded, and a TIFF is turned already.
        if image.format not in ("PNG", "TIFF") and image.getexif().get(0x0112, 1) >= 5:
            width, height = height, width
        return 1 if image.mode in GREY_MODES else 3, height, width


def _decode(raw: Any, channels: int | None, size: tuple[int, int] | None, span: Span = None) -> Pixels:
    """Return pixels (c, h, w); without `channels`, 1 or 3 of an image, and an array's own."""
    if not isinstance(raw, np.ndarray):
        with _open(raw) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _convert(image, channels, size, span)
    array = np.ascontiguousarray(_as_chw(raw))
    if span:
        array = _scaled(array, *span)
    if channels in (None, len(array)):
        same = size in (None, array.shape[1:])
        return array if same else np.concatenate([_convert(Image.fromarray(plane), 1, size) for plane in array])
    if len(array) not in (1, 3, 4):
        raise DataError(f"data.channels: {channels} can't be made of arrays with {len(array)} channels")
    last = array[0] if len(array) == 1 else np.ascontiguousarray(np.moveaxis(array, 0, -1))
    return _convert(Image.fromarray(last), channels, size)


def _convert(image: Image.Image, channels: int | None, size: tuple[int, int] | None, span: Span = None) -> Pixels:
    channels = channels or (1 if image.mode in GREY_MODES else 3)
    if image.mode[0] in "IF":
        values, top = np.asarray(image), type_range(image)
        if span is None and not (values.min() >= 0 and values.max() <= top):
            raise ValueError(f"grey values outside 0 to {top:g}; data.value_range: auto scales them")
        image, span = Image.fromarray(_scaled(values, *(span or (0, top)))), None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels != 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    image = image if image.mode == mode else image.convert(mode)
    if size and image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], method=Image.Resampling.BICUBIC)
    pixels = np.moveaxis(np.atleast_3d(np.asarray(image)), -1, 0)
    return pixels if span is None else np.concatenate([_scaled(pixels[:3], *span), pixels[3:]])  # alpha stays


def _scaled(values: NDArray[Any], low: float, high: float) -> Pixels:
    """Return values scaled from low..high to 0..255, those beyond cut off. In parts, as it takes 8 bytes a value."""
    scaled = np.empty(values.shape, np.uint8)
    flat, into = values.reshape(-1), scaled.reshape(-1)
    for start in range(0, len(flat), BLOCK):
        part = flat[start : start + BLOCK].astype(np.float64)
        if not np.isfinite(part).all():
            raise ValueError("has values that are not finite")
        into[start : start + BLOCK] = ((part - low) * (255 / (high - low))).round().clip(0, 255)
    return scaled


def type_range(raw: Any) -> float:
    """Return the value that is white in an image or array of this type; 0 is black."""
    if isinstance(raw, np.ndarray):
        return 255.0
    if isinstance(raw, Image.Image):
        return 1.0 if raw.mode == "F" else 65535.0 if raw.mode[0] == "I" else 255.0
    with _open(raw) as image:
        return type_range(image)


def _extent(raw: Any) -> tuple[float, float]:
    """Return an image's least and largest value, as they are stored."""
    values = raw
    if not isinstance(raw, np.ndarray):
        with _open(raw) as image:
            values = np.asarray(image) if image.mode[0] in "IF" else _convert(image, None, None)
    low, high = float(values.min()), float(values.max())
    if not isfinite(high - low):
        raise ValueError("has values that are not finite")
    return low, high


class Reader(Dataset[Any]):
    """Decoder of a source's images, all to one shape; each worker has a copy."""

    def __init__(self, source: ImageSource, config: DataConfig) -> None:
        # For good, because filters are not per thread: an image so large that Pillow only warns of it can't be read.
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        self.rows, self.config, self.length, self.place = source.rows, config, len(source.rows), source.place
        self.remote = source.remote
        found = {row: _attempt(_shape, self.raw([row])[0]) for row in self.spread(SURVEYED)}
        shapes = {row: shape for row, shape in found.items() if not isinstance(shape, str)}
        if not shapes:
            raise self.fault(list(found.items()))
        self.first = next(iter(shapes))
        channels, *stored = shapes[self.first]
        if not isinstance(self.raw([self.first])[0], np.ndarray):
            channels = max(shape[0] for shape in shapes.values())
        height, width = config.size or stored
        self.shape: tuple[int, int, int] = (config.channels or channels, height, width)
        self.small = prod(stored) <= 2**14

    def raw(self, rows: list[int]) -> Any:
        """Return rows undecoded: paths, {"bytes", "path"} or uint8 arrays."""
        found = self.rows[rows]
        found = next(iter(found.values())) if isinstance(found, dict) else found
        if self.remote:
            refuse_outside(found)
        return found

    def name(self, row: int) -> str:
        raw = self.raw([row])[0]
        path = raw["path"] if isinstance(raw, Mapping) else raw
        return f"{self.place(row)} ({path})" if isinstance(path, str) else self.place(row)

    def named(self, faults: Faults) -> Faults:
        """Return each fault with the name of its image."""
        return [(row, f"{self.name(row)}: {reason}") for row, reason in faults]

    def fault(self, faults: Faults) -> DataError:
        names = "; ".join(text for _, text in self.named(faults[:5]))
        advice = "; data.on_error: skip leaves them out" if self.config.on_error == "fail" else ""
        return DataError(f"{len(faults)} of {self.length} images can't be read: {names}{advice}")

    def extent(self, rows: Sequence[int]) -> tuple[float, float]:
        """Return the least and the largest value in the images of these rows, as they are stored; damaged ones don't count.

        Raises:
            DataError: all are damaged.
        """
        with self._threads() as pool:
            found = list(pool.map(lambda row: _attempt(_extent, self.raw([row])[0]), rows))
        whole = [each for each in found if not isinstance(each, str)]
        if not whole:
            raise self.fault(list(zip(rows, found, strict=True)))
        return min(low for low, _ in whole), max(high for _, high in whole)

    def _threads(self) -> ThreadPoolExecutor:
        """Return a pool of threads. The standard library's other pools take shared memory, which a container may lack."""
        return ThreadPoolExecutor(1 if self.small else os.cpu_count())

    def top(self) -> float:
        """Return the value that is white in the first image, by its type."""
        return type_range(self.raw([self.first])[0])

    def spread(self, most: int) -> list[int]:
        """Return evenly spaced rows, at most `most`."""
        return [int(row) for row in np.linspace(0, self.length - 1, min(self.length, most))]

    def read(self, rows: Sequence[int], channels: int | None) -> list[Any]:
        """Return each row's pixels (c, h, w), or as text why it can't be read.

        Raises:
            DataError: they don't fit the first's.
        """
        span = self.config.value_range
        assert span != "auto"  # by now the data have said which
        images = [_attempt(_decode, raw, channels, self.config.size, span) for raw in self.raw(list(rows))]
        for row, image in zip(rows, images, strict=True):
            if isinstance(image, str) or image.shape == self.shape:
                continue
            key = "image_size" if image.shape[1:] != self.shape[1:] else "channels"
            if key == "image_size" or {len(image), self.shape[0]} != {1, 3}:  # grey and colour fit together
                shapes = [
                    f"{self.name(at)} is {c}x{h}x{w}" for at, (c, h, w) in ((self.first, self.shape), (row, image.shape))
                ]
                raise DataError(f"{' but '.join(shapes)} (channels x height x width); set data.{key}")
        return images

    def read_all(self) -> tuple[Pixels, Faults]:
        """Return all images (n, c, h, w), and those that can't be read. Colour found among grey makes all of them RGB."""
        images, faults = np.empty((self.length, *self.shape), np.uint8), Faults()
        chunks = -(-self.length // CHUNK)

        def chunk(number: int) -> list[Any]:
            start = CHUNK * number
            return self.read(range(start, min(start + CHUNK, self.length)), self.config.channels)

        with ExitStack() as stack:
            if self.small and self.length >= MANY and can_fork():  # with small images threads wait for each other
                done = forked(chunk, chunks, cores())
            else:
                pool = self._threads()
                stack.callback(pool.shutdown, cancel_futures=True)
                done = pool.map(chunk, range(chunks))
            for number, decoded in enumerate(done):
                for row, image in enumerate(decoded, CHUNK * number):
                    if isinstance(image, str):
                        faults.append((row, image))
                        continue
                    if len(image) > images.shape[1]:
                        images = images.repeat(3, axis=1)
                    images[row] = image
        return images, faults

    def read_some(self, rows: Index) -> tuple[Tensor, Index, Faults]:
        """Return images (n, c, h, w), their rows, and what can't be read, for which later rows stand in."""
        images, used, faults = self.read(rows.tolist(), self.shape[0]), rows.copy(), Faults()
        for place, row in enumerate(rows.tolist()):
            while isinstance(images[place], str):
                faults.append((int(used[place]), images[place]))
                used[place] = (used[place] + 1) % self.length
                if self.config.on_error == "fail" or used[place] == row:
                    raise self.fault(faults)
                images[place] = self.read([int(used[place])], self.shape[0])[0]
        return torch.from_numpy(np.stack(images)), used, self.named(faults)

    def __getitem__(self, order: tuple[Index, Flips]) -> Any:
        """Return a batch for the DataLoader, or the DataError: one raised in a worker would come back as a traceback."""
        try:
            return (*self.read_some(order[0]), order[1])
        except DataError as error:
            return error
