"""The drawn rows that are most like real ones, and the oddest: what a model does well, and where it fails.

It is small so that it can be read, and complete: it shows a model of any family, of images, points or signals. Replace it
piece by piece.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from PIL import Image
from pydantic import Field

from genhub import PictureRow, View, ViewSubject, table

REAL = 2000
"""Number of real rows that drawn ones are compared with."""


class MyView(View):
    """The drawn rows that are nearest to a real one, and those that are farthest from all."""

    # What it asks of a model, here nothing. `capability = Denoiser` and the like, `conditional = True` or
    # `sample_option = "guidance_scale"` say what a model must have, and `genhub show` says it to the user. One that is a
    # film has `moves = True` and returns a `genhub.Film`.

    # Its options, checked by their annotations. -n and --seed are options of `genhub show`, as are --steps, --condition,
    # --scales and --between; any other is given by --set, here `--set shown=12`. What is left is for the model's `sample`.
    def draw(
        self,
        subject: ViewSubject,
        *,
        n: Annotated[int, Field(ge=2, le=1000)] = 100,
        shown: Annotated[int, Field(ge=1, le=50)] = 8,
        seed: Annotated[int, Field(ge=0)] = 0,
        **options: Any,
    ) -> Image.Image:
        drawn = subject.draw(n, seed, options=options)  # (n, *shape) as in a batch; the same for the same seed
        real = subject.x(subject.choose(REAL, seed)).cpu()
        distance = torch.cdist(drawn.flatten(1), real.flatten(1)).amin(1) / math.sqrt(drawn[0].numel())
        order = distance.argsort()
        rows = []
        for label, chosen in [("most like real rows", order[:shown]), ("the oddest", order[-shown:].flip(0))]:
            captions = [f"{value:.3f}" for value in distance[chosen].tolist()]
            rows.append(PictureRow.of(label, subject.modality, drawn[chosen], captions))
        note = f"of {n:,} drawn; below each its distance to the nearest of {len(real):,} real rows, root mean square"
        return table(f"{subject.title}: typical and odd", note, rows)
