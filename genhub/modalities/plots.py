"""Pictures that several modalities share: tiles in a grid with captions, points, waves, histograms."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from genhub.ground.fonts import font_for

GAP = 2
"""Pixels between tiles."""
GREY = 128
CAPTION = 11
"""Height of a caption's letters, in pixels."""
MOST_POINTS = 20_000
"""Most points in a scatter: more hide one another."""
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f")
PALE = "#d4d4d4"
"""Colour of real values behind drawn ones."""
DPI = 110
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
    font = font_for(text, CAPTION)
    while text and draw.textlength(text, font) > width:
        text = text[:-1]
    draw.text((left + (width - draw.textlength(text, font)) / 2, top), text, "white", font)


def scatter(points: NDArray[Any], captions: Sequence[str] = (), names: Sequence[str] = ()) -> Image.Image:
    """Return the points (n, 2) in a plane, both axes alike; those of a caption in a colour, where there are few."""
    figure, axes = _figure(4.2, 4.2)
    _put_points(axes, points, captions)
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelsize=7)
    if names:
        axes.set_xlabel(_plain(names[0]), fontsize=8)
        axes.set_ylabel(_plain(names[1]), fontsize=8)
    return _drawn(figure)


def _put_points(axes: Any, points: NDArray[Any], captions: Sequence[str]) -> None:
    points = points[:MOST_POINTS]
    groups = [captions[i % len(captions)] for i in range(len(points))] if captions else [""] * len(points)
    different = list(dict.fromkeys(groups))
    size, alpha = (6, 0.6) if len(points) <= 2000 else (2, 0.4)
    for name, colour in zip(different if len(different) <= MOST_GROUPS else [None], COLOURS, strict=False):
        chosen = points if name is None else points[[group == name for group in groups]]
        axes.scatter(*chosen.T, s=size, alpha=alpha, c=colour, linewidths=0, label=_plain(name) if name else None)
    if 1 < len(different) <= MOST_GROUPS:
        axes.legend(fontsize=7, markerscale=3, framealpha=0.7)


def histograms(
    values: NDArray[Any], names: Sequence[str], most: int = 16, like: NDArray[Any] | None = None,
    real: NDArray[Any] | None = None,
) -> Image.Image:  # fmt: skip
    """Return a histogram of each of the first numbers of vectors (n, d), over the range of those of `like`, before those of
    `real` in pale."""
    number = min(values.shape[1], most)
    columns = min(4, number)
    rows = -(-number // columns)
    figure, axes = _figure(2.0 * columns, 1.6 * rows, rows, columns)
    _put_histograms(np.ravel(axes), values, names[:number], like, real)
    return _drawn(figure)


def _put_histograms(
    axes: NDArray[Any], values: NDArray[Any], names: Sequence[str], like: NDArray[Any] | None = None,
    real: NDArray[Any] | None = None,
) -> None:  # fmt: skip
    """Put a histogram of each number that has a name on the first axes; the others stay empty."""
    number = min(30, max(5, len(values) // 5))
    for at, axis in enumerate(axes):
        if at >= len(names):
            axis.axis("off")
            continue
        bins = number if like is None else np.linspace(*_range(like[:, at]), number + 1)
        if real is not None:
            axis.hist(real[:, at], bins=bins, color=PALE, density=True)
        outline = {} if real is None else {"density": True, "histtype": "step", "linewidth": 1.4}
        axis.hist(values[:, at], bins=bins, color=COLOURS[0], **outline)
        axis.set_title(_plain(names[at]), fontsize=8)
        axis.tick_params(labelsize=6)
        axis.set_yticks([])


def _range(values: NDArray[Any], margin: float = 0.05) -> tuple[float, float]:
    """Return from where to where an axis goes that shows values, some of which are far off."""
    low, high = (float(end) for end in np.quantile(values, (0.002, 0.998)))
    edge = margin * (high - low) if high > low else 1.0
    return low - edge, high + edge


def cloud(
    points: NDArray[Any], captions: Sequence[str], like: NDArray[Any], real: NDArray[Any] | None, side: int
) -> Image.Image:
    """Return points (n, 2), before `real` in pale, on axes with room for noise around `like`; `side` is in pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(side / DPI, side / DPI), dpi=DPI)
    axes = figure.add_axes((0.11, 0.08, 0.87, 0.9))
    if real is not None:
        axes.scatter(real[:MOST_POINTS, 0], real[:MOST_POINTS, 1], s=5, c=PALE, linewidths=0)
    _put_points(axes, points, captions)
    _set_square(axes, like, 1.5)
    axes.locator_params(nbins=5)
    axes.tick_params(labelsize=6)
    return _drawn(figure)


def _set_square(axes: Any, points: NDArray[Any], room: float) -> None:
    """Set both axes to the same scale, `room` times as wide as points (n, 2) are."""
    ends = np.array([_range(points[:, at], 0.0) for at in range(2)])
    half = room * (ends[:, 1] - ends[:, 0]).max() / 2
    (left, right), (low, high) = ((middle - half, middle + half) for middle in ends.mean(1))
    axes.set(xlim=(left, right), ylim=(low, high), aspect="equal")


def planes_beside(real: NDArray[Any], drawn: NDArray[Any], captions: Sequence[str], names: Sequence[str]) -> Image.Image:
    """Return real and drawn points (n, 2), on the same axes, above their density: the number in each small square."""
    figure, axes = _figure(6.8, 6.8, 2, 2)
    limits = None
    for (above, below), (title, points) in zip(axes.T, {"real": real, "drawn": drawn}.items(), strict=True):
        _put_points(above, points, captions)
        _set_square(above, real, 1.3)
        limits = limits or [above.get_xlim(), above.get_ylim()]
        below.hist2d(*points.T, bins=40, range=limits, cmap="Blues", vmax=_fullest(real, limits))
        below.set_aspect("equal")
        above.set_title(title, fontsize=9)
        for axis in (above, below):
            axis.tick_params(labelsize=7)
            axis.set_xlabel(_plain(names[0]) if names else "", fontsize=8)
            axis.set_ylabel(_plain(names[1]) if names else "", fontsize=8)
    return _drawn(figure)


def _fullest(points: NDArray[Any], limits: Any) -> float:
    """Return how many points are in the fullest of the squares, but for a few."""
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=40, range=limits)[0]
    return max(1.0, float(np.quantile(counts[counts > 0], 0.98))) if counts.any() else 1.0


def tables_beside(real: NDArray[Any], drawn: NDArray[Any], names: Sequence[str], most: int = 16) -> Image.Image:
    """Return a histogram of each of the first numbers of vectors (n, d), drawn before real in pale, above the correlations
    of real and of drawn numbers."""
    from matplotlib.figure import Figure

    number = min(real.shape[1], most)
    columns = min(4, number)
    rows = -(-number // columns)
    upper = 0.3 + 1.6 * rows
    figure = Figure(figsize=(8.0, upper + (4.1 if number > 1 else 0)), dpi=DPI, layout="constrained")
    above, *below = figure.subfigures(1 + (number > 1), 1, height_ratios=[upper, 4.1][: 1 + (number > 1)], squeeze=False)[
        :, 0
    ]
    axes = np.ravel(above.subplots(rows, columns))
    _put_histograms(axes, drawn, names[:number], np.concatenate([real, drawn]), real)
    above.suptitle("grey: real; blue: drawn", fontsize=9)
    for part in below:
        _put_correlations(part, real, drawn, names)
    return _drawn(figure)


def _put_correlations(figure: Any, real: NDArray[Any], drawn: NDArray[Any], names: Sequence[str], most: int = 60) -> None:
    names = names[:most]
    found = {title: _correlations(values[:, :most]) for title, values in {"real": real, "drawn": drawn}.items()}
    axes = figure.subplots(1, 2)
    for axis, (title, values) in zip(axes, found.items(), strict=True):
        shown = axis.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r")
        axis.set_title(f"correlations, {title}", fontsize=9)
        places = range(len(names)) if len(names) <= 20 else []
        axis.set_xticks([])
        axis.set_yticks(places, [_plain(name) for name in names][: len(places)], fontsize=6)
    axes[1].set_yticks([])
    figure.colorbar(shown, ax=axes, shrink=0.8).ax.tick_params(labelsize=6)


def _correlations(values: NDArray[Any]) -> NDArray[Any]:
    """Return the correlations (d, d) of numbers (n, d); 0 with what is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[Any] = np.nan_to_num(np.corrcoef(values, rowvar=False))
    return found


def sounds_beside(
    real: NDArray[Any], drawn: NDArray[Any], captions: Sequence[str], rate: int | None, most: int = 6
) -> Image.Image:
    """Return the first signals (n, c, t), a column each: the wave and the spectrogram of a real one over those of a drawn
    one."""
    number = min(len(real), len(drawn), most)
    figure, axes = _figure(1.75 * number + 0.6, 5.6, 4, number)
    axes = axes.reshape(4, number)
    seconds = np.arange(real.shape[2]) / (rate or 1)
    top = float(np.quantile(np.abs(real), 0.9995)) or 1.0
    loudest = max(float(_spectrum(values[0], rate)[0].max()) for values in real[:number])
    for at in range(number):
        for row, values in ((0, real[at]), (2, drawn[at])):
            wave_axis, axis = axes[row, at], axes[row + 1, at]
            wave_axis.plot(seconds, values.T, linewidth=0.5)
            wave_axis.set(xlim=(0, seconds[-1] or 1), ylim=(-1.1 * top, 1.1 * top))
            powers, highest = _spectrum(values[0], rate)
            axis.imshow(
                powers, aspect="auto", origin="lower", extent=(0, seconds[-1] or 1, 0, highest), vmin=loudest - 70,
                vmax=loudest, cmap="magma",
            )  # fmt: skip
        axes[0, at].set_title(_plain(captions[at % len(captions)]) if captions else "", fontsize=8)
    for axis in axes[:3].ravel():
        axis.set_xticks([])
    for axis in axes[:, 1:].ravel():
        axis.set_yticks([])
    for axis, name in zip(
        axes[:, 0],
        ("real", "Hz" if rate else "cycles per value", "drawn", "Hz" if rate else "cycles per value"),
        strict=True,
    ):
        axis.set_ylabel(name, fontsize=8)
    for axis in axes.ravel():
        axis.tick_params(labelsize=6)
    axes[3, 0].set_xlabel("seconds" if rate else "values", fontsize=8)
    return _drawn(figure)


def _spectrum(values: NDArray[Any], rate: int | None) -> tuple[NDArray[Any], float]:
    """Return the powers of a signal (t,), in decibels by frequency and time, and the highest frequency."""
    from matplotlib import mlab

    window = min(256, max(4, 2 ** int(np.log2(max(len(values), 4) / 4))))
    values = np.pad(values.astype(np.float64), (0, max(0, 2 * window - len(values))))
    specgram: Any = mlab.specgram  # which numpy's annotations say little of
    powers, frequencies, _ = specgram(values, NFFT=window, Fs=rate or 1, noverlap=window * 3 // 4)
    return 10 * np.log10(np.maximum(powers, 1e-20)), float(frequencies[-1])


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

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
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
