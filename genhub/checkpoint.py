"""Model folders on disk: complete or absent, safetensors and JSON, checked before they are used."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from genhub.config import DataSpec
from genhub.disk import publish, remove, saving, sync
from genhub.errors import InputError, RecipeError
from genhub.interfaces import GenerativeModel, StoppedRun, TrainerState, TrainingData, save_tensors
from genhub.logs import warn
from genhub.manifest import (
    FILE,
    Manifest,
    StoredModel,
    checkpoints,
    describe_files,
    find_checkpoint,
    genhub_version,
    newest_whole,
    read_json,
    read_manifest,
    read_model,
    step_of,
)

TRAINER = "trainer"
"""The part of a checkpoint that only resuming needs, and that is never published."""


# Models


def save_model(model: GenerativeModel, path: Path) -> None:
    """Write a model's folder: its networks and genhub.json. Files already there are replaced, others left alone.

    Raises:
        GenhubError: the folder can't be written.
    """
    with saving(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path, prefix=".genhub-") as temporary:
            folder = Path(temporary)
            model.save_networks(folder)
            write_manifest(model, folder)
            for name in [*read_manifest(folder).files, FILE]:  # the manifest last: it vouches for the others
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).replace(path / name)


def write_manifest(model: GenerativeModel, folder: Path, data: DataSpec | None = None, step: int = 0) -> None:
    """Describe everything in a folder by its genhub.json."""
    described = StoredModel.of(model)
    manifest = Manifest(
        genhub=genhub_version(),
        plugin=described.plugin,
        config=described.config,
        data=data,
        step=step,
        files=describe_files(folder),
    )
    (folder / FILE).write_text(json.dumps(manifest.sealed().model_dump(mode="json"), indent=2) + "\n")


def load_model(
    path: Path, model_class: type[GenerativeModel] | None = None, device: str | torch.device | None = None
) -> GenerativeModel:
    """The model in a run's folder (its newest whole checkpoint), a checkpoint, or a folder that another library saved.

    Returns:
        The model with its averaged weights where it has them, in eval mode.
    Raises:
        CheckpointError: the folder is not there, is damaged, or needs a plugin that is not installed.
    """
    folder = find_checkpoint(path)
    if (folder / FILE).is_file():
        read_manifest(folder).verify(folder)
    model_class, config = read_model(folder, model_class)
    model: GenerativeModel = model_class(config)
    model.load_networks(folder)
    try:
        return model.to(device or "cpu").eval()
    except (RuntimeError, AssertionError) as error:  # torch's two ways to say that there is no such device
        raise InputError(f"device '{device}': {str(error).splitlines()[0]}") from error


# Checkpoints of a run


def save_checkpoint(run_dir: Path, step: int, model: GenerativeModel, state: TrainerState, data: DataSpec) -> Path:
    """Write checkpoints/step-NNNNNN whole or not at all.

    Raises:
        GenhubError: it can't be written; older checkpoints are untouched.
    """
    folder = run_dir / "checkpoints" / f"step-{step:06d}"
    temporary = folder.with_name(f".{folder.name}.tmp")
    size = sum(tensor.nbytes for tensors in [model.state_dict(), *state.tensors.values()] for tensor in tensors.values())
    with saving(folder, size):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            (temporary / TRAINER).mkdir(parents=True)
            sync(run_dir)
            model.save_networks(temporary)
            shutil.copy(run_dir / "recipe.yaml", temporary)
            for name, tensors in state.tensors.items():
                save_tensors(tensors, temporary / TRAINER / f"{name}.safetensors")
            (temporary / TRAINER / "state.json").write_text(json.dumps(state.values))
            write_manifest(model, temporary, data, step)
            publish(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder


def prune_checkpoints(run_dir: Path, keep_last: int, keep_every: int | None = None) -> None:
    """Delete all checkpoints but the newest `keep_last` and those at multiples of `keep_every` steps."""
    for old in list(checkpoints(run_dir))[keep_last:]:
        if keep_every is None or step_of(old) % keep_every:
            try:
                remove(old)
            except OSError as error:  # somebody reads it, perhaps: no reason to stop a run
                warn(f"{old}: can't be deleted: {error}")


def newest_checkpoint(run_dir: Path) -> tuple[Path | None, list[str]]:
    """A run's newest whole checkpoint, and what is wrong with any newer one. What a killed save left is removed.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """
    for leftover in (run_dir / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover)
    return newest_whole(run_dir)


def load_state(folder: Path) -> TrainerState:
    """The trainer's part of a checkpoint that `newest_checkpoint` found whole."""
    files = (folder / TRAINER).glob("*.safetensors")
    values = read_json(folder / TRAINER / "state.json")
    return TrainerState({file.stem: load_file(file) for file in files}, values)


def stopped_run(run_dir: Path, data: TrainingData) -> StoppedRun | None:
    """Where a run of one process goes on, if it has a checkpoint; see `Trainer.stopped_run`."""
    folder, faults = newest_checkpoint(run_dir)
    for fault in faults:
        warn(f"{fault}; going back to an earlier checkpoint")
    if folder is None:
        return None
    check_same_data(folder, data)
    return StoppedRun(folder, read_manifest(folder).step, load_state(folder))


def check_same_data(folder: Path, data: TrainingData) -> None:
    """
    Raises:
        RecipeError: the images are not those that the checkpoint was trained on.
    """
    before = read_manifest(folder).data
    if before is None or before.fingerprint != data.spec.fingerprint:
        raise RecipeError(
            f"data: the images, labels or their order have changed since {folder}; put them back, start over with --fresh, "
            f"or start a new run from these weights (model.from={folder})"
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors; settings come from the recipe and are not stored."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, entries in state.items()
        for key, value in entries.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
