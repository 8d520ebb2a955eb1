"""Compute what each view shows. A function a view: its keywords are the view's options, `**options` are those of the model's
`sample`, and what it returns is a picture, or a film that can also be shown as a strip."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from genhub.errors import InputError
from genhub.ground.console import Progress
from genhub.ground.finite import check_finite
from genhub.ground.randomness import SAMPLE_STREAM, Between, generators, randn, seed_for
from genhub.interfaces.capabilities import Autoencoder, Denoiser
from genhub.interfaces.modality import Modality
from genhub.interfaces.model import Model
from genhub.sampling.request import Drawing
from genhub.views import canvas
from genhub.views.canvas import Film, PictureRow, Plane, escape
from genhub.views.viewed import Viewed, in_batches

Count = Annotated[int, Field(strict=True, ge=1, le=1000)]
Steps = Annotated[int, Field(strict=True, ge=2, le=200)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Asked = Mapping[str, Any] | None
"""Conditions by column, as they are kept; None: nobody says."""

MOST_ROWS = 20
"""Most rows of labels, where a model has more and none are asked for."""
POINTS = 2000
"""Number of real rows whose latents are shown."""
CHUNK = 4096
"""Number of training rows compared at once."""


# Films


def forward(subject: Viewed, *, n: Count = 4, steps: Steps = 10, seed: Seed = 0) -> Film:
    """Show real rows that turn into noise: x_0, then `steps` noise levels up to the last."""
    model = cast(Denoiser, subject.model)
    x = subject.x(subject.choose(n, seed))
    noise = randn(tuple(x.shape), generators(seed, range(len(x))), x.device)
    total, steps = model.num_train_timesteps, min(steps, model.num_train_timesteps)
    timesteps = torch.tensor([total * step // steps - 1 for step in range(1, steps + 1)], device=x.device)
    with torch.inference_mode():
        noisy = [check_finite(model.add_noise(x, noise, t.expand(len(x))), f"x_t at t = {t}") for t in timesteps]
        ratios = model.signal_to_noise(timesteps).tolist()
    captions = [f"t = {t}\nSNR {_short(ratio)}" for t, ratio in zip(timesteps.tolist(), ratios, strict=True)]
    return Film(
        f"{_plain(subject)}: the forward process, from data to noise",
        f"$x_t$ at {steps} of {total:,} noise levels t; SNR: signal power over noise power",
        subject.modality,
        {"$x_t$": torch.stack([x, *noisy]).cpu()},
        ["$x_0$", *captions],
    )


def reverse(
    subject: Viewed, *, n: Count = 4, steps: Steps = 10, seed: Seed = 0, conditions: Asked = None, **options: Any
) -> Film:
    """Show the way back from noise: x after each step, and the model's guess of x_0 that led there."""
    model = cast(Denoiser, subject.model)
    asked = subject.drawing(n, seed, conditions, options)
    given = asked.conditions_of(subject.model)
    drawn, guessed, captions = [], [], []
    with torch.inference_mode():
        for step in model.denoise(n, conditions=given, generator=generators(seed, range(n)), **asked.options):
            for x in (step.sample, step.pred_original_sample):
                check_finite(x, f"step {step.index + 1} (t = {step.timestep:.4g})")
            drawn.append(_in_sight(step.sample, subject.modality).cpu())
            guessed.append(step.pred_original_sample.cpu())
            captions.append(f"step {step.index + 1}\nt = {step.timestep:.0f}")
    shown = torch.linspace(0, len(drawn) - 1, min(steps, len(drawn))).round().long().tolist()
    return Film(
        f"{_plain(subject)}: the way back, from noise to data",
        f"$x$ after a step, and the guess of $x_0$ it took from t; {len(shown)} of {len(drawn)} steps, seed {seed}",
        subject.modality,
        {"$x$": torch.stack([drawn[i] for i in shown]), "guess of $x_0$": torch.stack([guessed[i] for i in shown])},
        [captions[i] for i in shown],
    )


def _in_sight(x: Tensor, modality: Modality) -> Tensor:
    """Return x (n, *shape) made smaller where it goes far beyond a modality's bounds, as the first steps of samplers that
    count in sigma do."""
    return x if modality.bounds is None else x / x.std(tuple(range(1, x.ndim)), keepdim=True).clamp(min=1)


def interpolate(
    subject: Viewed,
    *,
    n: Count = 4,
    steps: Steps = 8,
    seed: Seed = 0,
    conditions: Asked = None,
    between: Literal["images", "seeds"] | None = None,
    **options: Any,
) -> Film:
    """Show the way from one element to another: between the latents of two real ones, or the noise of two drawn ones."""
    shares = torch.linspace(0, 1, steps).tolist()
    captions = [f"{share:.2g}" for share in shares]
    if not between_images(subject, between):
        asked = subject.drawing(n, seed, conditions, options)
        return Film(
            f"{_plain(subject)}: between two seeds",
            "the noise goes from one to the other on a great circle (slerp)",
            subject.modality,
            {"": _between_seeds(subject.model, asked, shares)},
            captions,
            there_and_back=True,
        )
    if unused := [*options, *(conditions or ())]:
        raise InputError(f"interpolate: between two images nothing is drawn, so {unused[0]} has no use; add --between seeds")
    if not isinstance(subject.model, Autoencoder):
        raise InputError(f"interpolate: {subject.name} lacks the capability Autoencoder; it can go between seeds only")
    rows = subject.choose(2 * n, seed)
    x, given = subject.x(rows), subject.given(rows)
    latents = in_batches(subject.model.encode, x, given)
    first, second = latents[::2], latents[1::2]
    of_first = None if given is None else given.rows(slice(0, None, 2))
    ways = [in_batches(subject.model.decode, torch.lerp(first, second, s).to(x.device), of_first) for s in shares]
    return Film(
        f"{_plain(subject)}: between the latents of two real rows",
        "a real row; its latent, decoded, and how far from it to the other's; the other real row",
        subject.modality,
        {"": torch.stack([x[::2].cpu(), *ways, x[1::2].cpu()])},
        ["real", *captions, "real"],
        there_and_back=True,
    )


def between_images(subject: Viewed, between: str | None) -> bool:
    """Whether `interpolate` goes between real rows: where it is told to, and by default for a model with latents."""
    return between == "images" or (between is None and isinstance(subject.model, Autoencoder))


def _between_seeds(model: Model, asked: Drawing, shares: list[float]) -> Tensor:
    """Return elements (steps, n, *shape), the i-th between the rows 2i and 2i + 1 of `genhub sample`."""
    n, seed, given, checked = asked.n, asked.seed, asked.conditions_of(model), asked.options
    still = {"eta": 0.0}  # else a sampler's own noise decides
    if "eta" in inspect.signature(model.sample).parameters and not model.unused_options({**checked, **still}):
        checked = {**still, **checked}
    ways, progress = [], Progress(len(shares))
    for share in shares:
        ends = zip(generators(seed, range(0, 2 * n, 2)), generators(seed, range(1, 2 * n, 2)), strict=True)
        noise: list[torch.Generator] = [
            Between(first, second, share, seed_for(seed, SAMPLE_STREAM, 2 * i)) for i, (first, second) in enumerate(ends)
        ]
        with torch.inference_mode():
            x = model.sample(n, conditions=given, generator=noise, **checked).float().cpu()
            ways.append(check_finite(x, f"what is drawn {share:.2g} of the way"))
        progress.advance(len(ways))
    progress.close()
    if torch.equal(ways[0], ways[-1]):
        raise InputError(
            f"interpolate: {type(model).__name__} does not draw its noise with genhub.randn, "
            "so nothing lies between two seeds"
        )
    return torch.stack(ways)


# Tables


def reconstruct(subject: Viewed, *, n: Count = 10, seed: Seed = 0) -> Image.Image:
    """Show real rows over their reconstructions from the latent space, and the error."""
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
        f"{_plain(subject)}: real rows and their reconstructions",
        f"from {math.prod(latents.shape[1:]):,} numbers each; under a column its error, root mean square "
        f"{_units(modality)}; on average {rms.mean():.3f}",
        shown,
    )


def classes(subject: Viewed, *, n: Count = 10, seed: Seed = 0, conditions: Asked = None, **options: Any) -> Image.Image:
    """Show samples, a row a label, or another value of a condition."""
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
        f"{_plain(subject)}: what is drawn for a {escape(column)}",
        f"{first}; a column has the same noise; seed {seed}",
        [
            PictureRow.of(escape(modality.caption(value)), subject.modality, x)
            for value, x in zip(values, drawn, strict=True)
        ],
    )


def guidance(
    subject: Viewed,
    *,
    n: Count = 10,
    seed: Seed = 0,
    conditions: Asked = None,
    scales: Annotated[Sequence[float], Field(min_length=1, max_length=20)] = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0),
    **options: Any,
) -> Image.Image:
    """Show samples, a row a guidance scale."""
    each = [subject.drawing(n, seed, conditions, {**options, "guidance_scale": scale}) for scale in scales]
    drawn, captions = _each(each, subject.sample), [escape(text) for text in each[0].captions(subject.model)]
    rows = [PictureRow.of(f"{scale:g}", subject.modality, x) for scale, x in zip(scales, drawn, strict=True)]
    rows[-1] = replace(rows[-1], captions=captions if len(rows[-1].tiles) == n else ())
    return canvas.table(
        f"{_plain(subject)}: what guidance does",
        f"a row a guidance scale: 0 ignores what is asked for, 1 is that alone, more exaggerates it; seed {seed}",
        rows,
    )


def neighbours(subject: Viewed, *, n: Count = 10, seed: Seed = 0, conditions: Asked = None, **options: Any) -> Image.Image:
    """Show each sample beside its nearest training row, and real rows beside theirs, to compare with."""
    modality, samples = subject.modality, subject.sample(subject.drawing(n, seed, conditions, options))
    chosen = subject.choose(n, seed)
    reals = subject.data.x(chosen)
    found, distance = nearest(subject, torch.cat([samples, reals]), [-1] * n + chosen.tolist())
    captions = [f"{value:.3f}" for value in distance.tolist()]
    return canvas.table(
        f"{_plain(subject)}: samples and the training rows nearest to them",
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


# Charts


def latent(subject: Viewed, *, n: Annotated[int, Field(strict=True, ge=2, le=64)] = 12, seed: Seed = 0) -> Image.Image:
    """Show a plane of the latent space: n x n decoded points, and the places of real rows in it."""
    model, device, modality = cast(Autoencoder, subject.model), subject.model.device, subject.modality
    if len(modality.shape) < 2:
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
    return canvas.plane(f"{_plain(subject)}: the latent space", note, plane)


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


# Words


def _plain(subject: Viewed) -> str:
    return escape(subject.name)


def _short(number: float) -> str:
    """Return a number with two digits: 1200, 0.52, 2.4e-9."""
    return f"{float(f'{number:.2g}'):g}".replace("e-0", "e-")


def _each(values: Sequence[Any], sample: Any) -> list[Tensor]:
    """Return a row of elements for each value, showing progress."""
    rows, progress = [], Progress(len(values), unit="row")
    for value in values:
        rows.append(sample(value))
        progress.advance(len(rows))
    progress.close()
    return rows
