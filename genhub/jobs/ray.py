"""Jobs on ray: a running cluster, or one that is started here."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genhub.errors import InputError, did_you_mean, shown
from genhub.ground.console import warn
from genhub.ground.disk import append
from genhub.ground.extras import import_extra
from genhub.jobs.launcher import Job, Launcher
from genhub.jobs.remote import RemoteCommand, ask_to_stop, stop_file

RESOURCES = ("num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "label_selector")
"""Options of ray's that say what a task needs."""


class RayLauncher(Launcher):
    """Ray. Each job is a task, which has the resources that the options say: num_cpus, num_gpus, memory, resources."""

    look = 0.5

    def __init__(self, options: Mapping[str, Any]) -> None:
        """
        Args:
            options: `address` of a cluster; left out: that of RAY_ADDRESS, the one that runs here, or a new one on this
                machine. All others are arguments of a task's `options`.
        Raises:
            InputError: no such option, ray is missing, or there is no cluster.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = import_extra("ray", "ray", "--launcher ray")
        resources = {"num_cpus": 1} | dict(options)
        address = resources.pop("address", None)
        try:
            self._task = ray.remote(_run).options(**resources)
        except (ValueError, TypeError) as error:
            odd = next((name for name in resources if name not in RESOURCES), None)
            reason = f"ray has no option {odd}; {did_you_mean(odd, RESOURCES)}" if odd else " ".join(str(error).split())
            raise InputError(f"--launcher-option: {reason}") from error
        try:
            _check_answers(address)
            with contextlib.chdir(sysconfig.get_path("stdlib")):  # its workers import from where it is started
                ray.init(address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"--launcher ray: {' '.join(str(error).split())}") from error
        self._ray = ray
        there = ray.cluster_resources()
        for name, kind in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            if resources.get(name, 0) > there.get(kind, 0):
                warn(f"ray has {there.get(kind, 0):g} {kind}s, and a run wants {resources[name]}: it waits for more")

    def start(self, command: Sequence[str], log: Path) -> Job:
        stop_file(log).unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        return RayJob(self._ray, self._task.remote(RemoteCommand(command, log)), log)

    def close(self) -> None:
        self._ray.shutdown()


def _check_answers(address: object) -> None:
    """
    Raises:
        OSError: nothing answers at host:port, which ray would wait for.
    """
    if isinstance(address, str) and (at := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)):
        try:
            socket.create_connection((at[1], int(at[2])), timeout=10).close()
        except OSError as error:
            raise OSError(f"nothing answers at {shown(address)}: {error.strerror or error}") from error


def _run(command: RemoteCommand) -> int:
    return command()


class RayJob(Job):
    """A task."""

    def __init__(self, ray: Any, result: Any, log: Path) -> None:
        self._ray, self._result, self._log = ray, result, log

    def code(self) -> int | None:
        done, _ = self._ray.wait([self._result], timeout=0)
        if not done:
            return None
        try:
            return int(self._ray.get(self._result))
        except self._ray.exceptions.RayError as error:
            append(self._log, " ".join(str(error).split()))
            return 1

    def stop(self, number: int) -> None:
        ask_to_stop(self._log)
