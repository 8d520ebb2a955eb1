"""Jobs of a Slurm cluster, through submitit."""

from __future__ import annotations

import logging
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genhub.errors import GenhubError, InputError, did_you_mean, shown
from genhub.ground.disk import append, write_whole
from genhub.ground.extras import import_extra
from genhub.jobs.launcher import Job, Launcher
from genhub.jobs.remote import RemoteCommand, ask_to_stop, stop_file

ASK = 10.0
"""Seconds between two questions to Slurm's queue."""
CLUSTERS = ("slurm", "local")
"""Clusters that submitit knows; local: processes on this machine, to try it out."""
COMMON = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "name", "slurm_partition", "slurm_account", "slurm_qos",
          "slurm_constraint", "slurm_signal_delay_s", "slurm_additional_parameters", "slurm_setup")  # fmt: skip
"""Parameters of submitit's that a wrong name may have been meant for."""
HOUR = 60
"""Minutes that a job has at a time, where no option says otherwise; then it saves, and goes back into the queue."""
OFTEN = 10**6
"""Number of times that a job whose time is over goes back into the queue: as often as it takes."""


class SlurmLauncher(Launcher):
    """A Slurm cluster, whose machines have this disk. A job's number is kept beside its log, so that a sweep that was killed
    finds the jobs that it had put into the queue."""

    look = 0.5

    def __init__(self, options: Mapping[str, Any], folder: Path) -> None:
        """
        Args:
            options: `cluster`, slurm if left out, or local; all others are submitit's parameters, such as timeout_min.
            folder: for submitit's own files.
        Raises:
            InputError: no such option, submitit is missing, or there is no Slurm here.
        """
        submitit = import_extra("submitit", "slurm", "--launcher slurm")
        logging.getLogger("submitit").setLevel(logging.ERROR)
        parameters = dict(options)
        self.cluster = parameters.pop("cluster", "slurm")
        if self.cluster not in CLUSTERS:
            raise InputError(f"--launcher-option: cluster: can't be {shown(self.cluster)}; {did_you_mean('', CLUSTERS)}")
        own: dict[str, Any] = {f"{self.cluster}_python": f"{shlex.quote(sys.executable)} -P"}
        try:
            self._executor = submitit.AutoExecutor(folder, self.cluster, **own, **{f"{self.cluster}_max_num_timeout": OFTEN})
        except RuntimeError as error:
            raise InputError("--launcher slurm: there is no Slurm here; start it on a machine of the cluster") from error
        try:
            self._executor.update_parameters(**{"timeout_min": HOUR} | parameters)
        except NameError as error:
            odd = next((name for name in parameters if name not in COMMON), "")
            raise InputError(f"--launcher-option: submitit has no parameter {odd}; {did_you_mean(odd, COMMON)}") from error
        except (AssertionError, ValueError, TypeError) as error:
            raise InputError(f"--launcher-option: {' '.join(str(error).split())}") from error
        self._submitit = submitit
        self._queue, self._asked = set[str](), -ASK

    def start(self, command: Sequence[str], log: Path) -> Job:
        number = log.with_name(log.name + ".job")
        if number.is_file() and self.cluster == "slurm" and number.read_text() in self._in_queue():
            job = self._submitit.SlurmJob(self._executor.folder, number.read_text())
            return SlurmJob(job, log, self._in_queue)
        stop_file(log).unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            job = self._executor.submit(RemoteCommand(command, log))
        except Exception as error:  # submitit's own errors have no common class
            raise GenhubError(f"--launcher slurm: the job was not taken: {' '.join(str(error).split())}") from error
        write_whole(number, job.job_id)
        self._asked -= ASK  # so that the next answer knows of it
        return SlurmJob(job, log, self._in_queue if self.cluster == "slurm" else None)

    def _in_queue(self) -> set[str]:
        """Return the numbers of this user's jobs that wait or run, as they were at most `ASK` seconds ago."""
        if time.monotonic() - self._asked >= ASK:
            asked = subprocess.run(["squeue", "--me", "--noheader", "--format=%i"], capture_output=True, text=True)
            if asked.returncode == 0:  # else it has too much to do
                self._queue = set(asked.stdout.split())
                self._asked = time.monotonic()
        return self._queue


class SlurmJob(Job):
    """A job of submitit's. Its exit code is what submitit stores for it; one that ended otherwise is not in the queue."""

    def __init__(self, job: Any, log: Path, queue: Callable[[], set[str]] | None) -> None:
        self._job, self._log, self._queue = job, log, queue
        self._seen: set[str] | None = None
        self._stopping = False

    def code(self) -> int | None:
        if self._job.paths.result_pickle.exists() or (self._queue is None and self._job.done()):
            return self._result()
        if self._queue is None or (queue := self._queue()) is self._seen:
            return None
        missed, self._seen = self._seen, queue
        if self._job.job_id in queue:
            if self._stopping:  # it may have gone back into the queue
                self._leave_queue()
            return None
        if missed is None or self._job.job_id in missed:  # not yet there, or just ended: the disk may be slow
            return None
        if not self._stopping:
            append(self._log, f"Slurm's job {self._job.job_id} has ended without a result; see {self._job.paths.stderr}")
        return 128 + signal.SIGTERM

    def _result(self) -> int:
        fault = self._job.exception()
        if fault is None:
            return int(self._job.result())
        append(self._log, str(fault).strip().rpartition("\n")[2])
        return 1

    def stop(self, number: int) -> None:
        self._stopping = True
        ask_to_stop(self._log)
        if self._queue is not None:
            self._leave_queue()

    def _leave_queue(self) -> None:
        subprocess.run(["scancel", "--state=PENDING", self._job.job_id], capture_output=True)
