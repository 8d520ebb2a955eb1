"""Randomness as a function of what is being done, never of what was done before.

A run's random state is not saved anywhere: each step, epoch and image derives its own seed from its numbers, so a run
that stops and starts again draws what it would have drawn (the idea is NVlabs/edm2's training loop).
"""

from __future__ import annotations

import numpy as np


def seed_for(*numbers: int) -> int:
    """A 63-bit seed that depends on all `numbers` (non-negative), well mixed: nearby numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
