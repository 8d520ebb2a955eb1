"""The landscape of a model's energy, over the plane."""

from __future__ import annotations

from typing import Annotated, Any, cast

import torch
from PIL import Image
from pydantic import Field

from genhub.errors import InputError
from genhub.interfaces.capabilities import Energy
from genhub.interfaces.view import View
from genhub.views import canvas
from genhub.views.canvas import escape
from genhub.views.viewed import Asked, Count, Seed, Viewed, in_batches

ROOM = 0.25
"""Room on each side of the real points, in their width."""


class Landscape(View):
    """The energy of points of the plane, and over it real points and drawn ones."""

    capability = Energy

    def draw(
        self,
        subject: Viewed,
        *,
        n: Count = 500,
        seed: Seed = 0,
        conditions: Asked = None,
        grid: Annotated[int, Field(strict=True, ge=2, le=1000)] = 100,
        **options: Any,
    ) -> Image.Image:
        model, modality = cast(Energy, subject.model), subject.modality
        if modality.shape != (2,):
            raise InputError(f"landscape: is for points of the plane, and {subject.name} draws {modality.told()}")
        nothing = {name: [None] for name in subject.model.conditions}
        drawing = subject.drawing(n, seed, conditions or nothing, options)
        real, drawn = subject.data.x(subject.choose(n, seed)), subject.sample(drawing)
        low, high = real.amin(0), real.amax(0)
        room = ROOM * (high - low)
        ends = torch.stack([low - room, high + room], 1)
        across, up = (torch.linspace(start, end, grid) for start, end in ends.tolist())
        places = torch.cartesian_prod(up, across).flip(1)  # row by row, from the lowest
        points = torch.cat([places, real]).to(subject.model.device)
        energies = in_batches(model.energy, points, drawing.conditions_of(subject.model, [0] * len(points)))
        ground, at_real = torch.split(energies - energies.min(), [len(places), len(real)])
        top = 4 * at_real.median().item()  # so that few far points don't set it
        own = modality.from_batch(places).view(grid, grid, 2).numpy()
        told = f"given {escape(drawing.captions(subject.model)[0])}" if conditions else "given nothing"
        return canvas.landscape(
            f"{subject.title}: the energy of points",
            f"above the lowest; {told}; dark is low, and likely; seed {seed}",
            canvas.Ground(own[0, :, 0], own[:, 0, 1], ground.view(grid, grid).numpy(), top),
            {
                f"{len(real):,} real points": modality.from_batch(real).numpy(),
                f"{len(drawn):,} drawn points": modality.from_batch(drawn).numpy(),
            },
        )
