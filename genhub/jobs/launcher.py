"""Interface of a `Launcher`, which runs command lines somewhere, and of the `Job` that it makes of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path


class Job(ABC):
    """A command line that a launcher has taken."""

    @abstractmethod
    def code(self) -> int | None:
        """Return its exit code; None while it runs or waits for its turn. It is asked often, and answers at once."""

    @abstractmethod
    def stop(self, number: int) -> None:
        """Pass on a signal: at the first one a training saves and ends, at the second it ends at once."""


class Launcher(ABC):
    """A place where command lines run, each in the current folder, with what it prints added to a file."""

    look: float = 0.05
    """Seconds between two looks at the jobs."""

    @abstractmethod
    def start(self, command: Sequence[str], log: Path) -> Job:
        """Start a command line, or put it into a queue.

        Raises:
            GenhubError: the place does not take it.
        """

    def close(self) -> None:  # noqa: B027
        """Let go of the place, when no job is left."""
