"""Jobs on this machine: a process each, in a session of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from genhub.ground.forks import cores
from genhub.jobs.launcher import Job, Launcher

SET_PDEATHSIG = 1
"""PR_SET_PDEATHSIG, of Linux's prctl."""


class LocalLauncher(Launcher):
    """This machine. Jobs that run at once share its cores."""

    def __init__(self, at_once: int) -> None:
        # Threads of one job wait by spinning, on cores that another would use. One job alone has what a run has.
        share = {"OMP_NUM_THREADS": str(max(1, cores() // at_once))} if at_once > 1 else {}
        self.environment = share | os.environ
        """Environment of the jobs; what the user has set holds."""

    def start(self, command: Sequence[str], log: Path) -> Job:
        return LocalJob(start_process(command, log, self.environment))


class LocalJob(Job):
    """A process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def code(self) -> int | None:
        return self._process.poll()

    def stop(self, number: int) -> None:
        self._process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


def start_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str], folder: str | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that adds what it prints to a file. It is in a session of its own, as a Ctrl-C that reached it from
    the terminal, too, would be its second signal, which doesn't save; if this process dies, it is told by a SIGTERM."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
            preexec_fn=_before_it_starts(),
        )


def _before_it_starts() -> Callable[[], None] | None:
    """Return what a process does before it starts: ask Linux to tell it of its parent's death, and pass over a signal that
    Slurm sends to all processes of a job, and that is for the one that waits for it."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(SET_PDEATHSIG, signal.SIGTERM)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    return prepare
