"""The curves of a run's log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genhub.errors import InputError
from genhub.ground.console import warn
from genhub.ground.disk import check_files
from genhub.ground.run_log import read_metrics
from genhub.interfaces.view import View
from genhub.store.run_folder import RunFolder
from genhub.views import canvas
from genhub.views.canvas import escape
from genhub.views.viewed import Viewed


class Losses(View):
    """Curves of all that each phase of a run logged in its metrics.jsonl."""

    of_log = True

    def shows_rows(self, subject: Viewed, options: Mapping[str, Any]) -> bool:
        return False

    def draw(self, subject: Viewed) -> Image.Image:
        file = metrics_file(subject)
        assert file is not None
        check_files(file.parent, file.name)
        curves: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
        for step, key, value in _logged(file):
            phase, _, name = key.partition("/")
            steps, values = curves.setdefault(phase, {}).setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
        if not curves:
            raise InputError(f"{file}: nothing is logged yet")
        last = max(steps[-1] for row in curves.values() for steps, _ in row.values())
        rows = {
            escape(phase): {escape(name): (np.array(steps), np.array(values)) for name, (steps, values) in row.items()}
            for phase, row in curves.items()
        }
        return canvas.curves(f"{subject.title}: the run's log", f"a row a phase; to step {last:,}", rows)


def metrics_file(subject: Viewed) -> Path | None:
    """Return a run's log, for its folder or a checkpoint in it."""
    if subject.folder is None:
        return None
    folder = subject.folder.resolve()
    file = (RunFolder.of(folder) or RunFolder(folder)).metrics
    return file if file.is_file() else None


def _logged(file: Path) -> Iterator[tuple[int, str, float]]:
    """Yield (step, phase/key, value) of what a phase logged; what is damaged is said and left out."""
    lines, fault = read_metrics(file)
    if fault:
        warn(fault)
    for line in lines:
        yield from ((int(line["step"]), key, value) for key, value in line.items() if "/" in key)
