"""Run command lines, so many at a time, and pass the signals that come meanwhile on to them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Generic, Protocol, TypeVar

from genhub.ground.console import warn
from genhub.ground.garbage import look_for_garbage_as_usual
from genhub.jobs.launcher import Job, Launcher

STOPPING = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])


class CommandLine(Protocol):
    """Words of a command, and the file for what it prints."""

    @property
    def command(self) -> Sequence[str]: ...

    @property
    def log(self) -> Path:
        """The file that what it prints is added to."""


C = TypeVar("C", bound=CommandLine)


class Jobs(Generic[C]):
    """Command lines that run on a launcher, `at_once` at a time.

    A signal is passed on to each, once, and the command lines that have not begun don't: `stopped` says so. Whoever leaves
    the `with` block by an exception stops what runs, too, and waits for it.
    """

    def __init__(self, launcher: Launcher, at_once: int) -> None:
        self.stopped = 0
        """Number of the signal that came; 0 for none."""
        self._launcher, self._at_once = launcher, at_once
        self._running: list[tuple[C, Job]] = []
        self._came: list[int] = []
        """Signals to pass on. The handler does no more than note them: it may come while a job is being started."""
        self._before: dict[int, signal.Handlers | int | Callable[[int, FrameType | None], object] | None] = {}

    def __enter__(self) -> Jobs[C]:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in STOPPING}
            for number, handler in self._before.items():
                if handler != signal.SIG_IGN:  # as nohup has it
                    signal.signal(number, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        try:
            if self._running:
                self._came.append(signal.SIGTERM)
                self.stopped = self.stopped or signal.SIGTERM
                for _ in self.run([]):
                    pass
            self._launcher.close()
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.stopped = self.stopped or number
        self._came.append(number)
        warn(f"{signal.Signals(number).name}: the runs finish their step and save (once more: stop at once)")

    def run(self, lines: Iterable[C], watch: Callable[[Sequence[C]], None] | None = None) -> Iterator[tuple[C, int]]:
        """Yield each command line with its exit code when it has ended.

        Args:
            lines: asked for the next one when there is room for it.
            watch: called now and then with those that run, which it may `stop`.
        """
        look_for_garbage_as_usual()
        waiting, more = iter(lines), True
        while True:
            while more and not self.stopped and len(self._running) < self._at_once:
                line = next(waiting, None)
                more = line is not None
                if line is not None:
                    self._running.append((line, self._launcher.start(line.command, line.log)))
            while self._came:
                number = self._came.pop(0)
                for _, job in self._running:
                    job.stop(number)
            ended = [(line, job, code) for line, job in self._running if (code := job.code()) is not None]
            for line, job, code in ended:
                self._running.remove((line, job))
                yield line, code
            if not self._running and (self.stopped or not more):
                return
            if not ended:
                if watch:
                    watch([line for line, _ in self._running])
                time.sleep(self._launcher.look)

    def stop(self, line: C) -> None:
        """Stop one that runs, as SIGTERM does."""
        for running, job in self._running:
            if running is line:
                job.stop(signal.SIGTERM)


def last_line(log: Path) -> str:
    """Return the last line of a log, for messages."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.is_file() else []
    return lines[-1] if lines else "it said nothing"
