"""Figures and their protocol, all that they depend on, in one file. No torch here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from filelock import FileLock
from pydantic import Field, ValidationError

from genhub.errors import CheckpointError, first_fault
from genhub.ground.brief import line
from genhub.ground.console import warn
from genhub.ground.disk import LOCK, cache_folder, saving, write_whole
from genhub.interfaces.columns import DataSpec
from genhub.interfaces.section import NonNegativeInt, PositiveInt, Section
from genhub.store.manifest import MANIFEST, TRAINER_PART, Versions, Word, file_digest, read_json, read_manifest
from genhub.store.measured import MEASURED
from genhub.store.run_folder import ANY_STEP, EVALUATIONS, STEP, RunFolder, step_name

Kept = TypeVar("Kept")
PREFIX = "evaluate/"
"""Prefix of the figures' names in metrics.jsonl, of a run that is measured while it trains."""


class Protocol(Section):
    """Everything that a number depends on besides the model. Numbers compare where their protocols are equal."""

    extractor: str
    """Name of the network whose features are compared, and the origin of its weights."""
    extractor_hash: str
    """SHA-256 of its weights and preprocessing."""
    preprocessing: str
    """Preprocessing of what it sees: size, resize filter, range."""
    reference: DataSpec
    """Spec of the real data."""
    reference_rows: PositiveInt
    """Number of rows that were compared."""
    held_out: DataSpec | None = None
    """Spec of real data that the model was not trained on."""
    n: PositiveInt
    """Number of rows drawn."""
    seed: NonNegativeInt
    """Seed of the drawing: row i depends on it and i alone."""
    conditions: Mapping[str, str | tuple[str | float | None, ...]] = {}
    """By column, what was asked for, in turn: classes by name, numbers, anything larger by its hash; or, in words, of which
    split's rows it was. Empty: a model that is given nothing."""
    options: Mapping[str, Any] = {}
    """Options of the sampler beyond the model's own Config."""
    precision: str = "float32"
    reader: str | None = None
    """SHA-256 of the classifier that read labels in what was drawn, if a metric needed it."""

    def digest(self) -> str:
        """Return a digest that is equal for equal ways of measuring."""
        text = json.dumps(self.model_dump(mode="json", exclude={"reader"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def differences(self, other: Protocol) -> list[str]:
        """Return the keys in which two ways of measuring differ; the sampler's options belong to what is measured."""
        elsewhere = {"reference": {"name"}, "held_out": {"name"}}  # the same data may lie at another place
        mine, theirs = (one.model_dump(mode="json", exclude=elsewhere) for one in (self, other))
        no_matter = {"options", "reader"} if self.reader is None or other.reader is None else {"options"}
        return [key for key in mine if mine[key] != theirs[key] and key not in no_matter]


class Evaluation(Section):
    """One model's figures under one protocol."""

    model: str
    """The plugin's name."""
    step: NonNegativeInt
    config: Mapping[str, Any]
    """The model's Config: with it, the sampler's defaults."""
    protocol: Protocol
    values: Mapping[Word, float]
    intervals: Mapping[Word, tuple[float, float]] = {}
    """By figure, the ends of its 95% interval: what other drawn rows of the same model would give, or, of a figure of
    held-out rows, others of these. Figures of costs have none."""
    floor: Mapping[Word, float] = {}
    """By figure, what it is of as many real rows, which were not trained on, in the drawn ones' place."""
    probe_accuracy: float | None = None
    """Share of rows it was not trained on that the probe reads right, where a figure needed it."""
    notes: tuple[str, ...] = ()
    """Notes that a reader must know: too few rows, metrics that don't apply."""
    versions: Versions = {}  # noqa: RUF012
    drawn: Annotated[str, Field(pattern="^drawn-[0-9a-f]{12}$")] | None = None
    """The folder, beside this file, with the rows that were drawn."""

    weights: str = ""
    """`weights_digest` of the model. A number belongs to the weights it was measured on: of others it is shown nowhere.
    Empty in what an older genhub kept, which is not shown, either."""
    checksum: str = ""
    """SHA-256 of this evaluation without the checksum, in a file."""

    def __repr__(self) -> str:
        figures = (f"{name} {value:,.4g}" for name, value in self.values.items())
        return line(type(self).__name__, f"{self.model} at step {self.step:,}", *figures)

    def _repr_html_(self) -> str:
        """Return the figures as a table for a notebook's cell, those of real rows in the drawn ones' place below."""
        from genhub.evaluation.page import bullets, cell, figures

        return cell([figures(self), bullets(self.notes)])

    def write(self, folder: Path) -> Path:
        """Write it to a folder, together with figures of the same weights that were measured there before in the same way.
        Several processes may do so at once: each figure is kept.

        Raises:
            GenhubError: it can't be kept.
        """
        file = folder / f"{step_name(self.step)}-{self.weights[:12]}-{self.protocol.digest()}.json"
        with saving(file):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / LOCK):
                write_whole(file, self._with(_read_or_warn(file) if file.is_file() else None)._text())
        return file

    def _with(self, before: Evaluation | None) -> Evaluation:
        """Return this evaluation with the figures that were measured before in the same way."""
        if before is None or before.weights != self.weights:
            return self
        values, notes = {**before.values, **self.values}, tuple(dict.fromkeys([*before.notes, *self.notes]))
        protocol = self.protocol.model_copy(update={"reader": self.protocol.reader or before.protocol.reader})
        kept = {"intervals": {**_others(before.intervals, self.values), **self.intervals},
                "floor": {**_others(before.floor, self.values), **self.floor},
                "probe_accuracy": before.probe_accuracy if self.probe_accuracy is None else self.probe_accuracy}  # fmt: skip
        return self.model_copy(update={"values": values, "notes": notes, "protocol": protocol, **kept})

    def _text(self) -> str:
        content = self.model_dump(mode="json")
        return json.dumps(content | {"checksum": _checksum(content)}, indent=2) + "\n"


def _others(before: Mapping[str, Kept], values: Mapping[str, float]) -> dict[str, Kept]:
    """Return what was kept of figures other than those that were measured now."""
    return {name: value for name, value in before.items() if name not in values}


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in content.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_evaluation(file: Path) -> Evaluation:
    """Return the evaluation in a file.

    Raises:
        CheckpointError: it is not an evaluation, or is damaged.
    """
    content = read_json(file)
    try:
        found = Evaluation.model_validate(content)
    except ValidationError as error:
        if isinstance(content, dict) and "images" in content:  # there were no columns yet
            raise CheckpointError(f"{file}: an older genhub measured this, in another way") from error
        raise CheckpointError(f"{file}: damaged: {first_fault(error)}") from error
    if found.weights and found.checksum != _checksum(content):
        raise CheckpointError(f"{file}: damaged (its checksum does not match)")
    return found


def _read_or_warn(file: Path) -> Evaluation | None:
    """Return the evaluation in a file; None, and a line on stderr, if it is damaged: as if never measured."""
    try:
        return read_evaluation(file)
    except CheckpointError as error:
        warn(f"{error}; left out: genhub evaluate measures again")
        return None


def stored_evaluations(checkpoint: Path) -> list[Evaluation]:
    """Return the evaluations of the very weights in a folder that was found whole, oldest first."""
    weights = weights_digest(checkpoint)
    return [found for folder in evaluation_folders(checkpoint, weights) for found in evaluations_in(folder, weights)]


def evaluations_in(folder: Path, weights: str = "", protocol: str = "*") -> list[Evaluation]:
    """Return the evaluations of all a run's checkpoints, oldest first; with `weights` or `protocol`, those of one digest."""
    files = sorted(folder.glob(f"{ANY_STEP}-{weights[:12] or '*'}-{protocol}.json"), key=lambda file: file.stat().st_mtime)
    found = [evaluation for evaluation in map(_read_or_warn, files) if evaluation and evaluation.weights]
    return [evaluation for evaluation in found if weights in ("", evaluation.weights)]


def has_older_figures(checkpoint: Path) -> bool:
    """Whether a run keeps figures of an older genhub, which does not say what weights they are of."""
    files = evaluation_folders(checkpoint, "")[0].glob(f"{ANY_STEP}.json")
    return any(re.fullmatch(rf"{STEP}\d+-[0-9a-f]{{12}}\.json", file.name) for file in files)


def evaluation_folders(checkpoint: Path, weights: str) -> tuple[Path, ...]:
    """Return the folders that hold a checkpoint's evaluations and the rows drawn for them: a run's own, and, for a run
    that can't be written to and for other models, one in the cache."""
    run = RunFolder.of(checkpoint)
    return *([run.evaluations] if run else []), cache_folder() / EVALUATIONS / weights[:16]


def weights_digest(checkpoint: Path) -> str:
    """Return the SHA-256 of what a model draws depends on: its Config, and the hashes of its files. The same wherever the
    folder lies; where genhub.json has the hashes, nothing else is read.

    Raises:
        CheckpointError: genhub.json is damaged.
    """
    described: list[Any] = []
    if (checkpoint / MANIFEST).is_file():
        manifest = read_manifest(checkpoint)
        described = [manifest.plugin.name, manifest.config]
        hashes = {name: entry.sha256 for name, entry in manifest.files.items() if _draws(name)}
    else:  # another library's: its JSON is its Config
        files = sorted(file for file in checkpoint.rglob("*") if file.suffix in (".safetensors", ".json") and file.is_file())
        hashes = {file.relative_to(checkpoint).as_posix(): file_digest(file) for file in files}
    return hashlib.sha256(json.dumps([*described, hashes], sort_keys=True).encode()).hexdigest()


def _draws(name: str) -> bool:
    """Whether a file of a checkpoint is part of its model: not the trainer's, nor what tells or shows something of it."""
    return not name.startswith(f"{TRAINER_PART}/") and not name.endswith((".md", ".png", ".yaml")) and name != MEASURED


def figure_text(value: float | None, interval: tuple[float, float] | None = None) -> str:
    """Return a figure as a table has it, with how far its interval reaches; "" where there is none."""
    if value is None:
        return ""
    text = f"{value:,.0f}" if abs(value) >= 1000 or (value == int(value) and abs(value) >= 1) else f"{value:,.4g}"
    low, high = interval or (value, value)
    return text + (f" ± {max(high - value, value - low):.2g}" if high > low else "")
