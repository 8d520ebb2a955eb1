"""Draw what a model card shows: a picture or sound for each of a few values that the model can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from genhub.errors import NotFinite
from genhub.ground.console import say, warn
from genhub.interfaces.model import Model
from genhub.sampling.asked import read_conditions
from genhub.sampling.draw import sample_elements
from genhub.sampling.pictures import png_of
from genhub.sampling.request import Drawing
from genhub.store.card import PICTURE
from genhub.store.card_head import GALLERY, DrawnFile
from genhub.store.usage import MOST

TOGETHER = 256
"""Rows in a picture of elements that are seen together, such as points of the plane."""
SEED = 0


@dataclass(frozen=True)
class CardDrawings:
    """Pictures and sounds that a model drew for its card."""

    gallery: Sequence[DrawnFile] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Content of the gallery's files, and of samples.png, by their paths in the repository."""


NOTHING_DRAWN = CardDrawings()


def draw_for_card(model: Model) -> CardDrawings:
    """Draw a card's gallery and its picture in eval mode, by a seed of their own: the same for the same weights. What is not
    finite is warned of, and not shown."""
    say("Drawing the card's pictures")
    examples = {name: some for name, modality in model.conditions.items() if (some := modality.examples(MOST))}
    together = model.modality.together
    shown = max(map(len, examples.values()), default=1 if together else MOST)
    told = {name: [some[number % len(some)] for number in range(shown)] for name, some in examples.items()}
    drawing = Drawing(shown * TOGETHER if together else shown, SEED, read_conditions(model, told))
    training = model.training
    try:
        elements = sample_elements(model.eval(), drawing)
    except NotFinite as error:
        warn(f"the card has no pictures: {error}")
        return NOTHING_DRAWN
    finally:
        model.train(training)
    groups = [elements[number::shown] for number in range(shown)]  # one row each, or those that are told the same
    captions = [_caption(told, number, len(elements)) for number in range(shown)]
    files = {PICTURE: png_of(model.modality.picture(elements, drawing.captions(model)))}
    sounds = model.modality.sounds(elements)
    contents = sounds or [png_of(_picture(model, group, elements)) for group in groups]
    gallery = [DrawnFile(f"{GALLERY}/{number}.{'wav' if sounds else 'png'}", told) for number, told in enumerate(captions)]
    return CardDrawings(gallery, files | {one.name: each for one, each in zip(gallery, contents, strict=True)})


def _caption(told: Mapping[str, Sequence[Any]], number: int, rows: int) -> str:
    """Return what an element was told; of a model that is told nothing, by what number it is drawn again."""
    if told:
        return ", ".join(f"{name}: {values[number]}" for name, values in told.items())
    return f"seed {SEED}, row {number}" if rows <= MOST else f"seed {SEED}, rows 0 to {rows - 1}"


def _picture(model: Model, group: Tensor, elements: Tensor) -> Image.Image:
    modality = model.modality
    return modality.tile(group, like=elements) if modality.together else modality.picture(group)
