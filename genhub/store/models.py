"""Write a model folder, and build a model from one within the memory that its files justify."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch

from genhub.errors import CheckpointError
from genhub.ground.budget import budget
from genhub.ground.disk import link, put_in_place, saving, sync
from genhub.interfaces.columns import DataSpec
from genhub.interfaces.config import ModelConfig
from genhub.interfaces.model import Model
from genhub.store.card import package_versions
from genhub.store.classes import StoredModel, read_model
from genhub.store.find import weight_bytes
from genhub.store.manifest import MANIFEST, Manifest, describe_files, genhub_version, read_manifest
from genhub.store.parts import parts_of

ENCODERS = "encoders"
"""Name of the folder of conditions' frozen encoders, in a model's."""
UNBUILDABLE = (RuntimeError, MemoryError, TypeError, ValueError, ArithmeticError, LookupError)
"""Exceptions by which a constructor, or torch inside it, refuses a config that nothing can be built from."""


# Models


def save_model(model: Model, path: Path) -> None:
    """Write a model's folder: its networks and genhub.json. Files already there are replaced, others left alone.

    Raises:
        GenhubError: the folder can't be written.
    """
    with saving(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path, prefix=".genhub-") as temporary:
            folder = Path(temporary)
            model.save_networks(folder)
            save_encoders(model, folder)
            write_manifest(model, folder)
            names = [*read_manifest(folder).files, MANIFEST]  # the manifest last: it vouches for the others
            for name in names:
                sync(folder / name)
            for name in names:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).replace(path / name)
            for place in {(path / name).parent for name in names}:
                sync(place)


def write_manifest(model: Model, folder: Path, data: DataSpec | None = None, step: int = 0) -> None:
    """Describe everything in a folder by its genhub.json."""
    manifest = describe_model(model, data, step).model_copy(update={"files": describe_files(folder)})
    (folder / MANIFEST).write_text(manifest.text())


def describe_model(model: Model, data: DataSpec | None = None, step: int = 0) -> Manifest:
    """Return a model's genhub.json, without its files."""
    described = StoredModel.of(model)
    return Manifest(
        genhub=genhub_version(),
        plugin=described.plugin,
        parts=parts_of(described, model.config),
        config=described.config,
        data=data or model.trained_on,
        step=step,
        versions=package_versions(),
    )


def load_folder(folder: Path, model_class: type[Model] | None = None) -> Model:
    """Return the model in a folder whose files were compared with their hashes when it was found, by `read_newest`,
    `newest_whole` or `fetch_weights`."""
    model = build_model(folder, model_class, weight_bytes(folder))
    load_weights(model, folder)
    return model


def load_weights(model: Model, folder: Path) -> None:
    """Read a model's networks from its folder, and the frozen encoders of its conditions.

    Raises:
        CheckpointError: they are not there, or don't fit.
    """
    model.load_networks(folder)
    for modality in model.conditions.values():
        modality.open_encoder(folder / ENCODERS)


def save_encoders(model: Model, folder: Path, shared: Path | None = None) -> None:
    """Write the frozen encoders of a model's conditions into its folder, each once.

    Args:
        shared: a folder in which they are kept for all checkpoints of a run, which link to it.
    """
    encoders = {its.folder: its for modality in model.conditions.values() if (its := modality.encoder())}
    for name, encoder in encoders.items():
        if shared is None:
            encoder.save(folder / ENCODERS / name)
            continue
        if not (shared / name).is_dir():
            temporary = shared / f".{name}.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            encoder.save(temporary)
            put_in_place(temporary, shared / name)
        (folder / ENCODERS / name).mkdir(parents=True)
        for file in (shared / name).iterdir():
            link(file, folder / ENCODERS / name / file.name)


def build_model(folder: Path, model_class: type[Model] | None, most: int) -> Model:
    model_class, config = read_model(folder, model_class)
    counted = check_size(model_class, config, most, folder)
    try:
        with nullcontext() if counted else budget(most, str(folder)), torch.device("cpu"):
            model: Model = model_class(config)
        if (folder / MANIFEST).is_file():
            manifest = read_manifest(folder)
            model.trained_on, model.trained_steps = manifest.data, manifest.step
        return model
    except UNBUILDABLE as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{folder}: its config asks for what can't be built: {reason}") from error


def check_size(model_class: type[Model], config: ModelConfig, most: int, folder: Path) -> bool:
    """Check how large a model gets by building it without memory, on torch's meta device: see `budget`.

    Args:
        most: the weights' size in bytes.
    Returns:
        False where a constructor computes with its weights, so that it can't be built like this.
    Raises:
        CheckpointError: its config asks for too much.
    """
    try:
        with budget(most, str(folder)), torch.device("meta"):
            model_class(config)
    except UNBUILDABLE:
        return False
    return True
