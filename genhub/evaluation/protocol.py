"""What a number depends on, and the file that both are stored in. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError

from genhub.config import DataSpec, NonNegativeInt, PositiveInt, Section
from genhub.disk import cache_folder
from genhub.errors import CheckpointError, first_fault
from genhub.manifest import Versions, Word, inside, read_json, read_manifest

FOLDER = "evaluations"
"""Where a run keeps its evaluations, and the images they were computed from."""


class Protocol(Section):
    """All that a number depends on besides the model. Numbers compare where their protocols are equal."""

    extractor: str
    """The network whose features are compared, and where its weights come from."""
    extractor_hash: str
    """SHA-256 of its weights and preprocessing."""
    preprocessing: str
    """How images reach it: size, resize filter, range."""
    reference: DataSpec
    """The real images."""
    reference_images: PositiveInt
    """How many of them were compared."""
    held_out: DataSpec | None = None
    """Real images that the model was not trained on."""
    n: PositiveInt
    """How many images were drawn."""
    seed: NonNegativeInt
    """Image i depends on the seed and i alone."""
    labels: tuple[NonNegativeInt, ...] | None = None
    """The labels asked for, in turn."""
    options: Mapping[str, Any] = {}
    """What the sampler was told beyond the model's own Config."""
    precision: str = "float32"
    reader: str | None = None
    """SHA-256 of the classifier that read the images' labels, if a metric had it do so."""

    def digest(self) -> str:
        """Equal for equal ways of measuring."""
        text = json.dumps(self.model_dump(mode="json", exclude={"reader"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def differences(self, other: Protocol) -> list[str]:
        """The keys in which two ways of measuring differ; the sampler's options belong to what is measured."""
        elsewhere = {"reference": {"name"}, "held_out": {"name"}}  # the same images may lie at another place
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
    notes: tuple[str, ...] = ()
    """What a reader must know: too few images, metrics that don't apply."""
    versions: Versions = {}  # noqa: RUF012
    images: Annotated[str, AfterValidator(inside)] | None = None
    """The folder, beside this file, with the images that were drawn."""

    def write(self, folder: Path) -> Path:
        """Keep it in a folder, together with figures that were measured there before in the same way."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"step-{self.step:06d}-{self.protocol.digest()}.json"
        if file.is_file():
            before = read_evaluation(file)
            values, notes = {**before.values, **self.values}, tuple(dict.fromkeys([*before.notes, *self.notes]))
            reader = self.protocol.reader or before.protocol.reader
            protocol = self.protocol.model_copy(update={"reader": reader})
            self = self.model_copy(update={"values": values, "notes": notes, "protocol": protocol})
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.model_dump(mode="json"), indent=2) + "\n")
        temporary.replace(file)
        return file


def read_evaluation(file: Path) -> Evaluation:
    """
    Raises:
        CheckpointError: it is not an evaluation.
    """
    try:
        return Evaluation.model_validate(read_json(file))
    except ValidationError as error:
        raise CheckpointError(f"{file}: damaged: {first_fault(error)}") from error


def stored_evaluations(checkpoint: Path) -> list[Evaluation]:
    """The evaluations of a checkpoint, oldest first."""
    step = read_manifest(checkpoint).step if (checkpoint / "genhub.json").is_file() else 0
    return [found for found in evaluations_in(evaluations_folder(checkpoint)) if found.step == step]


def evaluations_in(folder: Path, digest: str = "*") -> list[Evaluation]:
    """The evaluations of all a run's checkpoints, oldest first; with `digest`, those of one protocol."""
    files = sorted(folder.glob(f"step-*-{digest}.json"), key=lambda file: file.stat().st_mtime)
    return [read_evaluation(file) for file in files]


def evaluations_folder(checkpoint: Path) -> Path:
    """A run's own folder for them; of other models, which may lie where nothing can be written, one in the cache."""
    if checkpoint.parent.name == "checkpoints":
        return checkpoint.parent.parent / FOLDER
    identity = hashlib.sha256(str(checkpoint.resolve()).encode()).hexdigest()[:16]
    return cache_folder() / FOLDER / identity
