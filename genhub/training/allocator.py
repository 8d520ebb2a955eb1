"""Keep the memory that is freed in one step and asked for in the next: glibc gives large pieces back to the system, which
hands them out again a page fault at a time, zeroed. On a network with large activations that is up to a third of a step."""

from __future__ import annotations

import ctypes
import sys
import time

from genhub.ground.console import say

if sys.platform != "win32":
    import resource

FIRST, STEPS = 3, 8
"""Steps before page faults are counted, as the first ones fill caches and optimizers; and steps that are counted."""
SECONDS_A_FAULT = 2e-6
SHARE = 0.01
"""Share of a step's time that faults must take before anything is changed."""
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>


class FreedMemory:
    """Have the allocator keep what is freed for the next step, where the steps show that it pays (`trainer.keep_memory`).

    Results don't depend on it. Only glibc is told; another allocator, or another system, is left as it is.
    """

    def __init__(self, keep: bool | None) -> None:
        """Keep it from now on, never, or (None) if page faults slow the first steps."""
        self._steps = 0 if keep is None and sys.platform == "linux" else FIRST + STEPS
        self._faults, self._started = 0, 0.0
        if keep:
            keep_freed_memory()

    def after_step(self) -> None:
        """Count page faults; to be called after every step."""
        if self._steps >= FIRST + STEPS:
            return
        self._steps += 1
        if self._steps == FIRST:
            self._faults, self._started = page_faults(), time.perf_counter()
        elif self._steps == FIRST + STEPS:
            faults, seconds = page_faults() - self._faults, time.perf_counter() - self._started
            if faults * SECONDS_A_FAULT > SHARE * seconds and keep_freed_memory():
                say(f"Memory   freed memory is kept for the next step: {faults // STEPS:,} page faults a step before")


def page_faults() -> int:
    """Return how many pages the system has given this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def keep_freed_memory() -> bool:
    """Have glibc's malloc neither map large pieces one by one nor give freed ones back; return whether it does."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    wanted = {MMAP_THRESHOLD: 2**30, TRIM_THRESHOLD: -1, TOP_PAD: 2**26}
    return all(libc.mallopt(key, value) for key, value in wanted.items())  # type: ignore[union-attr]
