"""Pictures of images: one, many in a grid, and a run's preview of a step."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from genhub.ground.disk import saving, whole
from genhub.ground.finite import check_finite


def image_grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Return one picture of (n, c, h, w) uint8 in a grid, small images enlarged."""
    n, _, height, width = images.shape
    columns = columns or max(1, round((n * height / width) ** 0.5))
    tiles, gap = [enlarged(picture(image)) for image in images], 2
    width, height = tiles[0].size
    size = columns * (width + gap) + gap, -(-n // columns) * (height + gap) + gap
    canvas = Image.new(tiles[0].mode, size, (128,) * len(tiles[0].getbands()))
    for i, tile in enumerate(tiles):
        canvas.paste(tile, (gap + i % columns * (width + gap), gap + i // columns * (height + gap)))
    return canvas


def enlarged(image: Image.Image) -> Image.Image:
    """Return a small image enlarged, and smoothly, as eyes read an 8x8 digit better that way."""
    scale = max(1, 64 // max(image.size))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)


def picture(image: Tensor) -> Image.Image:
    """Return (c, h, w) uint8 as a picture: grey, RGB or RGBA; of other channel counts the first one or first three."""
    channels = image.shape[0]
    shown = image if channels in (1, 3, 4) else image[: 1 if channels == 2 else 3]
    array = shown.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save_preview(images: Tensor, file: Path) -> Path:
    """Write (n, c, h, w) uint8 as a run's picture of a step."""
    with saving(file):
        file.parent.mkdir(exist_ok=True)
        with whole(file) as temporary:
            image_grid(images).save(temporary, format="PNG")
    return file


def to_uint8(images: Tensor) -> Tensor:
    """Return [-1, 1] float as 0..255 uint8, rounded.

    Raises:
        NotFinite: a value is NaN or infinite, which has no place among them.
    """
    check_finite(images, "images")
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()
