"""Handling of Ctrl-C and SIGTERM in verbs that draw: they stop, and say how to go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from genhub.errors import Interrupted


@contextmanager
def stopped_with(what: str) -> Iterator[None]:
    """End the work inside at once on a signal, and say `what` is left of it.

    Raises:
        Interrupted: a signal came.
    """
    came = signal.SIGINT

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = signal.Signals(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped by {came.name}; {what}", came) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
