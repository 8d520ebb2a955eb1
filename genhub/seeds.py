"""Randomness as a function of what is being done, never of what was done before.

A run's random state is not saved anywhere: each step, epoch and image derives its own seed from its numbers, so a run
that stops and starts again draws what it would have drawn (the idea is NVlabs/edm2's training loop).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

BLOCK = 64


def seed_for(*numbers: int) -> int:
    """A 63-bit seed that depends on all `numbers` (non-negative), well mixed: nearby numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_in_turn(*numbers: int) -> int:
    """`seed_for`, for a last number that counts up: worked out by the block, as one at a time takes a small step's
    caches."""
    *before, number = numbers
    return _block(*before, number // BLOCK)[number % BLOCK]


@lru_cache(maxsize=4)
def _block(*numbers: int) -> list[int]:
    *before, block = numbers
    return [seed_for(*before, block * BLOCK + index) for index in range(BLOCK)]
