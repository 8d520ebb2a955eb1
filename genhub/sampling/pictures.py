"""A run's preview of a step."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from genhub.ground.disk import saving, whole


def write_picture(picture: Image.Image, file: Path) -> Path:
    """Write a picture as PNG, whole or not at all."""
    with saving(file):
        file.parent.mkdir(exist_ok=True)
        with whole(file) as temporary:
            picture.save(temporary, format="PNG")
    return file
