"""Garbage collection that keeps out of the way of a command's imports. No torch here."""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_SELDOM = (100_000, 50, 100)


def look_for_garbage_seldom() -> None:
    """Have Python look for garbage every 100,000 new objects, for a command's own process that still imports: this makes
    half a million objects and hardly any garbage, and to look as often as usual takes a quarter of its time."""
    gc.set_threshold(*_SELDOM)


def look_for_garbage_as_usual() -> None:
    """End what `look_for_garbage_seldom` began; all objects that are there by now are never looked at again. For what stays
    long or holds much: training, drawing, a server, jobs."""
    if gc.get_threshold() == _SELDOM:
        gc.freeze()
        gc.set_threshold(*_USUAL)


def look_for_garbage_no_more() -> None:
    """Have a process that ends leave all that it holds to the system, which takes it back at once: Python's last looks
    through half a million objects take as long as a tenth of their imports."""
    gc.freeze()
