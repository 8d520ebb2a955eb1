"""Points of the plane from a known density, drawn by NumPy from a seed that the split's name gives."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from genhub.data.raw import Classes, Source, of_arrays, parts_of
from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig

NUM_ROWS = 10_000
SPLITS = ("train", "test")
Points = NDArray[np.float64]
Labels = NDArray[np.int64]


def moons(n: int, random: Generator) -> tuple[Points, Labels]:
    """Return points of two half circles that reach into each other, with noise of 0.1."""
    label = random.integers(0, 2, n)
    angle = random.uniform(0, np.pi, n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    return np.where(label[:, None] == 0, upper, lower) + random.normal(0, 0.1, (n, 2)), label


def circles(n: int, random: Generator) -> tuple[Points, Labels]:
    """Return points of two circles about 0, of radius 1 and 0.5, with noise of 0.05."""
    label = random.integers(0, 2, n)
    angle = random.uniform(0, 2 * np.pi, n)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return circle * np.where(label == 0, 1.0, 0.5)[:, None] + random.normal(0, 0.05, (n, 2)), label


def checkerboard(n: int, random: Generator) -> tuple[Points, Labels]:
    """Return points spread evenly over the 8 dark squares of a board of 4 x 4 in [-2, 2]; the class is the row."""
    row, column = random.integers(0, 4, n), random.integers(0, 2, n)
    corner = np.stack([2 * column + row % 2, row], axis=1)
    return corner + random.uniform(0, 1, (n, 2)) - 2, row


def gaussians(n: int, random: Generator) -> tuple[Points, Labels]:
    """Return points of 8 Gaussians of deviation 0.1, evenly spaced on a circle of radius 2."""
    label = random.integers(0, 8, n)
    angle = label * (np.pi / 4)
    return 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + random.normal(0, 0.1, (n, 2)), label


DENSITIES: dict[str, Callable[[int, Generator], tuple[Points, Labels]]] = {
    "moons": moons, "circles": circles, "checkerboard": checkerboard, "gaussians": gaussians,
}  # fmt: skip
NUMBER_OF_CLASSES = {"moons": 2, "circles": 2, "checkerboard": 4, "gaussians": 8}


def points(config: DataConfig) -> Source:
    """Return columns `point` (2,) and `label`: of the splits train and test, which are different draws of so many rows."""
    assert isinstance(config.name, str)
    n = config.num_rows or NUM_ROWS
    parts = parts_of(dict.fromkeys(SPLITS, n), config)
    drawn = [_drawn(config.name, split, n) for split, _ in parts]
    point = np.concatenate([values[part] for (values, _), (_, part) in zip(drawn, parts, strict=True)])
    label = np.concatenate([values[part] for (_, values), (_, part) in zip(drawn, parts, strict=True)])
    if not len(point):
        raise DataError(f"data.name: {config.title} has no rows in split {config.split}")
    names = tuple(map(str, range(NUMBER_OF_CLASSES[config.name])))
    arrays = {"point": point.astype(np.float32), "label": np.array(names, dtype=object)[label]}
    whole = config.model_copy(update={"split": "train"})
    source = of_arrays(arrays, whole, {"label": Classes(names)})
    return Source(source.columns, SPLITS)


def _drawn(name: str, split: str, n: int) -> tuple[Points, Labels]:
    return DENSITIES[name](n, np.random.Generator(np.random.PCG64([crc32(name.encode()), crc32(split.encode())])))
