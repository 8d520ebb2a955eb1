"""One run of a sweep: its overrides, its folder, and the command line that trains it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genhub.ground.digests import hash_of
from genhub.ground.processes import command_line
from genhub.jobs.jobs import last_line

LONGEST = 200
"""Most bytes of a run's name: most file systems have room for 255, and files beside the run's folder have longer ones."""


@dataclass(frozen=True)
class Point:
    """One combination of values."""

    recipe: str
    overrides: tuple[str, ...]
    run_dir: Path

    @property
    def command(self) -> list[str]:
        return [*command_line(), "train", self.recipe, *self.overrides, "--run-dir", str(self.run_dir)]

    @property
    def log(self) -> Path:
        """The file beside the run's folder with what its trainings printed."""
        return self.run_dir.with_name(self.run_dir.name + ".log")

    def fault(self, code: int) -> str:
        """Return what to say of a training that ended with an exit code other than 0."""
        return f"{self.run_dir}: exit code {code}: {last_line(self.log)} (all of it: {self.log})"


def folder_name(overrides: Sequence[str]) -> str:
    """Return the overrides as a folder's name: each key's last word with its value, without what a file system minds. What
    can't be told by that, as it has lost characters, is told by a digest of the text."""
    words = [f"{key.rpartition('.')[2]}={value}" for key, _, value in (override.partition("=") for override in overrides)]
    text = ",".join(words)
    name = re.sub(r"[^\w.=+,-]+", "_", text).encode()[:LONGEST].decode(errors="ignore").strip("_")
    return name if name == text else f"{name}-{hash_of(text)[:8]}"
