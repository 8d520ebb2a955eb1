"""A grid of overrides of one recipe: each point a run of its own, which the same command resumes or passes over."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from genhub.errors import InputError, Interrupted, shown
from genhub.ground.console import say, warn
from genhub.ground.digests import hash_of
from genhub.ground.forks import cores
from genhub.ground.processes import command_line
from genhub.recipe.recipe import read_recipe

MOST_RUNS = 1000
LONGEST = 200
"""Most bytes of a run's name: most file systems have room for 255, and files beside the run's folder have longer ones."""
STOPPING = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])


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
        Interrupted: a signal came; the runs have saved.
    """
    points = grid(recipe, settings, folder)
    for point in points:
        read_recipe(recipe, point.overrides, str(point.run_dir))
    jobs = min(jobs, len(points))
    say(f"Sweep    {len(points)} runs, {jobs} at a time")
    running = Running(jobs)
    with running.stopped_by_signals(), ThreadPoolExecutor(jobs) as pool:
        faults = list(pool.map(lambda point: _train(recipe, point, running), points))
    if running.stopped:
        raise Interrupted("stopped; the same command goes on with what is not done", running.stopped)
    done = [point.run_dir for point, fault in zip(points, faults, strict=True) if fault is None]
    return done, [fault for fault in faults if fault is not None]


class Running:
    """Processes that train now. A signal is passed on to each, once: they are in sessions of their own, as a Ctrl-C that
    reached them from the terminal, too, would be their second, which doesn't save."""

    def __init__(self, jobs: int) -> None:
        self.stopped = 0
        """Number of the signal that came, after which no process is started; 0 for none."""
        self._processes = set[subprocess.Popen[bytes]]()
        self._lock = threading.RLock()
        # Threads of one job wait by spinning, on cores that another would use. One job alone has what a run has.
        share = {"OMP_NUM_THREADS": str(max(1, cores() // jobs))} if jobs > 1 else {}
        self._environment = share | os.environ

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Pass a signal that comes meanwhile to the processes, and go on when they have saved."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in STOPPING}
        for number, handler in before.items():
            if handler != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, self._stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        with self._lock:
            self.stopped = self.stopped or number
            for process in self._processes:
                process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        warn(f"{signal.Signals(number).name}: the runs finish their step and save (once more: stop at once)")

    def run(self, command: Sequence[str], output: TextIO) -> int | None:
        """Run a command and return its exit code; None if it was not started."""
        with self._lock:
            if self.stopped:
                return None
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
            self._processes.add(process)
        code = process.wait()
        with self._lock:
            self._processes.remove(process)
        return code


def grid(recipe: str, settings: Sequence[str], folder: str | None = None) -> list[Point]:
    """Return all combinations of the settings' values, in order, the last setting changing fastest."""
    keys = dict(map(_values, settings))
    if len(keys) < len(settings):
        raise InputError("--set: a key is given twice; put its values into one, with commas between them")
    axes = [[f"{key}={value}" for value in values] for key, values in keys.items()]
    combinations = list(itertools.islice(itertools.product(*axes), MOST_RUNS + 1))
    if len(combinations) > MOST_RUNS:
        raise InputError(f"--set: more than {MOST_RUNS} combinations")
    base = Path(folder or read_recipe(recipe).run_dir + "-sweep")
    return [Point(overrides, base / _folder_name(overrides)) for overrides in combinations]


def _values(setting: str) -> tuple[str, list[str]]:
    """Split `lr=1e-4,3e-4` into its key and values; commas within brackets or quotes belong to a value."""
    key, equals, text = setting.partition("=")
    if not equals or not key.strip() or not text.strip():
        raise InputError(f"--set: {shown(setting)} must look like key.path=value,value or key.path=0..4")
    numbers = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", text.strip())
    if numbers:
        first, last = map(int, numbers.groups())
        if first > last or last - first >= MOST_RUNS:
            raise InputError(f"--set: {shown(setting)}: a range goes up, by at most {MOST_RUNS}")
        return key.strip(), [str(number) for number in range(first, last + 1)]
    values = [part for part in map(str.strip, _split(text)) if part]
    return key.strip(), list(dict.fromkeys(values))


def _split(text: str) -> Iterator[str]:
    """Yield the parts of a text between commas that are not within brackets or quotes.

    >>> list(_split("train[:900],[[1, 2], '3,'],x"))
    ['train[:900]', "[[1, 2], '3,']", 'x']
    """
    part, depth, quote = "", 0, ""
    for char in text:
        if char == "," and not depth and not quote:
            yield part
            part = ""
            continue
        part += char
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        else:
            depth = max(0, depth + (char in "[{(") - (char in ")}]"))
    yield part


def _folder_name(overrides: Sequence[str]) -> str:
    """Return the overrides as a folder's name: each key's last word with its value, without what a file system minds. What
    can't be told by that, as it has lost characters, is told by a digest of the text."""
    words = [f"{key.rpartition('.')[2]}={value}" for key, _, value in (override.partition("=") for override in overrides)]
    text = ",".join(words)
    name = re.sub(r"[^\w.=+,-]+", "_", text).encode()[:LONGEST].decode(errors="ignore").strip("_")
    return name if name == text else f"{name}-{hash_of(text)[:8]}"


def _train(recipe: str, point: Point, running: Running) -> str | None:
    """Train one point, its output in train.log beside its run's folder; return what went wrong, if anything did."""
    point.run_dir.parent.mkdir(parents=True, exist_ok=True)
    log = point.run_dir.with_suffix(point.run_dir.suffix + ".log")
    command = [*command_line(), "train", recipe, *point.overrides, "--run-dir", str(point.run_dir)]
    with log.open("a") as stream:
        code = running.run(command, stream)
    lines = log.read_text("utf-8", "replace").splitlines()
    if code == 0:
        say(f"done     {point.run_dir}")
        return None
    return f"{point.run_dir}: exit code {code}: {lines[-1] if lines else 'it said nothing'} (all of it: {log})"
