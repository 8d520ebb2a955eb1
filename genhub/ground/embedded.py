"""Put files into a page, so that it needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from genhub.errors import one_line


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes as an address that a page has in itself.

    >>> data_uri(b"hello", "text/plain")
    'data:text/plain;base64,aGVsbG8='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def players(sounds: Sequence[bytes], captions: Sequence[str] = ()) -> list[str]:
    """Return a player for each of some WAV files, with its caption, or else its number."""
    names = captions or list(map(str, range(len(sounds))))
    return [
        f"<figure><figcaption>{escape(one_line(name))}</figcaption>"
        f'<audio controls preload="none" src="{data_uri(sound, "audio/wav")}"></audio></figure>'
        for sound, name in zip(sounds, names, strict=False)
    ]
