"""`genhub.grid`: rows side by side in one picture."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib import style
from PIL import Image
from torch import Tensor

from genhub.data.batches import TableData
from genhub.errors import InputError
from genhub.evaluation.given import conditions_at
from genhub.interfaces.modality import Modality
from genhub.modalities.plots import tiled
from genhub.sampling.asked import captions_of
from genhub.sampling.drawn import Drawn
from genhub.views.canvas import beside, own_tiles

Rows = Drawn | TableData | Tensor
NUMBER, POINTS = 64, 2000
"""Number of rows by default, and of those that share a picture."""


def grid(rows: Rows | Mapping[str, Rows], *, n: int | None = None, columns: int | None = None) -> Image.Image:
    """Draw rows as one picture; several by their titles, side by side: `genhub.grid({"real": data, "drawn": drawn})`.

    Args:
        rows: what `genhub.sample` or `genhub.load_data` returns; or a tensor (n, *shape) in the column's own units, beside
            one of these, of whose kind it is.
        n: how many rows of each, from the first on; left out: 64, and of points 2,000.
        columns: tiles in a row; left out: about as many as rows.
    Returns:
        The picture; points have the same axes in all of it.
    Raises:
        InputError: there are no rows, or they are not of one known kind.
    """
    named = dict(rows) if isinstance(rows, Mapping) else {"": rows}
    modality = next((known for known in map(_modality, named.values()) if known), None)
    if modality is None:
        raise InputError("grid: of what kind are these rows? genhub.Drawn.of(values, model.modality) says it")
    if columns and modality.together:
        raise InputError(f"grid: columns: rows of {modality.modality} share one picture; leave it out")
    number = n or (POINTS if modality.together else NUMBER)
    shown = {title: _first(value, modality, number) for title, value in named.items()}
    if not all(len(each) for each in shown.values()):
        raise InputError("grid: there are no rows to show")
    like = torch.cat([each.elements for each in shown.values()])
    with style.context("default"):
        tiles = {title: own_tiles(modality, each.elements, each.captions, like) for title, each in shown.items()}
    pictures = {title: each[0] if modality.together else tiled(each, columns, shown[title].captions)
                for title, each in tiles.items()}  # fmt: skip
    return beside(pictures) if isinstance(rows, Mapping) else pictures[""]


def _modality(rows: Rows) -> Modality | None:
    if isinstance(rows, TableData):
        return rows.spec.modality
    return rows.modality if isinstance(rows, Drawn) else None


def _first(rows: Rows, modality: Modality, n: int) -> Drawn:
    """Return the first n rows, which are of this modality."""
    if isinstance(rows, TableData):
        numbers = range(min(n, rows.num_rows))
        given = conditions_at(rows, rows.spec.conditions, numbers)
        captions = captions_of([(rows.spec.conditions[name], values) for name, values in given.items()], numbers)
        return Drawn.of(rows.own(numbers), modality, captions)
    elements = Drawn.of(rows, modality).elements
    return Drawn.of(elements[:n], modality, rows.captions[:n] if isinstance(rows, Drawn) else ())
