"""A map of the latent space."""

from __future__ import annotations

from typing import Annotated, cast

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from genhub.errors import InputError
from genhub.interfaces.capabilities import Autoencoder
from genhub.interfaces.view import View
from genhub.views import canvas
from genhub.views.canvas import Plane
from genhub.views.viewed import Seed, Viewed, in_batches

POINTS = 2000
"""Number of real rows whose latents are shown."""


class LatentMap(View):
    """A plane of the latent space: n x n decoded points, and the places of real rows in it."""

    capability = Autoencoder

    def draw(
        self, subject: Viewed, *, n: Annotated[int, Field(strict=True, ge=2, le=64)] = 12, seed: Seed = 0
    ) -> Image.Image:
        model, device, modality = cast(Autoencoder, subject.model), subject.model.device, subject.modality
        if modality.together:
            raise InputError(f"latent: is for images and the like so far, and {subject.name} draws {modality.told()}")
        chosen = subject.choose(POINTS, seed)
        column = subject.data.labels
        labels = column.kept(chosen).numpy() if column and column.present(chosen).all() else None
        latents = in_batches(model.encode, subject.x(chosen), subject.given(chosen))
        points = latents.flatten(1).double()
        centre, axes, note = plane_of(points)
        places = (points - centre) @ axes.T
        low, high = places.quantile(0.005, 0), places.quantile(0.995, 0)
        low, high = low - 0.05 * (high - low) - 1e-6, high + 0.05 * (high - low) + 1e-6
        across, down = torch.linspace(0, 1, n).double(), torch.linspace(1, 0, n).double()  # the first row is the top one
        edge = (high - low) / n / 2  # a tile's middle is its point
        grid = torch.cartesian_prod(down, across).flip(1) * (high - low - 2 * edge) + low + edge
        decoded = in_batches(model.decode, (centre + grid @ axes).float().view(-1, *latents.shape[1:]).to(device))
        caption = column.modality.caption if column else str
        names = {} if labels is None else {label: caption(torch.tensor(label)) for label in set(labels.tolist())}
        limits = [(low[i].item(), high[i].item()) for i in range(2)]
        shown = canvas.tiles(modality, decoded)
        plane = Plane(_axis_names(points.shape[1]), limits, shown, places.numpy(), labels, names)
        return canvas.plane(f"{subject.title}: the latent space", note, plane)


def plane_of(points: Tensor) -> tuple[Tensor, Tensor, str]:
    """Return a point (d,) and two directions (2, d) of the plane to show, and a note on it."""
    size = points.shape[1]
    if size <= 2:
        return (
            torch.zeros(size).double(),
            torch.eye(2, size).double(),
            f"all of it: it has {size} dimension" + "s" * (size > 1),
        )
    centre = points.mean(0)
    values, axes = torch.linalg.eigh((points - centre).T @ (points - centre))
    axes, share = axes[:, -2:].flip(1).T, values[-2:].sum() / values.sum()
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # a direction's sign is arbitrary
    return (
        centre,
        axes,
        (
            f"of its {size:,} dimensions, the plane of the first two principal components through the mean: "
            f"{share:.0%} of the variance"
        ),
    )


def _axis_names(size: int) -> tuple[str, str]:
    return (
        ("$z_1$", "$z_2$" if size == 2 else "") if size <= 2 else ("first principal component", "second principal component")
    )
