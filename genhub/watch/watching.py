"""The runs that are watched: found anew at each look, as runs begin and are deleted."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from genhub.errors import CheckpointError, one_line
from genhub.evaluation.protocol import Evaluation, Protocol, figure_text
from genhub.ground.ids import nearest_path
from genhub.store.run_folder import RunFolder
from genhub.watch.watched import NOTHING, WatchedRun

DEEPEST = 3
"""Number of folders that may lie one in another around a run: runs/my-sweep/lr=0.1 is in two."""


class Watch:
    """Runs, each known by a number while it is watched. Several threads may ask at once."""

    def __init__(self, named: Sequence[Path], waiting: bool = False) -> None:
        """Take runs, checkpoints of them, and folders of runs.

        Args:
            waiting: there need be no run yet.
        Raises:
            CheckpointError: something named is not there, or is no run and holds none.
        """
        self._named = [run.path if (run := RunFolder.of(path)) and run.is_run() else path for path in named]
        self._runs: dict[Path, WatchedRun] = {}
        self._numbers: dict[Path, int] = {}
        self._ways: list[Protocol] = []
        self._lock = threading.Lock()
        for path in [] if waiting else self._named:
            if not path.exists():
                raise CheckpointError(f"{path}: no such folder{nearest_path(path)}")
            if not any(runs_in(path)):
                raise CheckpointError(f"{path}: neither a run's folder, nor one with runs in it")

    def look(self) -> list[dict[str, Any]]:
        """Return each run's facts, with the number that it is known by."""
        with self._lock:
            self._find()
            return [facts for path, run in self._runs.items() if (facts := self._facts(path, run)) is not None]

    @contextmanager
    def run(self, number: str) -> Iterator[WatchedRun]:
        """Yield the run of a number, to this thread alone.

        Raises:
            CheckpointError: there is none any more.
        """
        with self._lock:
            found = next((run for path, run in self._runs.items() if str(self._numbers[path]) == number), None)
            if found is None:
                raise CheckpointError("there is no such run any more")
            yield found

    def _find(self) -> None:
        found = dict.fromkeys(path for named in self._named for path in runs_in(named))
        for path in found:
            self._numbers.setdefault(path, len(self._numbers))
        self._runs = {path: self._runs.get(path) or WatchedRun(path) for path in found}

    def _facts(self, path: Path, run: WatchedRun) -> dict[str, Any] | None:
        """Return a run's facts; None if it is deleted meanwhile."""
        own = {"run": self._numbers[path], "name": one_line(str(path))}
        try:
            facts = run.look()
            evaluations, faults = run.evaluations()
        except (CheckpointError, OSError) as error:
            return {**NOTHING, **own, "state": "unreadable", "said": one_line(str(error))} if path.is_dir() else None
        notes = [*facts["notes"], *map(one_line, faults)]
        return {**facts, **own, "figures": list(map(self._figures, evaluations)), "notes": notes}

    def _figures(self, one: Evaluation) -> dict[str, Any]:
        protocol = one.protocol
        return {
            "step": one.step,
            "values": {
                name: figure_text(value, one.intervals.get(name)) for name, value in one.values.items() if isfinite(value)
            },
            "way": self._way(protocol),
            "rows": protocol.n,
            "seed": protocol.seed,
            "extractor": protocol.extractor,
            "options": {key: str(value) for key, value in protocol.options.items()},
        }

    def _way(self, protocol: Protocol) -> int:
        """Return a number that is the same for figures that compare."""
        same = (number for number, way in enumerate(self._ways) if not protocol.differences(way))
        number = next(same, len(self._ways))
        if number == len(self._ways):
            self._ways.append(protocol)
        return number


def runs_in(folder: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """Yield a folder that is a run, or else the runs that are in it, in the order of their names."""
    inside: list[Path] = []
    try:
        if RunFolder(folder).is_run():
            yield folder
        elif depth and folder.is_dir():
            inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except PermissionError:  # somebody else's folder, which this user may not look into
        return
    for path in inside:
        yield from runs_in(path, depth - 1)
