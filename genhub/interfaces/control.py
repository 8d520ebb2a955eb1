"""Controls by which a person says a value: what a page shows for a condition, told by its modality alone. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from genhub.ground.brief import Brief


@dataclass(frozen=True, repr=False)
class Choice(Brief):
    """Control for one of a few values, each by the text that `Modality.ask` reads."""

    names: tuple[str, ...]

    def examples(self, most: int) -> list[str]:
        """Return at most so many of the names, evenly spaced."""
        return [self.names[at * len(self.names) // most] for at in range(most)] if len(self.names) > most else [*self.names]


@dataclass(frozen=True)
class Slider:
    """Control for a number within a range, in the column's own units."""

    low: float
    high: float

    def examples(self, most: int) -> list[float]:
        """Return at most so many numbers from low to high, evenly spaced; of one, the middle."""
        at = [index / (most - 1) for index in range(most)] if most > 1 else [0.5]
        return list(dict.fromkeys(float(f"{self.low + share * (self.high - self.low):.3g}") for share in at))


@dataclass(frozen=True, repr=False)
class Line(Brief):
    """Control for a line of text that `Modality.ask` reads."""

    example: str = ""
    """Text that can be asked for; "": none is known."""

    def examples(self, most: int) -> list[str]:
        """Return the example, if there is one."""
        return [self.example] if self.example else []


@dataclass(frozen=True, repr=False)
class Upload(Brief):
    """Control for a file whose path `Modality.ask` reads."""

    endings: tuple[str, ...]
    """Endings of files that it takes: (".png", ".jpg")."""

    def examples(self, most: int) -> list[str]:
        """Return nothing: no file is known."""
        return []


Control = Choice | Slider | Line | Upload
"""Any of the controls."""
