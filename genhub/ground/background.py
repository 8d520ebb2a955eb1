"""Work on a thread of its own. No torch here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")

_WORKS: WeakSet[Future[Any]] = WeakSet()


def in_background(work: Callable[[], T], name: str, daemon: bool = False) -> Future[T]:
    """Return what a function will have returned or raised, called on a thread of its own.

    Args:
        name: the thread's, for who looks at the process.
        daemon: whether Python ends without waiting for it. A thread that uses torch can't be one: Python aborts where such
            a thread comes back from C++ while it ends, and to free a tensor is enough.
    """
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    _WORKS.add(future)
    threading.Thread(target=call, name=name, daemon=daemon).start()
    return future


def at_work() -> bool:
    """Whether something still runs in the background: a command that is to end now has to end at once."""
    return any(not future.done() for future in list(_WORKS))
