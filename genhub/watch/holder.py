"""Find the process that trains in a run's folder, and ask it to stop."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from genhub.ground.disk import LOCK, last_owner

LAUNCHED = "TORCHELASTIC_RUN_ID"
"""Environment variable of the processes that torch's launcher has started."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a run's folder, or may."""

    number: int
    host: str
    process: psutil.Process | None
    """The process, where it is certain that it holds the folder now; None: of another machine or another user, so that
    nobody here can tell."""

    def __str__(self) -> str:
        return f"process {self.number} on {self.host}"


def holder_of(folder: Path) -> Holder | None:
    """Return the process that holds a folder, or may; None: nobody does. The lock itself is not touched, as a run that
    starts at that moment would be refused."""
    owner = last_owner(folder)
    if owner is None:
        return None
    number, host = owner
    if host != socket.gethostname():
        return Holder(number, host, None)
    try:
        process = psutil.Process(number)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        opened = {os.path.realpath(file.path) for file in process.open_files()}
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return Holder(number, host, None)
    return Holder(number, host, process) if os.path.realpath(folder / LOCK) in opened else None


def ask_to_stop(process: psutil.Process) -> psutil.Process:
    """Ask a process that trains to save and to stop; return the one that was told: of several processes, their launcher,
    which passes it on to all of them.

    Raises:
        psutil.Error: it is gone, or is another user's.
    """
    told = _launcher(process) or process
    told.send_signal(signal.SIGTERM)
    return told


def _launcher(process: psutil.Process) -> psutil.Process | None:
    """Return the launcher of a process. One whose launcher has died has another parent, which must not be told: a launcher's
    command line ends as that of its processes does."""
    parent = process.parent() if LAUNCHED in process.environ() else None
    return parent if parent and parent.cmdline()[-2:] == process.cmdline()[-2:] else None
