"""`Animation`: a GIF that moves in a notebook."""

from __future__ import annotations

import io

from PIL.GifImagePlugin import GifImageFile

from genhub.ground.embedded import data_uri


class Animation(GifImageFile):
    """Picture of several frames, which a notebook shows moving; PIL's own shows the first."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._content = content

    def _repr_html_(self) -> str:
        return f'<img style="max-width: 100%" src="{data_uri(self._content, "image/gif")}">'
