"""Fold neighbouring values of x into channels, so that a network has fewer places to work on, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def patch_for(sides: Sequence[int], most: int) -> int:
    """Return the side of a patch, the smallest power of two that leaves at most so many, or the largest that divides all
    sides.

    >>> patch_for((28, 28), 64), patch_for((8, 8), 64), patch_for((30, 30), 16)
    (4, 1, 2)
    """
    patch = 1
    while math.prod(sides) > most * patch ** len(sides) and all(side % (2 * patch) == 0 for side in sides):
        patch *= 2
    return patch


def folded(x: Tensor, patch: int) -> Tensor:
    """Return x (n, c, *sides) with `patch` neighbours of each side in channels: (n, c * patch^sides, *sides / patch)."""
    n, c, *sides = x.shape
    if patch == 1:
        return x
    parts = x.reshape(n, c, *(number for side in sides for number in (side // patch, patch)))
    inner, outer = range(3, 3 + 2 * len(sides), 2), range(2, 2 + 2 * len(sides), 2)
    return parts.permute(0, 1, *inner, *outer).reshape(n, -1, *(side // patch for side in sides))


def unfolded(x: Tensor, patch: int) -> Tensor:
    """Return the inverse of `folded`."""
    n, channels, *sides = x.shape
    if patch == 1:
        return x
    parts = x.reshape(n, channels // patch ** len(sides), *(patch for _ in sides), *sides)
    pairs = (at for side in range(len(sides)) for at in (2 + len(sides) + side, 2 + side))
    return parts.permute(0, 1, *pairs).reshape(n, -1, *(side * patch for side in sides))
