"""Put a file's bytes into a page, so that it needs nothing else."""

from __future__ import annotations

import base64


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes as an address that a page has in itself.

    >>> data_uri(b"hello", "text/plain")
    'data:text/plain;base64,aGVsbG8='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
