"""Text for people: escape it, cut it to a line and print it. Nothing else in genhub prints.

Names and values may come from strangers: their models, recipes and files. What a terminal would act on, or hide, is
written as an escape, so that no value can move the cursor, forge a line or fill the screen. No torch here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from genhub.errors import one_line
from genhub.ground.processes import first_to_say, main_process

_aside = False


@contextmanager
def aside() -> Iterator[None]:
    """Say everything on stderr meanwhile: stdout is for a program, which reads JSON there."""
    global _aside
    _aside = True
    try:
        yield
    finally:
        _aside = False


def put(*lines: str, stream: TextIO | None = None) -> None:
    """Print lines, each of which stays one, on stdout if nothing else is said."""
    stream = stream or (sys.stderr if _aside else sys.stdout)
    stream.write("\n".join(map(one_line, lines)) + "\n")  # at once, as other processes write there, too
    stream.flush()


EVERY = 30.0
"""Seconds between the lines of a long piece of work that prints nothing else."""


REDRAWN = 0.2
"""Seconds between two states of a bar in a notebook, each of which is a message to the browser."""


def notebook_display() -> Any:
    """Return IPython's `display` in the kernel of a notebook; None elsewhere. A kernel has IPython: nothing is imported."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return ipython.display.display if ipython and hasattr(shell, "kernel") else None


class Progress:
    """Report of how far a long piece of work is: a bar on a terminal and in a notebook, elsewhere a line at each `report`;
    and between, now and then, one on stderr, as stdout may be a file for figures."""

    def __init__(self, total: int, done: int = 0, unit: str = "step", shown: bool = True) -> None:
        self.total, self.unit, self.shown = total, unit, shown
        self._start = self._told = time.perf_counter()
        self._first = done
        self._bar = self._cell = None
        display = notebook_display()
        if shown and not _aside and (display or sys.stdout.isatty()):
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            count, text = TextColumn("{task.completed}/{task.total}"), TextColumn("{task.description}", markup=False)
            self._bar = Bar(count, BarColumn(), TimeRemainingColumn(), text)
            self._task = self._bar.add_task("", total=total, completed=done)
            if display:
                self._cell = display(self._bar, display_id=True)  # one line, drawn again in its place
            else:
                self._bar.start()

    def advance(self, done: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=done)
            self._redraw()
        elif self.shown and time.perf_counter() - self._told >= EVERY:
            self._told = time.perf_counter()
            put(f"{self.unit} {done}/{self.total}  {self._left(done)}", stream=sys.stderr)

    def report(self, done: int, text: str) -> None:
        """Say `text` about the state at `done`."""
        if self._bar:
            self._bar.update(self._task, completed=done, description=one_line(text))
            self._redraw()
        elif self.shown:
            self._told = time.perf_counter()
            say(f"{self.unit} {done}/{self.total}  {text}  {self._left(done)}")

    def _left(self, done: int) -> str:
        left = (time.perf_counter() - self._start) / max(1, done - self._first) * (self.total - done)
        return f"{duration(left)} left"

    def _redraw(self, at_once: bool = False) -> None:
        """Draw the bar in a notebook again; one on a terminal is drawn by a thread."""
        if self._cell and (at_once or time.perf_counter() - self._told >= REDRAWN):
            self._told = time.perf_counter()
            self._cell.update(self._bar)

    def close(self) -> None:
        if self._cell:
            self._redraw(at_once=True)
        elif self._bar:
            self._bar.stop()


def say(text: str) -> None:
    """Print a line, once however many processes a launcher started."""
    if main_process():
        put(text)


def warn(text: str) -> None:
    """Print a line to stderr, once however many processes a launcher started here say it."""
    if first_to_say(text):
        put(f"genhub: {text}", stream=sys.stderr)


def duration(seconds: float) -> str:
    """
    >>> duration(75)
    '1 min 15 s'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
