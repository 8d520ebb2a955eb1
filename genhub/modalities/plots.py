"""Pictures that several modalities share: tiles in a grid with captions, points, waves, histograms."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GAP = 2
"""Pixels between tiles."""
GREY = 128
CAPTION = 11
"""Height of a caption's letters, in pixels."""
MOST_POINTS = 20_000
"""Most points in a scatter: more hide one another."""
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f")
MOST_GROUPS = len(COLOURS)
"""Most captions that are told apart by colour."""


def tiled(tiles: Sequence[Image.Image], columns: int | None = None, captions: Sequence[str] = ()) -> Image.Image:
    """Return one picture of tiles of equal size in a grid, a caption under each where there are any."""
    width, height = tiles[0].size
    columns = columns or max(1, round((len(tiles) * height / width) ** 0.5))
    below = CAPTION + 2 if any(captions) else 0
    size = columns * (width + GAP) + GAP, -(-len(tiles) // columns) * (height + below + GAP) + GAP
    canvas = Image.new(tiles[0].mode, size, (GREY,) * len(tiles[0].getbands()))
    draw = ImageDraw.Draw(canvas)
    for i, tile in enumerate(tiles):
        left, top = GAP + i % columns * (width + GAP), GAP + i // columns * (height + below + GAP)
        canvas.paste(tile, (left, top))
        if below:
            _write(draw, (left, top + height, width), captions[i % len(captions)])
    return canvas


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int, int], text: str) -> None:
    """Write a text in the middle of a place (left, top, width), as much of it as there is room for."""
    left, top, width = place
    text = " ".join(text.split())
    font = ImageFont.load_default(CAPTION)
    while text and draw.textlength(text, font) > width:
        text = text[:-1]
    draw.text((left + (width - draw.textlength(text, font)) / 2, top), text, "white", font)


def scatter(points: NDArray[Any], captions: Sequence[str] = (), names: Sequence[str] = ()) -> Image.Image:
    """Return the points (n, 2) in a plane, both axes alike; those of a caption in a colour, where there are few."""
    figure, axes = _figure(4.2, 4.2)
    points = points[:MOST_POINTS]
    groups = [captions[i % len(captions)] for i in range(len(points))] if captions else [""] * len(points)
    different = list(dict.fromkeys(groups))
    size, alpha = (6, 0.6) if len(points) <= 2000 else (2, 0.4)
    for name, colour in zip(different if len(different) <= MOST_GROUPS else [None], COLOURS, strict=False):
        chosen = points if name is None else points[[group == name for group in groups]]
        axes.scatter(*chosen.T, s=size, alpha=alpha, c=colour, linewidths=0, label=_plain(name) if name else None)
    if 1 < len(different) <= MOST_GROUPS:
        axes.legend(fontsize=7, markerscale=3, framealpha=0.7)
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelsize=7)
    if names:
        axes.set_xlabel(_plain(names[0]), fontsize=8)
        axes.set_ylabel(_plain(names[1]), fontsize=8)
    return _drawn(figure)


def histograms(values: NDArray[Any], names: Sequence[str], most: int = 16) -> Image.Image:
    """Return a histogram of each of the first numbers of vectors (n, d)."""
    number = min(values.shape[1], most)
    columns = min(4, number)
    rows = -(-number // columns)
    figure, axes = _figure(2.0 * columns, 1.6 * rows, rows, columns)
    for at, axis in enumerate(np.ravel(axes)):
        if at >= number:
            axis.axis("off")
            continue
        axis.hist(values[:, at], bins=min(30, max(5, len(values) // 5)), color=COLOURS[0])
        axis.set_title(_plain(names[at]), fontsize=8)
        axis.tick_params(labelsize=6)
        axis.set_yticks([])
    return _drawn(figure)


def bars(names: Sequence[str], most: int = 30) -> Image.Image:
    """Return how often each of the names occurs, the first `most` of them."""
    different, counts = np.unique(np.array(names), return_counts=True)
    figure, axes = _figure(4.2, 0.4 + 0.18 * min(len(different), most))
    axes.barh([_plain(name) for name in different[:most]], counts[:most], color=COLOURS[0])
    axes.invert_yaxis()
    axes.tick_params(labelsize=7)
    return _drawn(figure)


def wave(values: NDArray[Any], span: float, size: tuple[int, int] = (128, 64)) -> Image.Image:
    """Return a signal (c, t) as waves, one channel under another; `span` is the largest value that is shown."""
    width, height = size
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    each = height / len(values)
    for at, channel in enumerate(values):
        middle = (at + 0.5) * each
        draw.line([(0, middle), (width, middle)], fill="#dddddd")
        parts = np.array_split(np.clip(channel / max(span, 1e-12), -1, 1), min(width, len(channel)))
        step = width / len(parts)
        ends = [(middle - part.max() * 0.48 * each, middle - part.min() * 0.48 * each) for part in parts]
        if len(channel) > 2 * width:  # each column of pixels from its least to its largest value
            for x, (top, bottom) in enumerate(ends):
                draw.line([(x, top), (x, bottom)], fill=COLOURS[0])
        else:
            draw.line([((x + 0.5) * step, (top + bottom) / 2) for x, (top, bottom) in enumerate(ends)], fill=COLOURS[0])
    return image


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, figure.subplots(rows, columns)


def _plain(name: object) -> str:
    """Return the start of a text without what matplotlib would take for a formula."""
    return str(name)[:24].replace("$", r"\$")


def _drawn(figure: Any) -> Image.Image:
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that the font hasn't
        figure.savefig(stream, format="png")
    stream.seek(0)
    return Image.open(stream).convert("RGB")
