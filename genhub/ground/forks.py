"""Work in forked processes, for what holds Python's lock and would gain nothing from threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")


def cores() -> int:
    """Return how many cores this process may use; processes that a launcher started on one machine share them."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def can_fork() -> bool:
    """Whether processes can be forked; elsewhere they start anew, and import everything again."""
    return sys.platform == "linux"


def forked(work: Callable[[int], T], count: int, processes: int) -> Iterator[T]:
    """Yield work(0), ..., work(count - 1) in order, done ahead by processes that are forked at this call.

    What a process leaves undone, as it died (of memory, say) or `work` raised something, is done here, and raised here.
    """
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(processes)]
    workers = [
        fork.Process(target=_serve, args=(work, range(first, count, processes), pipes, first), daemon=True)
        for first in range(processes)
    ]
    for worker in workers:
        worker.start()
    for _, sender in pipes:
        sender.close()

    def results() -> Iterator[T]:
        try:
            for number in range(count):
                try:
                    yield pipes[number % processes][0].recv()
                except EOFError:
                    yield work(number)
        finally:
            for receiver, _ in pipes:
                receiver.close()
            for worker in workers:
                worker.join()

    return results()


def _serve(work: Callable[[int], object], numbers: range, pipes: Sequence[tuple[Connection, Connection]], mine: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer: without it the pipe breaks
    for number, (receiver, sender) in enumerate(pipes):
        receiver.close()
        if number != mine:
            sender.close()
    try:
        for number in numbers:
            pipes[mine][1].send(work(number))
    except BaseException:  # a broken pipe: nobody wants the rest; else the parent will meet the same in its own `work`
        os._exit(1)
