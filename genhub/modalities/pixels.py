"""Decode files, bytes and arrays to pixels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# Listed, because Pillow also knows formats that run another program (EPS: ghostscript).
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "AVIF", "JPEG2000")
BLOCK = 2**20
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
"""Most pixels of an image: one with more is taken for a decompression bomb, of which Pillow only warns."""
GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}

GREY_OF_COLOUR = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey: ITU-R BT.601, as Pillow has them."""

Pixels = NDArray[Any]
"""(c, h, w) uint8, or uint16."""
Span = tuple[float, float] | None
"""Values that become black and white; None: the type's."""
Size = tuple[int, int] | None
"""(height, width) to resize to cover, then to crop to; None: as it is."""


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Return those of IMAGE_FORMATS that this Pillow was built with; called late, as it imports all of Pillow's plugins."""
    Image.init()
    return tuple(kind for kind in IMAGE_FORMATS if kind in Image.OPEN)


def refuse_bombs() -> None:
    """Make it an error to open an image so large that Pillow only warns of it: for good, as filters are not per thread."""
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def opened(raw: Any) -> Image.Image:
    """Return a stored image, undecoded: a path, {"bytes", "path"}, bytes, or a copy of a picture of Pillow's.

    Raises:
        ValueError: it is none, or too large.
    """
    if isinstance(raw, Image.Image):
        return raw.copy()
    content, path = None, raw
    if isinstance(raw, Mapping):  # no other: sources look at the paths of those with these two
        content, path = (raw["bytes"], raw["path"]) if {"bytes", "path"} <= raw.keys() else (None, None)
    if isinstance(raw, bytes):
        content = raw
    if content is None and path is None:
        raise ValueError("there is no image")
    if content is None and os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
        raise ValueError("no regular file")  # opening a pipe would wait for ever
    try:
        image = Image.open(path if content is None else BytesIO(content), formats=_formats())
    except UnidentifiedImageError:  # its message has a memory address
        raise ValueError("not an image of a known format") from None
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}: a decompression bomb?")
    return image


def as_array(raw: Any) -> NDArray[Any] | None:
    """Return an array or tensor as NumPy has it, lists of numbers as well; None of anything else."""
    if hasattr(raw, "detach"):
        raw = raw.detach().cpu().numpy()
    if isinstance(raw, list):
        raw = np.asarray(raw)
    return raw if isinstance(raw, np.ndarray) else None


def as_chw(array: Pixels) -> Pixels:
    """Return an array (h, w), (c, h, w) or (h, w, c) as (c, h, w): of its ends, the smaller one counts channels."""
    if array.ndim == 2:
        return array[None]
    return array if array.shape[0] <= array.shape[-1] else np.moveaxis(array, -1, 0)


def stored_shape(raw: Any) -> tuple[int, int, int]:
    """Return (channels, height, width) from an image's header, 1 channel if it is grey, else 3."""
    array = as_array(raw)
    if array is not None:
        channels, height, width = as_chw(array).shape
        return channels, height, width
    with opened(raw) as image:
        width, height = image.size
        # To tell its orientation a PNG would have to be decoded, and a TIFF is turned already.
        if image.format not in ("PNG", "TIFF") and image.getexif().get(0x0112, 1) >= 5:
            width, height = height, width
        return 1 if image.mode in GREY_MODES else 3, height, width


def decoded(raw: Any, channels: int | None, size: Size, span: Span, top: int) -> Pixels:
    """Return pixels (c, h, w) from 0 to `top`, 255 or 65,535; without `channels`, 1 or 3 of an image, and an array's own.

    Raises:
        ValueError: it can't be read, or not with so many channels.
    """
    array = as_array(raw)
    if array is None:
        with opened(raw) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _converted(image, channels, size, span, top)
    array = np.ascontiguousarray(as_chw(array))
    if span or array.dtype != _dtype(top):
        array = _scaled(array, span or (0, type_range(array)), top)
    if channels in (None, len(array)):
        same = size in (None, array.shape[1:])
        planes = [array] if same else [_converted(Image.fromarray(plane), 1, size, None, top) for plane in array]
        return planes[0] if same else np.concatenate(planes)
    if len(array) not in (1, 3, 4):
        raise ValueError(f"{channels} channels can't be made of arrays with {len(array)}")
    if top > 255:
        return decoded(recoloured(array, channels), channels, size, None, top)
    return _converted(_image_of(array), channels, size, None, top)


def recoloured(pixels: Pixels, channels: int) -> Pixels:
    """Return pixels (c, h, w) as grey or colour.

    Raises:
        ValueError: there are neither 1 nor 3 channels.
    """
    if {len(pixels), channels} != {1, 3}:
        raise ValueError(f"{channels} channels can't be made of {len(pixels)} in an array of 16 bits")
    if channels == 3:
        return np.repeat(pixels, 3, axis=0)
    if pixels.dtype == np.uint8:
        return np.asarray(_image_of(pixels).convert("L"))[None]
    grey: Pixels = np.tensordot(GREY_OF_COLOUR, pixels, 1).round().astype(pixels.dtype)[None]
    return grey


def _image_of(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))


def _dtype(top: int) -> Any:
    return np.uint8 if top == 255 else np.uint16


def _converted(image: Image.Image, channels: int | None, size: Size, span: Span, top: int) -> Pixels:
    channels = channels or (1 if image.mode in GREY_MODES else 3)
    if top > 255:
        return _deep(image, channels, size, span, top)
    if image.mode[0] in "IF":
        values, white = np.asarray(image), type_range(image)
        if span is None and not (values.min() >= 0 and values.max() <= white):
            raise ValueError(f"grey values outside 0 to {white:g}; value_range: auto scales them")
        image, span = Image.fromarray(_scaled(values, span or (0, white), 255)), None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels != 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    image = image if image.mode == mode else image.convert(mode)
    if size and image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], method=Image.Resampling.BICUBIC)
    pixels = np.moveaxis(np.atleast_3d(np.asarray(image)), -1, 0)
    return pixels if span is None else np.concatenate([_scaled(pixels[:3], span, 255), pixels[3:]])  # alpha stays


def _deep(image: Image.Image, channels: int, size: Size, span: Span, top: int) -> Pixels:
    """Return pixels of 16 bits: of a grey picture of as many its own, of one of 8 bits spread over the range."""
    if image.mode[0] not in "IF":
        pixels = _converted(image, channels, size, None, 255)
        return _scaled(pixels, span or (0, 255), top)
    if channels != 1:
        raise ValueError(f"a grey picture of 16 bits has 1 channel, not {channels}")
    values, white = np.asarray(image), type_range(image)
    if span is None and not (values.min() >= 0 and values.max() <= white):
        raise ValueError(f"grey values outside 0 to {white:g}; value_range: auto scales them")
    grey = Image.fromarray(values.astype(np.float32))
    if size and grey.size != size[::-1]:
        grey = ImageOps.fit(grey, size[::-1], method=Image.Resampling.BICUBIC)
    return _scaled(np.asarray(grey), span or (0, white), top)[None]


def _scaled(values: NDArray[Any], span: tuple[float, float], top: int) -> Pixels:
    """Return values scaled from low..high, the span, to 0..top, those beyond cut off. In parts, as it takes 8 bytes a
    value."""
    low, high = span
    scaled = np.empty(values.shape, _dtype(top))
    flat, into = values.reshape(-1), scaled.reshape(-1)
    for start in range(0, len(flat), BLOCK):
        part = flat[start : start + BLOCK].astype(np.float64)
        if not np.isfinite(part).all():
            raise ValueError("has values that are not finite")
        into[start : start + BLOCK] = ((part - low) * (top / (high - low))).round().clip(0, top)
    return scaled


def type_range(raw: Any) -> float:
    """Return the value that is white in an image or array of this type; 0 is black."""
    array = as_array(raw)
    if array is not None:
        if array.dtype == np.uint8:
            return 255.0
        if array.dtype == np.uint16:
            return 65535.0
        raise ValueError(
            f"holds {array.dtype}; arrays must be uint8, 0 to 255, or value_range say what is black and white: auto, or "
            "[low, high]"
        )
    if isinstance(raw, Image.Image):
        return 1.0 if raw.mode == "F" else 65535.0 if raw.mode[0] == "I" else 255.0
    with opened(raw) as image:
        return type_range(image)


def extent(raw: Any) -> tuple[float, float]:
    """Return an image's least and largest value, as they are stored."""
    values = as_array(raw)
    if values is None:
        with opened(raw) as image:
            values = np.asarray(image) if image.mode[0] in "IF" else _converted(image, None, None, None, 255)
    low, high = float(values.min()), float(values.max())
    if not isfinite(high - low):
        raise ValueError("has values that are not finite")
    return low, high
