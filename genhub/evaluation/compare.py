"""Models side by side: what they cost to train and to sample, and their stored figures, each with its protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from genhub.config import NonNegativeInt, Section
from genhub.errors import InputError
from genhub.evaluation.protocol import Evaluation, stored_evaluations
from genhub.hub import open_model
from genhub.manifest import FILE, read_manifest


class Row(Section):
    """One model."""

    name: str
    """As the user gave it."""
    checkpoint: Path
    model: str
    steps: NonNegativeInt
    images: NonNegativeInt | None = None
    """Seen in training: steps times the batch size."""
    seconds: float | None = None
    """Of training, without previews and saves."""
    evaluations: tuple[Evaluation, ...] = ()
    """Oldest first."""

    @property
    def run(self) -> Path | None:
        """The run's folder, for a checkpoint in one."""
        return self.checkpoint.parent.parent if self.checkpoint.parent.name == "checkpoints" else None


class Comparison(Section):
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """Which figures don't compare, and why; which models have none."""

    def shown(self) -> list[Evaluation | None]:
        """Of each model, the newest of its evaluations that was made as most models have one, else its newest."""
        newest_first = [evaluation for row in self.rows for evaluation in reversed(row.evaluations)]
        common = max(newest_first, key=lambda base: sum(bool(_alike(row, base)) for row in self.rows), default=None)
        return [(_alike(row, common) or row.evaluations or (None,))[-1] if common else None for row in self.rows]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Column names, and a row of text a model; a figure of another protocol than the first model's has a mark."""
        shown = self.shown()
        names = list(dict.fromkeys(name for found in shown if found for name in found.values))
        base = next((found for found in shown if found), None)
        lines = []
        for row, found in zip(self.rows, shown, strict=True):
            mark = " *" if found and base and found.protocol.differences(base.protocol) else ""
            figures = [_number(found.values[name]) + mark if found and name in found.values else "" for name in names]
            trained = ["" if value is None else _number(value) for value in (row.images, row.seconds)]
            lines.append([row.name, row.model, _number(row.steps), *trained, *figures])
        return ["run", "model", "steps", "images seen", "seconds", *names], lines


def _alike(row: Row, base: Evaluation) -> tuple[Evaluation, ...]:
    """A model's evaluations that compare with another one."""
    return tuple(found for found in row.evaluations if not found.protocol.differences(base.protocol))


def compare(models: Sequence[str | Path]) -> Comparison:
    """Gather what is stored of each model; nothing is drawn or computed.

    Args:
        models: what `genhub.load` takes.
    Raises:
        InputError: fewer than one model.
        CheckpointError: one is not there, or what is stored of it is damaged.
    """
    if not models:
        raise InputError("compare: name at least one model")
    rows = tuple(read_row(str(model)) for model in models)
    notes = [f"{row.name}: no figures are stored of it: genhub evaluate {row.name}" for row in rows if not row.evaluations]
    evaluated = [(row.name, found) for row, found in zip(rows, Comparison(rows=rows).shown(), strict=True) if found]
    for name, found in evaluated[1:]:
        first, base = evaluated[0]
        if differs := found.protocol.differences(base.protocol):
            notes.append(f"* {name} was measured differently from {first}, in: {', '.join(differs)}")
    return Comparison(rows=rows, notes=tuple(notes))


def read_row(name: str) -> Row:
    return open_model(name, partial(_row, name))


def _row(name: str, checkpoint: Path) -> Row:
    manifest = read_manifest(checkpoint) if (checkpoint / FILE).is_file() else None
    steps = manifest.step if manifest else 0
    row = Row(
        name=name, checkpoint=checkpoint, model=manifest.plugin.name if manifest else "", steps=steps,
        evaluations=tuple(stored_evaluations(checkpoint)),
    )  # fmt: skip
    lines = read_metrics(row.run / "metrics.jsonl") if row.run else []
    trained = [line for line in lines if line["step"] <= steps and "seconds" in line]
    if not trained:
        return row
    last = trained[-1]
    seen = round(last["epoch"] * manifest.data.num_images) if manifest and manifest.data and "epoch" in last else None
    return row.model_copy(update={"seconds": last["seconds"], "images": seen})


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a line that a killed run left unfinished is dropped."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:,.4g}"
