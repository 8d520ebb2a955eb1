"""Pictures that a page shows of a model: the way from noise while it draws, then the last one, with its sounds; or a line on
what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from time import perf_counter

import torch
from PIL import Image
from torch import Tensor

from genhub.demo.form import Wish
from genhub.errors import GenhubError, one_line
from genhub.ground.background import in_background
from genhub.interfaces.capabilities import DenoisingStep
from genhub.interfaces.model import Model
from genhub.sampling.draw import out_of_memory, sample_elements
from genhub.sampling.request import Drawing
from genhub.views.films import in_sight

PAUSE = 0.2
"""Least seconds between two pictures of the way."""
APART = 4
"""Least time between two, in times of what one took to make: so the most that pictures take of the drawing's time."""


@dataclass(frozen=True)
class DrawnPicture:
    """Picture of elements that a model has drawn, or of where they are on their way."""

    picture: Image.Image
    last: bool = True
    """Whether they are drawn, and this is the picture that `genhub sample` writes."""
    sounds: Sequence[bytes] = ()
    """Drawn sounds, each the content of a WAV file."""
    captions: Sequence[str] = ()
    """Captions of the elements; (): nothing can be said of any."""


def draw_shown(model: Model, wish: Wish, way: bool = False) -> Iterator[DrawnPicture]:
    """Yield what there is to show while a model draws; the last one is what `genhub sample` writes.

    Args:
        way: show the way from noise, of a model that has one. It draws by `denoise`, which ends where `sample` does.
    Raises:
        GenhubError, Exception: the model can't draw that; any that a stranger's model raises.
    """
    drawing = wish.drawing(model)
    watched = _Watched(model, drawing, way)
    try:
        yield from watched.pictures()
    finally:
        watched.left = True


def fault_line(error: Exception) -> str:
    """Return in a line what is wrong, whoever raised it."""
    if isinstance(error, GenhubError):
        return str(error.args[0])
    if out_of_memory(error):
        return "out of memory: draw fewer at a time"
    first = str(error).strip().partition("\n")[0]
    return one_line(f"{type(error).__name__}: {first}" if first else type(error).__name__)


class _Left(Exception):
    """Nobody looks any more."""


class _Watched:
    """Drawing on a thread of its own, which never waits for who looks: the newest step is shown, others are not."""

    def __init__(self, model: Model, drawing: Drawing, way: bool) -> None:
        self.model, self.drawing, self.way = model, drawing, way
        self.left = False
        self._steps = 0
        self._rows: dict[int, Tensor] = {}  # of each batch so far, by its first row: where its rows are

    def pictures(self) -> Iterator[DrawnPicture]:
        work = in_background(self._draw, "genhub-draw")
        pause, seen = PAUSE, 0
        while wait([work], timeout=pause).not_done:
            if self._steps > seen:
                seen, start = self._steps, perf_counter()
                made = self._on_the_way()
                pause = max(PAUSE, APART * (perf_counter() - start))
                yield made
        elements, captions = work.result(), self.drawing.captions(self.model)
        modality = self.model.modality
        yield DrawnPicture(modality.picture(elements, captions), True, modality.sounds(elements), captions)

    def _draw(self) -> Tensor:
        return sample_elements(self.model, self.drawing, on_step=self._note if self.way else None)

    def _note(self, first: int, step: DenoisingStep) -> None:
        if self.left:
            raise _Left
        self._rows[first] = in_sight(step.sample, self.model.modality).cpu()
        self._steps += 1

    def _on_the_way(self) -> DrawnPicture:
        with torch.inference_mode():
            elements = self.model.modality.from_batch(torch.cat(list(self._rows.values())))
        captions = self.drawing.part(range(len(elements))).captions(self.model)
        return DrawnPicture(self.model.modality.picture(elements, captions), last=False)
