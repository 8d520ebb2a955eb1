"""Views that are rows of tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from genhub.errors import InputError
from genhub.ground.console import Progress
from genhub.interfaces.capabilities import Autoencoder
from genhub.interfaces.modality import Modality
from genhub.interfaces.view import View
from genhub.views import canvas
from genhub.views.canvas import PictureRow, escape
from genhub.views.viewed import Asked, Count, Seed, Viewed, in_batches

MOST_ROWS = 20
"""Most rows of labels, where a model has more and none are asked for."""
CHUNK = 4096
"""Number of training rows compared at once."""


class Samples(View):
    """Real rows beside drawn ones, which are given the same: points as scatter and density, signals as waves and
    spectrograms, tables by their marginals and correlations, anything else as its modality shows it."""

    def draw(self, subject: Viewed, *, n: Count = 9, seed: Seed = 0, **options: Any) -> Image.Image:
        modality, rows = subject.modality, subject.choose(n, seed)
        drawing = subject.drawing_for(rows, seed, options)
        drawn, given = subject.sample(drawing), drawing.captions(subject.model)
        real, drawn = subject.data.own(rows), modality.from_batch(drawn)
        compared = modality.compare(real, drawn, given)
        if compared is None:
            compared = canvas.beside({"real": modality.picture(real, given), "drawn": modality.picture(drawn, given)})
        told = f"drawn for their {escape(', '.join(drawing.conditions))}" if drawing.conditions else "given nothing"
        return canvas.titled(
            f"{subject.title}: real rows and drawn ones",
            f"{len(rows):,} rows of {escape(Path(subject.data.spec.name).name)}, and as many {told}; seed {seed}",
            compared,
        )


class Reconstruct(View):
    """Real rows over their reconstructions from the latent space, and the error."""

    capability = Autoencoder

    def draw(self, subject: Viewed, *, n: Count = 10, seed: Seed = 0) -> Image.Image:
        model, modality = cast(Autoencoder, subject.model), subject.modality
        rows = subject.choose(n, seed)
        x, given = subject.x(rows), subject.given(rows)
        latents = in_batches(model.encode, x, given)
        copies = in_batches(model.decode, latents.to(x.device), given)
        x = x.cpu()
        rms = (copies - x).square().flatten(1).mean(1).sqrt()
        captions = [f"{value:.3f}" for value in rms.tolist()]
        shown = [PictureRow.of("real", modality, x), PictureRow.of("reconstruction", modality, copies, captions)]
        if modality.bounds:  # the least value is no difference
            difference = (copies - x).abs() + modality.bounds[0]
            shown[1:] = [replace(shown[1], captions=()), PictureRow.of("difference", modality, difference, captions)]
        return canvas.table(
            f"{subject.title}: real rows and their reconstructions",
            f"from {math.prod(latents.shape[1:]):,} numbers each; under a column its error, root mean square "
            f"{_units(modality)}; on average {rms.mean():.3f}",
            shown,
        )


class ByClass(View):
    """Samples, a row a label, or another value of a condition."""

    conditional = True

    def shows_rows(self, subject: Viewed, options: Mapping[str, Any]) -> bool:
        return False

    def draw(
        self, subject: Viewed, *, n: Count = 10, seed: Seed = 0, conditions: Asked = None, **options: Any
    ) -> Image.Image:
        known = subject.model.conditions
        column = next(iter(conditions or ()), None) or next((name for name, its in known.items() if its.classes), None)
        if column is None:
            told = ", ".join(f"{name} ({its.told()})" for name, its in known.items())
            raise InputError(f"classes: say what to draw, --condition NAME=VALUES; {subject.name} is told {told}")
        modality, others = known[column], {name: its for name, its in (conditions or {}).items() if name != column}
        asked = (conditions or {}).get(column)
        values = list(torch.arange(min(modality.classes, MOST_ROWS)) if asked is None else map(torch.as_tensor, asked))
        drawn = _each(values, lambda value: subject.sample(subject.drawing(n, seed, {**others, column: [value]}, options)))
        many = asked is None and modality.classes > MOST_ROWS
        first = f"the first {MOST_ROWS} of {modality.classes:,} labels" if many else "a row a value"
        return canvas.table(
            f"{subject.title}: what is drawn for a {escape(column)}",
            f"{first}; a column has the same noise; seed {seed}",
            [
                PictureRow.of(escape(modality.caption(value)), subject.modality, x)
                for value, x in zip(values, drawn, strict=True)
            ],
        )


class Guidance(View):
    """Samples, a row a guidance scale."""

    conditional = True
    sample_option = "guidance_scale"

    def shows_rows(self, subject: Viewed, options: Mapping[str, Any]) -> bool:
        return subject.takes_rows(options.get("conditions"))

    def draw(
        self,
        subject: Viewed,
        *,
        n: Count = 10,
        seed: Seed = 0,
        conditions: Asked = None,
        scales: Annotated[Sequence[float], Field(min_length=1, max_length=20)] = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0),
        **options: Any,
    ) -> Image.Image:
        each = [subject.drawing(n, seed, conditions, {**options, "guidance_scale": scale}) for scale in scales]
        drawn, captions = _each(each, subject.sample), [escape(text) for text in each[0].captions(subject.model)]
        rows = [PictureRow.of(f"{scale:g}", subject.modality, x) for scale, x in zip(scales, drawn, strict=True)]
        rows[-1] = replace(rows[-1], captions=captions if len(rows[-1].tiles) == n else ())
        return canvas.table(
            f"{subject.title}: what guidance does",
            f"a row a guidance scale: 0 ignores what is asked for, 1 is that alone, more exaggerates it; seed {seed}",
            rows,
        )


class Neighbours(View):
    """Each sample beside its nearest training row, and real rows beside theirs, to compare with."""

    def draw(
        self, subject: Viewed, *, n: Count = 10, seed: Seed = 0, conditions: Asked = None, **options: Any
    ) -> Image.Image:
        modality, samples = subject.modality, subject.sample(subject.drawing(n, seed, conditions, options))
        chosen = subject.choose(n, seed)
        reals = subject.data.x(chosen)
        found, distance = nearest(subject, torch.cat([samples, reals]), [-1] * n + chosen.tolist())
        captions = [f"{value:.3f}" for value in distance.tolist()]
        return canvas.table(
            f"{subject.title}: samples and the training rows nearest to them",
            f"how far apart two are: root mean square {_units(modality)};\n"
            f"median of samples {distance[:n].median():.3f}, of real rows {distance[n:].median():.3f}",
            [
                PictureRow.of("sample", modality, samples),
                PictureRow.of("nearest", modality, subject.data.x(found[:n]), captions[:n]),
                PictureRow.of("real row", modality, reals),
                PictureRow.of("nearest other", modality, subject.data.x(found[n:]), captions[n:]),
            ],
        )


def _units(modality: Modality) -> str:
    """Return in what units a batch's numbers are."""
    if modality.bounds is None:
        return "in standard deviations"
    low, high = modality.bounds
    return f"in units of [{low:g}, {high:g}]"


def nearest(subject: Viewed, queries: Tensor, own: list[int]) -> tuple[list[int], Tensor]:
    """Return the number of the real row nearest to each query, other than its own number; and the distances."""
    total = subject.data.num_rows
    best, found = torch.full((len(queries),), math.inf), torch.zeros(len(queries), dtype=torch.int64)
    progress = Progress(total, unit="row")
    for start in range(0, total, CHUNK):
        stop = min(start + CHUNK, total)
        distance = torch.cdist(
            queries.flatten(1),
            subject.data.x(np.arange(start, stop)).flatten(1),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        for row, number in enumerate(own):
            if start <= number < stop:
                distance[row, number - start] = math.inf
        least, index = distance.min(1)
        closer = least < best
        best, found = torch.where(closer, least, best), torch.where(closer, index + start, found)
        progress.advance(stop)
    progress.close()
    return found.tolist(), best / math.sqrt(queries[0].numel())


def _each(values: Sequence[Any], sample: Any) -> list[Tensor]:
    """Return a row of elements for each value, showing progress."""
    rows, progress = [], Progress(len(values), unit="row")
    for value in values:
        rows.append(sample(value))
        progress.advance(len(rows))
    progress.close()
    return rows
