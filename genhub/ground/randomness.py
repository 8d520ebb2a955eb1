"""Seeds, generators and noise: a sampler's randomness, with one generator an image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from torch import Tensor

Generators = torch.Generator | list[torch.Generator] | None
"""Source of a sampler's randomness: one generator for all images, or one an image, as in diffusers' pipelines."""


class Between(torch.Generator):
    """Generator between two others: `randn` draws noise from both, and goes `share` of the way from the first
    to the second. What else is drawn from it, such as a sampler's noise at each step, does not depend on `share`."""

    def __new__(cls, first: torch.Generator, second: torch.Generator, share: float, seed: int) -> Self:
        return super().__new__(cls)

    def __init__(self, first: torch.Generator, second: torch.Generator, share: float, seed: int) -> None:
        self.first, self.second, self.share = first, second, share
        self.manual_seed(seed)


def randn(shape: tuple[int, ...], generator: Generators = None, device: torch.device | str | None = None) -> Tensor:
    """Return standard normal noise. With a list of generators, one for each of shape[0] images, an image's noise is its own
    generator's alone; noise is drawn where the generator is, so that a CPU's draws the same on every device."""
    if isinstance(generator, list):
        return torch.cat([randn((1, *shape[1:]), one) for one in generator]).to(device)  # all in one copy
    if isinstance(generator, Between):  # slerp (Shoemake 1985) for vectors at a right angle, as independent noise is:
        angle = generator.share * math.pi / 2  # what comes out is standard normal, too
        first, second = randn(shape, generator.first, device), randn(shape, generator.second, device)
        return math.cos(angle) * first + math.sin(angle) * second
    return torch.randn(shape, generator=generator, device=generator.device if generator else device).to(device)


SAMPLE_STREAM = 2**32
"""Number that keeps the seeds of images apart from those of training steps."""


def generators(seed: int, indices: Iterable[int]) -> list[torch.Generator]:
    """Return the generators of the images with these numbers."""
    return [torch.Generator().manual_seed(seed_for(seed, SAMPLE_STREAM, index)) for index in indices]


BLOCK = 64


def seed_for(*numbers: int) -> int:
    """Return a 63-bit seed that depends on all `numbers` (non-negative), well mixed: nearby numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_in_turn(*numbers: int) -> int:
    """Return `seed_for(*numbers)` for a last number that counts up. 64 seeds are computed at a time: one at a time slows
    small steps."""
    *before, number = numbers
    return _block(*before, number // BLOCK)[number % BLOCK]


@lru_cache(maxsize=4)
def _block(*numbers: int) -> list[int]:
    *before, block = numbers
    return [seed_for(*before, block * BLOCK + index) for index in range(BLOCK)]


CHOICE_STREAM = 2**32 + 1
"""Number that keeps the choice of real images apart from the seeds of drawn ones."""
