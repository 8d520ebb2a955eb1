"""A job on another machine of a cluster, which shares the disk with this one: what is done there, and how it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genhub.ground.disk import append
from genhub.jobs.local import start_process

LOOK = 0.5
"""Seconds between two looks at whether a job is to stop."""


def stop_file(log: Path) -> Path:
    """Return the file with a line for each signal that a job is to be passed. A file, as a cluster's own ways to end a job
    kill it, or signal all its processes, and two signals are one too many."""
    return log.with_name(log.name + ".stop")


class RemoteCommand:
    """A command line, called on the machine where it is to run. It is this that submitit and ray carry there."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command, self._log, self._folder = list(command), log.absolute(), str(Path.cwd())
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run it, and return its exit code; as SIGTERM would have it, if it was to stop before it began."""
        if self._signals():
            return 128 + signal.SIGTERM
        self._process = start_process(self._command, self._log, os.environ, self._folder)
        passed = 0
        while self._process.poll() is None:
            if self._signals() > passed:
                passed += 1
                self._process.terminate()
            time.sleep(LOOK)
        return int(self._process.returncode)

    def checkpoint(self) -> Any:
        """Save, as the job's time is over, and return what Slurm is to run when it has time again: the same, which goes on.
        submitit calls this, at Slurm's signal."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None  # which nobody can carry
        return DelayedSubmission(self)

    def _signals(self) -> int:
        file = stop_file(self._log)
        return file.read_bytes().count(b"\n") if file.is_file() else 0


def ask_to_stop(log: Path) -> None:
    """Ask a job that may run elsewhere to stop."""
    append(stop_file(log), "stop")
