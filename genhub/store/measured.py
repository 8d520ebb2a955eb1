"""Figures of a repository's model, in its metrics.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from genhub.errors import CheckpointError, first_fault
from genhub.interfaces.section import Section
from genhub.store.manifest import Word, read_json

MEASURED = "metrics.json"
"""File in a repository with the figures of its model, a list of `Measured`."""


class Measured(Section):
    """A figure of a model, with everything that it depends on."""

    name: Word
    value: float
    interval: tuple[float, float] | None = None
    """Ends of its 95% interval; None: it has none."""
    floor: float | None = None
    """The same figure of as many real rows in the drawn ones' place; None: it was not measured."""
    data: str = ""
    """Name of the real rows that it was measured beside; "" in what an older genhub wrote, where the protocol has it."""
    split: str = ""
    """Their split."""
    protocol: dict[str, Any]
    """Extractor, real split, counts, seed, sampler: numbers of different protocols don't compare. `weights` are those that
    it was measured on, `notes` what a reader must know."""


def read_measured(folder: Path) -> tuple[Measured, ...]:
    """Return the figures in a repository's metrics.json; none without the file.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not (folder / MEASURED).is_file():
        return ()
    try:
        return TypeAdapter(tuple[Measured, ...]).validate_python(read_json(folder / MEASURED))
    except ValidationError as error:
        raise CheckpointError(f"{folder / MEASURED}: damaged: {first_fault(error)}") from error
