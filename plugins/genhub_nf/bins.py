"""Bins: how values with levels are spread out for a density, and how a density becomes bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genhub import Generators, Modality, randn


class Bins:
    """Bins of the values of a modality, side by side, each as wide as two values are apart.

    A discrete value has no density: a flow would give it an endless one. Filled evenly, its bin has one, and -log of that is
    in expectation an upper bound of -log of the value's probability (Theis et al. 2016, eq. 6). Values of a modality without
    levels stay as they are.
    """

    def __init__(self, modality: Modality, levels: int | None) -> None:
        self.modality = modality
        self.levels = None if modality.levels is None else levels or modality.levels
        """Number of values that there really are; None: x is continuous."""
        self.low, self.high = modality.bounds or (-math.inf, math.inf)

    def width(self, levels: int) -> float:
        """Return the width of a bin of so many values, in a batch's units."""
        return (self.high - self.low) / (levels - 1)

    def filled(self, x: Tensor) -> Tensor:
        """Return x (n, *shape) somewhere in the bins of its values, evenly."""
        return x if self.levels is None else x + self.width(self.levels) * (torch.rand_like(x) - 0.5)

    def filled_by(self, x: Tensor, generator: Generators) -> Tensor:
        """Return x somewhere in the bins of the modality's own values, by a sampler's randomness."""
        if self.modality.levels is None:
            return x
        even: Tensor = torch.special.ndtr(randn(tuple(x.shape), generator, x.device))
        return x + self.width(self.modality.levels) * (even - 0.5)

    def to_unit(self, x: Tensor) -> Tensor:
        """Return x as u in [0, 1], where all bins together are."""
        assert self.levels is not None
        return ((x - self.low) / (self.high - self.low) * (self.levels - 1) + 0.5) / self.levels

    def from_unit(self, u: Tensor) -> Tensor:
        """Return the inverse of `to_unit`."""
        assert self.levels is not None
        return (u * self.levels - 0.5) / (self.levels - 1) * (self.high - self.low) + self.low

    def trained_bits(self, log_density: Tensor, size: int) -> Tensor:
        """Return (n,) bits a number, for log-densities in nats of elements of `size` numbers in their filled bins."""
        return self._bits(log_density, size, self.levels)

    def bits(self, log_density: Tensor, size: int) -> Tensor:
        """Return (n,) bits a number in the column's own values: `Likelihood`."""
        return self._bits(log_density, size, self.modality.levels)

    def _bits(self, log_density: Tensor, size: int, levels: int | None) -> Tensor:
        nats = -log_density + (self.modality.log_scale if levels is None else -size * math.log(self.width(levels)))
        return nats / (size * math.log(2))
