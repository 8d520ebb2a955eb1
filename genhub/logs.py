"""What a run says: metrics.jsonl, and lines or a progress bar for the person who waits."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Window:
    """The losses since the last log line. They stay on the device until someone asks: no step waits for them."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, str, dict[str, Tensor]]] = []
        self.entries: list[tuple[int, str, dict[str, float]]] = []
        """(step, phase, values) for every phase that ran; `fetch` brings it up to date."""

    def add(self, step: int, phase: str, values: Mapping[str, Tensor]) -> None:
        self._waiting.append((step, phase, {key: value.detach() for key, value in values.items()}))

    def fetch(self) -> None:
        """Bring the waiting values over in one copy."""
        tensors = [value.float().reshape(()) for _, _, values in self._waiting for value in values.values()]
        if not tensors:
            return
        numbers = iter(torch.stack(tensors).tolist())
        self.entries += [(step, phase, {key: next(numbers) for key in values}) for step, phase, values in self._waiting]
        self._waiting = []

    def first_not_finite(self) -> tuple[int, str, str, float] | None:
        """(step, phase, key, value) of the first value that is NaN or infinite."""
        for step, phase, values in self.entries:
            for key, value in values.items():
                if not math.isfinite(value):
                    return step, phase, key, value
        return None

    def means(self) -> dict[str, float]:
        """`phase/key` to the mean over `entries`."""
        sums: dict[str, list[float]] = {}
        for _, phase, values in self.entries:
            for key, value in values.items():
                sums.setdefault(f"{phase}/{key}", []).append(value)
        return {name: math.fsum(values) / len(values) for name, values in sums.items()}


class MetricsFile:
    """metrics.jsonl: one JSON object a log step. A resumed run first drops the lines that its checkpoint hasn't seen."""

    def __init__(self, path: Path, resume_step: int) -> None:
        lines = path.read_text().splitlines(keepends=True) if resume_step and path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= resume_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        os.replace(temporary, path)
        self._stream = path.open("a", buffering=1)

    def write(self, values: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(values) + "\n")

    def close(self) -> None:
        self._stream.close()


class Progress:
    """Tells how far a long piece of work is: a bar on a terminal, a line at each `report` elsewhere."""

    def __init__(self, total: int, done: int = 0, unit: str = "step", shown: bool = True) -> None:
        self.total, self.unit, self.shown = total, unit, shown
        self._start, self._first = time.perf_counter(), done
        self._bar = None
        if shown and sys.stdout.isatty():
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.completed}/{task.total}"), BarColumn(), TimeRemainingColumn(),
                       TextColumn("{task.description}"))  # fmt: skip
            self._bar = Bar(*columns)
            self._bar.start()
            self._task = self._bar.add_task("", total=total, completed=done)

    def advance(self, done: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=done)

    def report(self, done: int, text: str) -> None:
        """Say `text` about the state at `done`."""
        if self._bar:
            self._bar.update(self._task, completed=done, description=text)
        elif self.shown:
            left = (time.perf_counter() - self._start) / max(1, done - self._first) * (self.total - done)
            say(f"{self.unit} {done}/{self.total}  {text}  {duration(left)} left")

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


def say(text: str) -> None:
    """Print a line, once however many processes a launcher started."""
    if main_process():
        print(text, flush=True)


def main_process() -> bool:
    """Whether this is the launcher's first process; known before torch.distributed is set up."""
    return os.environ.get("RANK", "0") == "0"


def warn(text: str) -> None:
    print(f"genhub: {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """
    >>> duration(75)
    '1 min 15 s'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def metrics_text(means: Mapping[str, float], images_per_second: float, names: Sequence[str] = ("loss",)) -> str:
    """The values worth a glance: each phase's loss and the speed."""
    shown = [f"{name} {value:.4g}" for name, value in means.items() if name.rpartition("/")[2] in names]
    return "  ".join([*shown, f"{images_per_second:,.0f} images/s"])
