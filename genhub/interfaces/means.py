"""Means of training, time and device, by which parts choose the sizes that suit them. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Means:
    """Time, device and data that a recipe is written for."""

    minutes: float
    """Minutes of training."""
    accelerator: bool = False
    """Whether there is a GPU or the like; else a CPU of a few cores."""
    rows: int = 0
    """Rows of the data; 0: nobody has counted them."""

    @property
    def few_rows(self) -> bool:
        """Whether a network of some size could learn the rows by heart."""
        return 0 < self.rows < 5000
