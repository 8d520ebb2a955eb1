"""What Ctrl-C and SIGTERM do to a verb that draws: it says whether the same command goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from genhub.errors import Interrupted


@contextmanager
def stopped_with(what: str) -> Iterator[None]:
    """Meanwhile a signal ends the work at once, and is said with `what` is left of it.

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
