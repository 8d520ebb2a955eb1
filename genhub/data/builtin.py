"""Data that come with scikit-learn, read from its files: importing it takes longer than all else here."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genhub.data.raw import Classes, Formula, Numbers, Source, of_arrays
from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig

WINE = (
    "alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids",
    "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines", "proline",
)  # fmt: skip
"""The numbers of the wine data, as scikit-learn calls them."""


def _file(name: str, config: DataConfig) -> Path:
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"data.name: {config.title} come with scikit-learn, which is not installed: pip install scikit-learn"
        )
    return Path(spec.submodule_search_locations[0], "datasets", "data", name)


def digits(config: DataConfig) -> Source:
    """Return the 1,797 digits: `image` (8, 8) of 0 to 255, `label`, and `ink`, the mean of the 16 levels in [0, 1]."""
    table = np.loadtxt(_file("digits.csv.gz", config), delimiter=",", dtype=np.int64)
    names = tuple("0123456789")
    arrays = {
        "image": np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8),
        "label": np.array(names, dtype=object)[table[:, -1]],
        "ink": table[:, :-1].mean(1) / 16,
    }
    return of_arrays(arrays, config, {"label": Classes(names)}, {"ink": Formula("image", _ink)})


def _ink(images: NDArray[Any]) -> NDArray[Any]:
    """Return the mean of 8-bit pixels (n, ...), of any size, in [0, 1]."""
    ink: NDArray[Any] = images.reshape(len(images), -1).mean(1) / 255
    return ink


def wine(config: DataConfig) -> Source:
    """Return the 178 wines: 13 numbers by name, all of them in one vector `features`, and `label`, the grower."""
    table = np.loadtxt(_file("wine_data.csv", config), delimiter=",", skiprows=1)
    names = ("class_0", "class_1", "class_2")
    arrays = {"features": table[:, :-1], "label": np.array(names, dtype=object)[table[:, -1].astype(np.int64)]}
    numbers = {name: table[:, number] for number, name in enumerate(WINE)}
    return of_arrays(arrays | numbers, config, {"features": Numbers(WINE), "label": Classes(names)})


BUILT_IN: dict[str, Callable[[DataConfig], Source]] = {"digits": digits, "wine": wine}
