"""Draw pictures of rows of images, points in a plane, and curves: matplotlib writes and plots, Pillow places images.

Everything is drawn at 100 dots an inch with matplotlib's own defaults, whatever the user's settings and backend are, so
that the same values give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from genhub.sampling.pictures import enlarged, picture, to_uint8

DPI = 100
TITLE, TEXT = 12, 9
"""Sizes of letters, in points."""
MARGIN, GAP, LINE = 12, 2, 16
"""Pixels around a picture, between images, and for a line of text."""
MAX_TILE = 128
"""Largest side of an image in a row: larger ones are made smaller, so that a row fits a screen."""
GREY = "#555555"

Array = NDArray[Any]
Place = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class PictureRow:
    label: str
    images: Tensor
    """Images (m, c, h, w), in [-1, 1] or uint8."""
    captions: Sequence[str] = ()
    """Captions under the images, one each."""


@dataclass(frozen=True)
class Film:
    """Film of n images that change step by step, each shown in one or more ways."""

    title: str
    note: str
    panels: Mapping[str, Tensor]
    """Images (steps, n, c, h, w) in [-1, 1], by label."""
    captions: Sequence[str]
    """Captions, one a step; a second line is for the strip alone."""
    there_and_back: bool = False
    """Whether an animation runs backwards at the end."""

    def strip(self) -> Image.Image:
        """Return a picture with a column a step, and a row an image and panel."""
        n = next(iter(self.panels.values())).shape[1]
        rows = [PictureRow(label, images[:, i]) for i in range(n) for label, images in self.panels.items()]
        rows[-1] = replace(rows[-1], captions=self.captions)
        return table(self.title, self.note, rows, group=len(self.panels))

    def frames(self) -> tuple[list[Image.Image], list[int]]:
        """Return a frame a step, with a row a panel and a column an image; and how many milliseconds each is shown."""
        captions = [caption.replace("\n", "   ") for caption in self.captions]
        width = max(end for caption in captions for end in _ends(self.title, caption)) + MARGIN  # the same for all
        frames = []
        for step, caption in enumerate(captions):
            rows = [PictureRow(label, images[step]) for label, images in self.panels.items()]
            frames.append(table(self.title, caption, rows, width=width))
        if self.there_and_back:
            frames += frames[-2:0:-1]
        held = {0, len(self.captions) - 1}  # the ends, to look at
        return frames, [1200 if index in held else 120 for index in range(len(frames))]


def table(title: str, note: str, rows: Sequence[PictureRow], group: int = 1, width: int = 0) -> Image.Image:
    """Draw rows of images with labels and captions, at least `width` pixels wide; every `group` rows belong together."""
    tiles = [[tile(image) for image in row.images] for row in rows]
    side, height = tiles[0][0].size
    widest = max(_width(caption) for caption in ("", *(caption for row in rows for caption in row.captions)))
    pitch = max(side + GAP, min(widest + 8, side * 3 // 2))
    every = -(-(widest + 8) // pitch)  # captions that would touch are left out
    left = MARGIN + max(_width(row.label) for row in rows) + 8
    y, ys = MARGIN + 20 + LINE * (1 + note.count("\n")) + 8, []
    for place, row in enumerate(rows, start=1):
        ys.append(y)
        lines = max((caption.count("\n") + 1 for caption in row.captions), default=0)
        y += height + GAP + (lines * LINE + 4 if lines else 0) + (8 if lines or place % group == 0 < group - 1 else 0)
    xs = [left + column * pitch for column in range(max(map(len, tiles)))]
    right = xs[-1] + (side + max(side, widest)) // 2
    with _figure((max(width, max(right, *_ends(title, note)) + MARGIN), y + MARGIN // 2)) as (figure, at):
        _head(figure, at, title, note)
        for row, top in zip(rows, ys, strict=True):
            figure.text(*at(left - 8, top + height / 2), row.label, ha="right", va="center", fontsize=TEXT)
            for x, caption in list(zip(xs, row.captions, strict=False))[::every]:
                figure.text(*at(x + side / 2, top + height + 4), caption, ha="center", va="top", fontsize=TEXT)
        canvas = _rendered(figure)
    for images, top in zip(tiles, ys, strict=True):
        for image, x in zip(images, xs, strict=False):
            canvas.paste(image, (x, top))
    return canvas


def tile(image: Tensor) -> Image.Image:
    """Return an image (c, h, w), in [-1, 1] or uint8, as it appears in a row."""
    shown = picture(to_uint8(image) if image.is_floating_point() else image)
    if shown.mode == "RGBA":
        shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    if max(shown.size) > MAX_TILE:
        shown.thumbnail((MAX_TILE, MAX_TILE), Image.Resampling.LANCZOS)
    return enlarged(shown)


@dataclass(frozen=True)
class Plane:
    """A part of a plane: images in it, and points."""

    axes: Sequence[str]
    """Names of the two axes."""
    limits: Sequence[tuple[float, float]]
    """From where to where it goes on each axis."""
    decoded: Sequence[Tensor]
    """The images (c, h, w) at points of a square grid, row by row from the top left corner."""
    points: Array
    """(N, 2), in the units of the limits."""
    labels: Array | None
    """Labels of the points, (N,)."""
    names: Mapping[int, str]
    """Names of the labels."""


def plane(title: str, note: str, shown: Plane) -> Image.Image:
    """Draw a part of a plane twice: the images in it, and the points, coloured by label."""
    axes, limits, points, labels = shown.axes, shown.limits, shown.points, shown.labels
    with _figure((1180, 620)) as (figure, at):
        _head(figure, at, title, note)
        left, right = figure.subplots(
            1, 2, gridspec_kw={"left": 0.065, "right": 0.925, "bottom": 0.08, "top": 0.87, "wspace": 0.17}
        )
        for plot, name in [(left, "decoded points"), (right, f"where {len(points):,} real images are")]:
            plot.set(xlim=limits[0], ylim=limits[1], xlabel=axes[0], ylabel=axes[1])
            plot.set_title(name, fontsize=TEXT + 1)
            plot.tick_params(labelsize=TEXT - 1)
        left.imshow(_mosaic(shown.decoded), extent=(*limits[0], *limits[1]), aspect="auto", interpolation="lanczos")
        for label, colour in _colours(labels):
            chosen = points if labels is None else points[labels == label]
            right.scatter(*chosen.T, s=9, color=colour, alpha=0.7, linewidths=0, label=shown.names.get(label, str(label)))
        if labels is not None:
            right.legend(
                loc="upper left",
                bbox_to_anchor=(1.005, 1.01),
                fontsize=TEXT - 1,
                markerscale=2,
                frameon=False,
                handletextpad=0.1,
                borderpad=0,
            )
        return _rendered(figure)


def curves(title: str, note: str, rows: Mapping[str, Mapping[str, tuple[Array, Array]]]) -> Image.Image:
    """Draw a plot of each curve (steps, values), a row of plots for each of `rows`."""
    columns = max(len(row) for row in rows.values())
    size = max(280 * columns + 40, max(_ends(title, note)) + MARGIN), 60 + 220 * len(rows)
    with _figure(size) as (figure, at):
        _head(figure, at, title, note)
        grid = figure.add_gridspec(
            len(rows),
            columns,
            left=60 / size[0],
            right=1 - 24 / size[0],
            bottom=50 / size[1],
            top=1 - 84 / size[1],
            wspace=0.32,
            hspace=0.6,
        )
        for place, (phase, row) in enumerate(rows.items()):
            for column, (key, (steps, values)) in enumerate(row.items()):
                plot = figure.add_subplot(grid[place, column])
                plot.plot(steps, values, linewidth=1.4, marker="." if len(steps) < 3 else "")
                plot.set_title(f"{phase}/{key}", fontsize=TEXT + 1)
                plot.set_xlabel("step", fontsize=TEXT, labelpad=1)
                plot.tick_params(labelsize=TEXT - 1)
                plot.locator_params(axis="x", nbins=5)
                plot.grid(alpha=0.3)
        return _rendered(figure)


# Parts


@contextmanager
def _figure(size: tuple[int, int]) -> Iterator[Any]:
    """Give a figure of (width, height) pixels, and a function that places pixels counted from its top left corner."""
    width, height = size
    with style.context("default"):
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        yield figure, lambda x, y: (x / width, 1 - y / height)


def _head(figure: Figure, at: Place, title: str, note: str) -> None:
    figure.text(*at(MARGIN, MARGIN), title, va="top", fontsize=TITLE)
    figure.text(*at(MARGIN, MARGIN + 22), note, va="top", fontsize=TEXT, color=GREY)


def _ends(title: str, note: str) -> tuple[int, int]:
    """Return the ends of title and note, in pixels from the left."""
    return MARGIN + _width(title, TITLE), MARGIN + _width(note)


def _rendered(figure: Figure) -> Image.Image:
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _width(text: str, size: int = TEXT) -> int:
    """Return the width in pixels of the longest line of a text."""
    lines = [line for line in text.split("\n") if line.strip()]
    return max((round(TextPath((0, 0), line, size=size * DPI / 72).get_extents().width) for line in lines), default=0)


def _mosaic(images: Sequence[Tensor]) -> Array:
    """Return images (c, h, w) as one array, a square of them, each with a thin edge."""
    side = round(len(images) ** 0.5)
    shown = [np.asarray(ImageOps.expand(tile(image).convert("RGB"), 1, GREY)) for image in images]
    return np.concatenate([np.concatenate(shown[row * side : (row + 1) * side], 1) for row in range(side)], 0)


def _colours(labels: Array | None) -> Iterator[tuple[int, Any]]:
    """Return the labels there are, each with a colour of its own."""
    from matplotlib import colormaps

    if labels is None:
        return iter([(0, "tab:blue")])
    found = sorted(set(labels.tolist()))
    if len(found) <= 10:
        return ((label, colormaps["tab10"](place)) for place, label in zip(count(), found, strict=False))
    return ((label, colormaps["turbo"](place / (len(found) - 1))) for place, label in zip(count(), found, strict=False))
