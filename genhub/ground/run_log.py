"""A run's metrics.jsonl: the log that a trainer writes it with, and its lines read back. No torch at import."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genhub.errors import TrainingError
from genhub.ground.console import Progress, warn
from genhub.ground.disk import append, saving, sync, write_whole

if TYPE_CHECKING:
    from torch import Tensor

Entry = tuple[int, str, dict[str, float]]
"""(step, phase, values)"""


class RunLog:
    """Log of a run: the losses since the last line, metrics.jsonl, the clock, and the console's progress.

    Losses stay on the device until a line is due: no step waits for them. Only the main process (`writes`) has files.
    """

    def __init__(self, file: Path, total: int, batch_size: int, start: int, writes: bool) -> None:
        self.file = file
        self.entries: list[Entry] = []
        """Losses since the last line, as far as `fetch` has brought them over; a checkpoint keeps them."""
        self.seconds_before = 0.0
        """Training time of earlier parts of the run."""
        self.left_out: list[tuple[int, str]] = []
        """(step, phase) of the updates that were not applied because something in them was not finite."""
        self.waiting: list[tuple[int, str, dict[str, Tensor]]] = []
        """Losses added since the last `fetch`, still on the device."""
        self._batch_size, self._start, self._writes = batch_size, start, writes
        self._begun = False
        self._clock = self._lap = time.perf_counter()
        self._lap_step = start
        self.progress = Progress(total, start, shown=writes)

    def add(self, step: int, phase: str, values: Mapping[str, Tensor]) -> None:
        # Copies, because a network may write into what it returned: the next replay of a CUDA graph does.
        self.waiting.append((step, phase, {key: value.detach().clone() for key, value in values.items()}))

    def take_back(self, step: int, phase: str) -> None:
        """Forget what a phase added in this step."""
        self.waiting = [entry for entry in self.waiting if entry[:2] != (step, phase)]

    def fetch(self) -> None:
        """Bring the waiting values over, in one copy."""
        import torch

        tensors = [value.float().reshape(()) for _, _, values in self.waiting for value in values.values()]
        if tensors:
            numbers = iter(torch.stack(tensors).tolist())
            self.entries += [(step, phase, {key: next(numbers) for key in values}) for step, phase, values in self.waiting]
        self.waiting = []

    def first_not_finite(self) -> tuple[int, str, str, float] | None:
        """Return (step, phase, key, value) of the first fetched value that is NaN or infinite."""
        each = ((step, phase, key, value) for step, phase, values in self.entries for key, value in values.items())
        return next((entry for entry in each if not math.isfinite(entry[3])), None)

    def means(self) -> dict[str, float]:
        """Return the mean over the window of each `phase/key`."""
        lists: dict[str, list[float]] = {}
        for _, phase, values in self.entries:
            for key, value in values.items():
                lists.setdefault(f"{phase}/{key}", []).append(value)
        return {name: math.fsum(values) / len(values) for name, values in lists.items()}

    @property
    def seconds(self) -> float:
        """Return the seconds of training, over all parts of an interrupted run; previews and saves don't count."""
        return self.seconds_before + time.perf_counter() - self._clock

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        gone = time.perf_counter() - started
        self._clock, self._lap = self._clock + gone, self._lap + gone

    def line(self, step: int, values: Mapping[str, float], losses: Mapping[str, float]) -> dict[str, float]:
        """Write a line of metrics.jsonl and show the losses; returns all values."""
        now = time.perf_counter()
        speed = (step - self._lap_step) * self._batch_size / max(now - self._lap, 1e-9)
        self._lap, self._lap_step = now, step
        everything = {**losses, **values, "seconds": round(self.seconds, 3), "rows_per_second": round(speed, 1)}
        if self._writes:
            with saving(self.file):
                self._begin()
                append(self.file, json.dumps({"step": step, **everything}))
        shown = [f"{name} {value:.4g}" for name, value in losses.items() if name.endswith("/loss")]
        self.progress.report(step, "  ".join([*shown, f"{speed:,.0f} rows/s"]))
        return everything

    def check_finite(self) -> None:
        """
        Raises:
            TrainingError: a value since the last line is NaN or infinite.
        """
        self.fetch()
        bad = self.first_not_finite()
        if bad:
            step, phase, key, value = bad
            raise TrainingError(f"step {step + 1}, phase '{phase}': {key} is {value}; a lower learning rate may help")

    def write(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Write a line with the means of what was added since the last one, for a trainer of one process."""
        self.check_finite()
        means, self.entries = self.means(), []
        return self.line(step, values, means)

    def sync(self) -> None:
        """Have the lines on the disk, before a checkpoint that counts on them is."""
        if self._writes:
            with saving(self.file):
                self._begin()
                sync(self.file)

    def close(self) -> None:
        self.progress.close()

    def _begin(self) -> None:
        """Make metrics.jsonl ready for more lines, before the first one: a run that fails in its first step leaves none. A
        resumed run drops those that its checkpoint hasn't seen."""
        if self._begun:
            return
        lines = list(_lines(self.file)) if self._start else []
        if fault := _left_out(self.file, lines):
            warn(fault)
        seen = (text + b"\n" for _, text, line in lines if line and line["step"] <= self._start)
        write_whole(self.file, b"".join(seen))
        self._begun = True


def read_metrics(file: Path) -> tuple[list[dict[str, float]], str | None]:
    """Return the lines of a run's metrics.jsonl, each with a whole number as its `step`; and, in a line to be said, which
    were left out because they are damaged."""
    lines = list(_lines(file))
    return [line for _, _, line in lines if line], _left_out(file, lines)


def _lines(file: Path) -> Iterator[tuple[int, bytes, dict[str, float] | None]]:
    """Yield (number, text, content) of each line of a metrics.jsonl; None is the content of a damaged one. A last line that
    is not whole is being written, and is left out."""
    *lines, last = file.read_bytes().split(b"\n") if file.is_file() else [b""]
    for number, text in enumerate(lines, start=1):
        if text.strip():
            yield number, text, line_content(text)
    if content := line_content(last):
        yield len(lines) + 1, last, content


def line_content(text: bytes) -> dict[str, float] | None:
    """Return the content of a line of metrics.jsonl, a step and numbers by name, finite or not; None for anything
    else."""
    try:
        line = json.loads(text.decode())
        step, others = line["step"], {name: value for name, value in line.items() if name != "step"}
        whole = type(step) is int and 0 <= step < 2**63  # a bool is an int, too
        if not whole or not all(type(value) in (int, float) for value in others.values()):
            return None
        return {"step": step} | {name: float(value) for name, value in others.items()}
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return None  # whatever a crash of the machine has made of it


def _left_out(file: Path, lines: Iterable[tuple[int, bytes, dict[str, float] | None]]) -> str | None:
    return damage(file, [number for number, _, line in lines if line is None])


def damage(file: Path, damaged: Sequence[int]) -> str | None:
    """Return the line to be said of a log's damaged lines, by their numbers; None if there are none."""
    if not damaged:
        return None
    others = f", and {len(damaged) - 1} later ones" if len(damaged) > 1 else ""
    return f"{file}: line {damaged[0]} is damaged{others}; left out"
