"""Results computed from real data once and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from genhub.errors import GenhubError
from genhub.ground.console import warn
from genhub.ground.disk import made_once
from genhub.ground.weights import is_sealed, load_sealed, save_sealed

Computed = tuple[Mapping[str, Tensor], Mapping[str, str]]
"""Tensors by name, and notes."""


def kept(file: Path, compute: Callable[[], Computed]) -> Computed:
    """Return the result of `compute`, read from a file of the cache if that is there and undamaged. Where the cache can't
    be written to, it is computed each time."""

    def make(temporary: Path) -> None:
        tensors, notes = compute()
        save_sealed(tensors, temporary, **notes)

    try:
        return load_sealed(made_once(file, make, there=is_sealed))
    except GenhubError as error:
        if type(error) is not GenhubError:  # of the data, and not of the disk
            raise
        warn(f"{error}; it is computed each time")
        return compute()
