"""Look up, for the values of a batch, what belongs to each: another form of it, or what a frozen encoder made of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.ground.randomness import seed_for

WORDING_STREAM = 2**32 + 3
"""Number that keeps the choice of wordings apart from the seeds of training steps, images, choices and dropout."""


class Keys:
    """Distinct values, by which others are found among them, on any device and without waiting for it."""

    def __init__(self, values: Tensor) -> None:
        """
        Args:
            values: (d, *shape) of integers or floating point, as they are kept.
        """
        self.values = values
        numbers = _as_integers(values)
        factors = np.random.Generator(np.random.PCG64(0)).integers(-(2**63), 2**63 - 1, numbers.shape[1])
        self.factors = torch.from_numpy(factors | 1)
        self.hashes, self.order = self._hashes(numbers).sort()
        assert (self.hashes.diff() != 0).all(), "two different values have one hash of 64 bits"

    def find(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of each value (n, *shape), (n,), and whether it is there: if not, the number is another's."""
        self.factors, self.hashes, self.order = (its.to(values.device) for its in (self.factors, self.hashes, self.order))
        wanted = self._hashes(_as_integers(values))
        place = torch.searchsorted(self.hashes, wanted).clamp(max=len(self.hashes) - 1)
        return self.order[place], self.hashes[place] == wanted

    def _hashes(self, numbers: Tensor) -> Tensor:
        return (numbers * self.factors).sum(1)  # of integers, which wrap around


def _as_integers(values: Tensor) -> Tensor:
    flat = values.reshape(len(values), -1)
    return flat.view(torch.int32).long() if flat.dtype == torch.float32 else flat.long()


class Wordings:
    """Forms of a column's values, one of which a row has at each position of a run."""

    def __init__(self, forms: NDArray[Any]) -> None:
        self.forms = torch.from_numpy(forms)
        self.keys = Keys(self.forms[:, 0].contiguous())

    def of(self, kept: Tensor, positions: NDArray[np.int64], seed: int) -> Tensor:
        """Return values (n, *shape), as `read` gave them, in other forms: a function of the seed and the rows' positions."""
        self.forms = self.forms.to(kept.device)
        number, known = self.keys.find(kept)
        choice = torch.from_numpy(scattered(seed, positions) % self.forms.shape[1]).to(kept.device)
        return torch.where(known.view(-1, *[1] * (kept.ndim - 1)), self.forms[number, choice], kept)


def scattered(seed: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return well mixed numbers from 0 on, one for each position: splitmix64 (Steele et al. 2014)."""
    state = np.uint64(seed_for(seed, WORDING_STREAM)) + positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
