"""A grid of overrides of one recipe: each point a run of its own, which the same command resumes or passes over."""

from __future__ import annotations

import hashlib
import itertools
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from genhub.console import shown
from genhub.errors import InputError
from genhub.launch import command_line
from genhub.logs import say
from genhub.recipe import read_recipe

MOST_RUNS = 1000
LONGEST = 200
"""Bytes of a run's name, most file systems having room for 255: files beside the run's folder have longer ones."""


@dataclass(frozen=True)
class Point:
    """One combination of values."""

    overrides: tuple[str, ...]
    run_dir: Path


def sweep(recipe: str, settings: Sequence[str], *, folder: str | None = None, jobs: int = 1) -> tuple[list[Path], list[str]]:
    """Train every combination of the settings' values, `jobs` at a time, each in a process and a folder of its own.

    Args:
        recipe: a file or a shipped recipe's name.
        settings: `key.path=values`: values with commas between them, or a range of whole numbers such as 0..4.
        folder: where the runs' folders go; left out: the recipe's own run_dir, with `-sweep` behind.
    Returns:
        The folders of the runs that are done, in the grid's order, and a line for each that failed.
    Raises:
        RecipeError: a combination is no valid recipe; nothing has been trained then.
        InputError: a setting has no values, or there are too many combinations.
    """
    points = grid(recipe, settings, folder)
    for point in points:
        read_recipe(recipe, point.overrides, str(point.run_dir))
    say(f"Sweep    {len(points)} runs, {jobs} at a time")
    with ThreadPoolExecutor(jobs) as pool:
        faults = list(pool.map(lambda point: _train(recipe, point), points))
    done = [point.run_dir for point, fault in zip(points, faults, strict=True) if fault is None]
    return done, [fault for fault in faults if fault is not None]


def grid(recipe: str, settings: Sequence[str], folder: str | None = None) -> list[Point]:
    """All combinations of the settings' values, in order, the last setting changing fastest."""
    axes = [[f"{key}={value}" for value in values] for key, values in map(_values, settings)]
    combinations = list(itertools.islice(itertools.product(*axes), MOST_RUNS + 1))
    if len(combinations) > MOST_RUNS:
        raise InputError(f"--set: more than {MOST_RUNS} combinations")
    base = Path(folder or read_recipe(recipe).run_dir + "-sweep")
    return [Point(overrides, base / _folder_name(overrides)) for overrides in combinations]


def _values(setting: str) -> tuple[str, list[str]]:
    """`lr=1e-4,3e-4` to its key and values; commas within brackets or quotes belong to a value."""
    key, equals, text = setting.partition("=")
    if not equals or not key.strip() or not text.strip():
        raise InputError(f"--set: {shown(setting)} must look like key.path=value,value or key.path=0..4")
    numbers = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", text.strip())
    if numbers:
        first, last = map(int, numbers.groups())
        if first > last or last - first >= MOST_RUNS:
            raise InputError(f"--set: {shown(setting)}: a range goes up, by at most {MOST_RUNS}")
        return key.strip(), [str(number) for number in range(first, last + 1)]
    return key.strip(), [part.strip() for part in re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|'[^']*'|\"[^\"]*\"|[^,])+", text)]


def _folder_name(overrides: Sequence[str]) -> str:
    """The overrides as a folder's name: each key's last word with its value, without what a file system minds."""
    words = [f"{key.rpartition('.')[2]}={value}" for key, _, value in (override.partition("=") for override in overrides)]
    name = re.sub(r"[^\w.=+,-]+", "_", ",".join(words)).strip("_") or "run"
    if len(name.encode()) > LONGEST:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name.encode()[: LONGEST - 13].decode(errors='ignore')}-{digest}"
    return name


def _train(recipe: str, point: Point) -> str | None:
    """Train one point, its output in train.log beside its run's folder; what went wrong, if anything did."""
    point.run_dir.parent.mkdir(parents=True, exist_ok=True)
    log = point.run_dir.with_suffix(point.run_dir.suffix + ".log")
    command = [*command_line(), "train", recipe, *point.overrides, "--run-dir", str(point.run_dir)]
    with log.open("a") as stream:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT).returncode
    lines = log.read_text().splitlines()
    if code == 0:
        say(f"done     {point.run_dir}")
        return None
    return f"{point.run_dir}: exit code {code}: {lines[-1] if lines else 'it said nothing'} (all of it: {log})"
