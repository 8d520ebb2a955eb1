"""Fonts of the words that Pillow writes into pictures. No torch here."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_for(text: str, size: int) -> Font:
    """Return Pillow's own font, which is narrow and has English letters alone, or for other texts DejaVu Sans, which comes
    with matplotlib and has the letters of most alphabets."""
    return ImageFont.load_default(size) if text.isascii() else _dejavu(size)


@cache
def _dejavu(size: int) -> Font:
    spec = find_spec("matplotlib")  # without importing it
    assert spec
    assert spec.origin
    return ImageFont.truetype(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)
