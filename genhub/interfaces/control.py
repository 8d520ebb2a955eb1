"""Controls by which a person says a value: what a page shows for a condition, told by its modality alone. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from genhub.ground.brief import Brief


@dataclass(frozen=True, repr=False)
class Choice(Brief):
    """Control for one of a few values, each by the text that `Modality.ask` reads."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Slider:
    """Control for a number within a range, in the column's own units."""

    low: float
    high: float


@dataclass(frozen=True, repr=False)
class Line(Brief):
    """Control for a line of text that `Modality.ask` reads."""

    example: str = ""
    """Text that can be asked for; "": none is known."""


@dataclass(frozen=True, repr=False)
class Upload(Brief):
    """Control for a file whose path `Modality.ask` reads."""

    endings: tuple[str, ...]
    """Endings of files that it takes: (".png", ".jpg")."""


Control = Choice | Slider | Line | Upload
"""Any of the controls."""
