"""Fold neighbouring values of x into channels, so that a network has fewer places to work on, and back."""

from __future__ import annotations

from torch import Tensor


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
