"""Draw pictures of rows of tiles, points in a plane, and curves: matplotlib writes and plots, Pillow places tiles.

Everything is drawn at 100 dots an inch with matplotlib's own defaults, whatever the user's settings and backend are, so
that the same values give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
import torch
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from genhub.ground.brief import Brief
from genhub.ground.fonts import font_for
from genhub.interfaces.modality import Modality
from genhub.modalities.image import enlarged

DPI = 100
TITLE, TEXT = 12, 9
"""Sizes of letters, in points."""
MARGIN, GAP, LINE = 12, 2, 16
"""Pixels around a picture, between tiles, and for a line of text."""
MAX_TILE, MAX_PLOT = 128, 280
"""Largest side of a tile, and of one that elements share: larger ones are made smaller, so that a row fits a screen."""
GREY = "#555555"

Array = NDArray[Any]
Place = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True, repr=False)
class PictureRow(Brief):
    """A row of tiles in a `table`."""

    label: str
    """Words at its left; `$` begins mathematics."""
    tiles: Sequence[Image.Image]
    captions: Sequence[str] = ()
    """Captions under the tiles, one each."""

    @classmethod
    def of(cls, label: str, modality: Modality, x: Tensor, captions: Sequence[str] = ()) -> PictureRow:
        """Return the row of elements x (m, *shape), as in a batch; captions of elements that share a tile are left out."""
        return cls(label, tiles(modality, x), () if modality.together else captions)


@dataclass(frozen=True, repr=False)
class Film(Brief):
    """Film of n elements that change step by step, each shown in one or more ways."""

    title: str
    """First line; `$` begins mathematics."""
    note: str
    """Line below it in the strip; a frame has its own caption there."""
    modality: Modality
    panels: Mapping[str, Tensor]
    """Elements (steps, n, *shape), as in a batch, by label."""
    captions: Sequence[str]
    """Captions, one a step; a second line is for the strip alone."""
    there_and_back: bool = False
    """Whether an animation runs backwards at the end."""
    given: Sequence[str] = ()
    """Captions of what the elements are given, where elements that share a picture are told apart by it; (): nothing."""
    real: Tensor | None = None
    """Real elements (m, *shape), as in a batch, which elements that share a picture have in pale behind; None: nothing."""

    def strip(self) -> Image.Image:
        """Return a picture with a column a step, and a row a panel and an element; those that share a picture, a row."""
        made = {label: [self._tiles(x) for x in steps] for label, steps in self.panels.items()}
        n = len(next(iter(made.values()))[0])
        rows = [PictureRow(label, [step[i] for step in steps]) for i in range(n) for label, steps in made.items()]
        rows[-1] = replace(rows[-1], captions=self.captions)
        return table(self.title, self.note, rows, group=len(self.panels))

    def frames(self) -> tuple[list[Image.Image], list[int]]:
        """Return a frame a step, and how many milliseconds each is shown: a row a panel and a column a tile, or, where
        elements share a picture, a column a panel."""
        captions = [caption.replace("\n", "   ") for caption in self.captions]
        width = max(end for caption in captions for end in _ends(self.title, caption)) + MARGIN  # the same for all
        frames = []
        for step, caption in enumerate(captions):
            each = {label: self._tiles(x[step]) for label, x in self.panels.items()}
            rows = [PictureRow(label, shown) for label, shown in each.items()]
            if self.modality.together:
                rows = [PictureRow("", [shown for (shown,) in each.values()], tuple(each))]
            frames.append(table(self.title, caption, rows, width=width))
        if self.there_and_back:
            frames += frames[-2:0:-1]
        held = {0, len(self.captions) - 1}  # the ends, to look at
        return frames, [1200 if index in held else 120 for index in range(len(frames))]

    def _tiles(self, x: Tensor) -> list[Image.Image]:
        """Return the elements of a step, on axes that are the same in all steps: those of the real ones, else of the film's
        end."""
        end = torch.cat([steps[-1] for steps in self.panels.values()])
        return tiles(self.modality, x, self.given, end if self.real is None else self.real, self.real)


def table(title: str, note: str, rows: Sequence[PictureRow], group: int = 1, width: int = 0) -> Image.Image:
    """Draw rows of tiles with labels and captions, at least `width` pixels wide; every `group` rows belong together."""
    side, height = rows[0].tiles[0].size
    widest = max(_width(caption) for caption in ("", *(caption for row in rows for caption in row.captions)))
    pitch = max(side + GAP, min(widest + 8, side * 3 // 2))
    every = -(-(widest + 8) // pitch)  # captions that would touch are left out
    left = MARGIN + max(_width(row.label) for row in rows) + 8
    y, ys = MARGIN + 20 + LINE * (1 + note.count("\n")) + 8, []
    for place, row in enumerate(rows, start=1):
        ys.append(y)
        lines = max((caption.count("\n") + 1 for caption in row.captions), default=0)
        y += height + GAP + (lines * LINE + 4 if lines else 0) + (8 if lines or place % group == 0 < group - 1 else 0)
    xs = [left + column * pitch for column in range(max(len(row.tiles) for row in rows))]
    right = xs[-1] + (side + max(side, widest)) // 2
    with _figure((max(width, max(right, *_ends(title, note)) + MARGIN), y + MARGIN // 2)) as (figure, at):
        _head(figure, at, title, note)
        for row, top in zip(rows, ys, strict=True):
            figure.text(*at(left - 8, top + height / 2), row.label, ha="right", va="center", fontsize=TEXT)
            for x, caption in list(zip(xs, row.captions, strict=False))[::every]:
                figure.text(*at(x + side / 2, top + height + 4), caption, ha="center", va="top", fontsize=TEXT)
        canvas = _rendered(figure)
    for row, top in zip(rows, ys, strict=True):
        for shown, x in zip(row.tiles, xs, strict=False):
            canvas.paste(shown, (x, top))
    return canvas


def tiles(
    modality: Modality, x: Tensor, captions: Sequence[str] = (), like: Tensor | None = None, real: Tensor | None = None
) -> list[Image.Image]:
    """Return elements x (m, *shape), as in a batch, as they appear in a row: a tile each, or one that they share; see
    `Modality.tile`.

    Args:
        like: elements as in a batch, to whose scale all are drawn; None: x.
        real: real elements, as in a batch.
    """
    own = [None if values is None else modality.from_batch(values) for values in (x if like is None else like, real)]
    return own_tiles(modality, modality.from_batch(x), captions, *own)


def own_tiles(
    modality: Modality, values: Tensor, captions: Sequence[str] = (), like: Tensor | None = None, real: Tensor | None = None
) -> list[Image.Image]:
    """Return elements (m, *shape) in the column's own units as `tiles` does those of a batch."""
    parts = [values] if modality.together else torch.split(values, 1)
    return [_fitted(modality.tile(part, captions, like, real), modality.together) for part in parts]


def _fitted(shown: Image.Image, shared: bool) -> Image.Image:
    """Return a picture at the size of a tile, without transparency."""
    most = MAX_PLOT if shared else MAX_TILE
    if shown.mode == "RGBA":
        shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    if max(shown.size) > most:
        shown.thumbnail((most, most), Image.Resampling.LANCZOS)
    return enlarged(shown)


def titled(title: str, note: str, shown: Image.Image) -> Image.Image:
    """Return a picture below a title and a note."""
    top = MARGIN + 20 + LINE * (1 + note.count("\n")) + 8
    width = max(shown.width + 2 * MARGIN, max(_ends(title, note)) + MARGIN)
    with _figure((width, top + shown.height + MARGIN)) as (figure, at):
        _head(figure, at, title, note)
        canvas = _rendered(figure)
    canvas.paste(shown.convert("RGB"), (MARGIN, top))
    return canvas


def beside(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """Return pictures beside one another, each below its name."""
    height, above, apart = max(picture.height for picture in pictures.values()), 18, 12
    width = sum(picture.width + apart for picture in pictures.values()) - apart
    canvas = Image.new("RGB", (width, height + above), "white")
    draw, left = ImageDraw.Draw(canvas), 0
    for name, picture in pictures.items():
        draw.text((left, 0), name, "black", font_for(name, 12))
        canvas.paste(picture.convert("RGB"), (left, above))
        left += picture.width + apart
    return canvas


@dataclass(frozen=True)
class Plane:
    """A part of a plane: elements in it, and points."""

    axes: Sequence[str]
    """Names of the two axes."""
    limits: Sequence[tuple[float, float]]
    """From where to where it goes on each axis."""
    decoded: Sequence[Image.Image]
    """Tiles of the elements at points of a square grid, row by row from the top left corner."""
    points: Array
    """(N, 2), in the units of the limits."""
    labels: Array | None
    """Labels of the points, (N,)."""
    names: Mapping[int, str]
    """Names of the labels."""


def plane(title: str, note: str, shown: Plane) -> Image.Image:
    """Draw a part of a plane twice: the elements in it, and the points, coloured by label."""
    axes, limits, points, labels = shown.axes, shown.limits, shown.points, shown.labels
    with _figure((1180, 620)) as (figure, at):
        _head(figure, at, title, note)
        left, right = figure.subplots(
            1, 2, gridspec_kw={"left": 0.065, "right": 0.925, "bottom": 0.08, "top": 0.87, "wspace": 0.17}
        )
        for plot, name in [(left, "decoded points"), (right, f"where {len(points):,} real rows are")]:
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


@dataclass(frozen=True)
class Ground:
    """Heights over a part of a plane."""

    across: Array
    """Places on the first axis, (k,)."""
    up: Array
    """Places on the second axis, (m,)."""
    heights: Array
    """(m, k), from 0."""
    top: float
    """Height from which all is shown alike."""


def landscape(title: str, note: str, ground: Ground, points: Mapping[str, Array]) -> Image.Image:
    """Draw a ground as often as there are kinds of points, by name, and each kind (n, 2) over one of them."""
    levels = np.linspace(0, max(ground.top, 1e-6), 17)
    ends = [(places[0], places[-1]) for places in (ground.across, ground.up)]
    tall = round(440 * min(1.5, max(0.3, (ends[1][1] - ends[1][0]) / (ends[0][1] - ends[0][0]))))
    below, height = 40, tall + 140
    sides = {"left": 0.05, "right": 0.92, "bottom": below / height, "top": (below + tall) / height, "wspace": 0.12}
    with _figure((1060, height)) as (figure, at):
        _head(figure, at, title, note)
        plots = figure.subplots(1, len(points), gridspec_kw=sides)
        for plot, (name, chosen) in zip(np.ravel(plots), points.items(), strict=True):
            shown = plot.contourf(ground.across, ground.up, ground.heights, levels, cmap="Blues_r", extend="max")
            plot.scatter(*chosen.T, s=5, color="tab:orange", alpha=0.7, linewidths=0)
            plot.set(xlim=ends[0], ylim=ends[1], aspect="equal")
            plot.set_title(name, fontsize=TEXT + 1)
            plot.tick_params(labelsize=TEXT - 1)
        bar = figure.colorbar(shown, cax=figure.add_axes((0.935, below / height, 0.012, tall / height)), format="%.3g")
        bar.ax.tick_params(labelsize=TEXT - 1)
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


def escape(text: str) -> str:
    """Return text with `$` escaped: matplotlib would read mathematics."""
    return text.replace("$", r"\$")


def _width(text: str, size: int = TEXT) -> int:
    """Return the width in pixels of the longest line of a text."""
    return max((_line_width(line, size) for line in text.split("\n") if line.strip()), default=0)


@lru_cache(maxsize=4096)
def _line_width(line: str, size: int) -> int:
    with style.context("default"):
        figure = Figure(dpi=DPI)
        canvas: Any = FigureCanvasAgg(figure)
        return math.ceil(figure.text(0, 0, line, fontsize=size).get_window_extent(canvas.get_renderer()).width)


def _mosaic(tiles: Sequence[Image.Image]) -> Array:
    """Return tiles as one array, a square of them, each with a thin edge."""
    side = round(len(tiles) ** 0.5)
    shown = [np.asarray(ImageOps.expand(tile.convert("RGB"), 1, GREY)) for tile in tiles]
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
