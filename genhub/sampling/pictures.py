"""Pictures as PNG: in memory, and in a file."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from genhub.ground.disk import saving, whole


def png_of(picture: Image.Image) -> bytes:
    """Return a picture as the content of a PNG."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def write_picture(picture: Image.Image, file: Path) -> Path:
    """Write a picture as PNG, whole or not at all."""
    with saving(file):
        file.parent.mkdir(exist_ok=True)
        with whole(file) as temporary:
            picture.save(temporary, format="PNG")
    return file
