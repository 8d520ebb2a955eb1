"""Compare models: their cost of training and of sampling, and their stored figures, each with its protocol."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from genhub.errors import InputError
from genhub.evaluation.protocol import Evaluation, figure_text, has_older_figures, stored_evaluations
from genhub.ground.brief import line
from genhub.ground.parsing import TextSource, parse_yaml, read_text
from genhub.ground.run_log import read_metrics
from genhub.hub.named import NamedModel
from genhub.interfaces.section import NonNegativeInt, Section
from genhub.store.manifest import MANIFEST, read_manifest
from genhub.store.run_folder import RECIPE, RunFolder

REAL = "real rows"
"""Name of the row of a table that has the figures of real rows in the drawn ones' place."""


class ModelRow(Section):
    """One model in a comparison."""

    name: str
    """The model as the user named it."""
    checkpoint: Path
    model: str
    steps: NonNegativeInt
    rows_seen: NonNegativeInt | None = None
    """Rows seen in training: steps times the batch size."""
    seconds: float | None = None
    """Seconds of training up to the last line logged, without previews and saves."""
    evaluations: tuple[Evaluation, ...] = ()
    """Evaluations of these weights, oldest first."""
    notes: tuple[str, ...] = ()
    """Lines on what is damaged or can't be shown."""

    @property
    def run(self) -> RunFolder | None:
        """The run's folder, for a checkpoint in one."""
        return RunFolder.of(self.checkpoint)


class Comparison(Section):
    rows: tuple[ModelRow, ...]
    notes: tuple[str, ...] = ()
    """Lines on figures that don't compare, with the reason, and on models without any."""

    def shown(self) -> list[Evaluation | None]:
        """Return one evaluation a model: the newest by the protocol that most models have in common, else its newest."""
        newest_first = [evaluation for row in self.rows for evaluation in reversed(row.evaluations)]
        common = max(newest_first, key=lambda base: sum(bool(_alike(row, base)) for row in self.rows), default=None)
        return [(_alike(row, common) or row.evaluations or (None,))[-1] if common else None for row in self.rows]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return column names, and a row of text a model; a figure of another protocol than the first model's has a mark.
        The last row, if there are any, is of as many real rows in the place of the drawn ones."""
        shown = self.shown()
        names = list(dict.fromkeys(name for found in shown if found for name in found.values))
        base = next((found for found in shown if found), None)
        lines = []
        for row, found in zip(self.rows, shown, strict=True):
            mark = " *" if found and base and found.protocol.differences(base.protocol) else ""
            figures = [
                figure_text(found.values[name], found.intervals.get(name)) + mark if found and name in found.values else ""
                for name in names
            ]
            trained = [figure_text(value) for value in (row.rows_seen, row.seconds)]
            lines.append([row.name, row.model, figure_text(row.steps), *trained, *figures])
        if floor := self.floor():
            lines.append([REAL, "", "", "", "", *(figure_text(floor.get(name)) for name in names)])
        return ["run", "model", "steps", "rows seen", "seconds", *names], lines

    def __repr__(self) -> str:
        return line(type(self).__name__, *(row.name for row in self.rows))

    def _repr_html_(self) -> str:
        """Return the page of `genhub compare --out x.html` as a notebook's cell has it."""
        from genhub.evaluation.page import cell, parts

        return cell(parts(self))

    def floor(self) -> dict[str, float]:
        """Return the figures of real rows in the drawn ones' place, of the protocol that the first model was measured by."""
        shown = [found for found in self.shown() if found]
        alike = [found for found in shown if not found.protocol.differences(shown[0].protocol)]
        return {name: value for found in reversed(alike) for name, value in found.floor.items()}

    def figure_notes(self) -> Iterator[str]:
        """Yield notes on the figures shown, each once with all models that it holds for."""
        concerned: dict[str, list[str]] = {}
        for row, found in zip(self.rows, self.shown(), strict=True):
            for note in found.notes if found else ():
                concerned.setdefault(note, []).append(row.name)
        for note, names in concerned.items():
            yield note if len(names) == len(self.rows) else f"{', '.join(names)}: {note}"


def _alike(row: ModelRow, base: Evaluation) -> tuple[Evaluation, ...]:
    """Return a model's evaluations that compare with another one."""
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
    notes = [note for row in rows for note in row.notes]
    evaluated = [(row.name, found) for row, found in zip(rows, Comparison(rows=rows).shown(), strict=True) if found]
    for name, found in evaluated[1:]:
        first, base = evaluated[0]
        if differs := found.protocol.differences(base.protocol):
            notes.append(f"* {name} was measured differently from {first}, in: {', '.join(differs)}")
    return Comparison(rows=rows, notes=tuple(notes))


def read_row(name: str) -> ModelRow:
    return NamedModel(name).read(partial(_row, name))


def _row(name: str, checkpoint: Path) -> ModelRow:
    manifest = read_manifest(checkpoint) if (checkpoint / MANIFEST).is_file() else None
    steps, evaluations, notes = manifest.step if manifest else 0, stored_evaluations(checkpoint), []
    if not evaluations:
        older = has_older_figures(checkpoint)
        known = "its figures don't say what weights they are of" if older else "no figures are stored of it"
        notes.append(f"{name}: {known}: genhub evaluate {name}")
    row = ModelRow(
        name=name,
        checkpoint=checkpoint,
        model=manifest.plugin.name if manifest else "",
        steps=steps,
        rows_seen=_rows_seen(checkpoint, steps),
        evaluations=tuple(evaluations),
    )
    lines, fault = read_metrics(row.run.metrics) if row.run else ([], None)
    seconds = [line["seconds"] for line in lines if line["step"] <= steps and math.isfinite(line.get("seconds", math.nan))]
    notes += [fault] if fault else []
    return row.model_copy(update={"seconds": seconds[-1] if seconds else None, "notes": tuple(notes)})


def _rows_seen(checkpoint: Path, steps: int) -> int | None:
    """Return steps times the batch size, which can't change in a run."""
    file = checkpoint / RECIPE
    data = parse_yaml(read_text(file), TextSource(str(file))).get("data") if file.is_file() else None
    batch_size = data.get("batch_size") if isinstance(data, dict) else None
    return steps * batch_size if isinstance(batch_size, int) else None
