"""The launchers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genhub.errors import InputError, did_you_mean, shown
from genhub.ground.parsing import TextSource, apply_override
from genhub.jobs.launcher import Launcher
from genhub.jobs.local import LocalLauncher

LAUNCHERS = ("local", "slurm", "ray")


def launcher_named(name: str, options: Sequence[str], *, folder: Path, at_once: int) -> Launcher:
    """Return a launcher.

    Args:
        name: local, slurm or ray.
        options: `key=value`, for the cluster: what a job needs.
        folder: the folder that the launcher may keep files of its own in.
        at_once: number of jobs that will run at a time.
    Raises:
        InputError: no launcher has that name, it does not take such an option, or it can't be had here.
    """
    if name not in LAUNCHERS:
        raise InputError(f"--launcher: can't be {shown(name)}; {did_you_mean(name, LAUNCHERS)}")
    given = _read(options)
    if name == "slurm":
        from genhub.jobs.slurm import SlurmLauncher

        return SlurmLauncher(given, folder / "slurm")
    if name == "ray":
        from genhub.jobs.ray import RayLauncher

        return RayLauncher(given)
    if given:
        raise InputError(f"--launcher-option: {next(iter(given))}: this machine takes none; --launcher slurm or ray does")
    return LocalLauncher(at_once)


def _read(options: Sequence[str]) -> Mapping[str, Any]:
    values: dict[str, Any] = {}
    for option in options:
        apply_override(values, option, TextSource("--launcher-option"), origin="--launcher-option")
    return values
