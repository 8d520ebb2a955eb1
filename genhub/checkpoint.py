"""Model folders on disk: complete or absent, safetensors and JSON, checked before they are used."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from genhub.budget import budget
from genhub.card import CARD, PICTURE, model_card, package_versions
from genhub.config import STORED_CONTENT, DataSpec, ModelConfig
from genhub.console import shown
from genhub.data import load_data
from genhub.disk import publish, remove, remove_leftovers, saving, sync
from genhub.errors import CheckpointError, HubError, InputError, RecipeError
from genhub.hub import Repository, open_repository
from genhub.ids import split_id
from genhub.interfaces import GenerativeModel
from genhub.logs import warn
from genhub.manifest import (
    FILE,
    TRAINER,
    Manifest,
    StoredModel,
    checkpoints,
    describe_files,
    genhub_version,
    newest_whole,
    read_json,
    read_manifest,
    read_model,
    step_of,
    weight_bytes,
)
from genhub.recipe import read_data_config
from genhub.run_folder import RECIPE, read_newest, recipe_file
from genhub.training import StoppedRun, TrainerState, TrainingData
from genhub.weights import save_tensors

UNBUILDABLE = (RuntimeError, MemoryError, TypeError, ValueError, ArithmeticError, LookupError)
"""Exceptions by which a constructor, or torch inside it, refuses a config that nothing can be built from."""


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
            names = [*read_manifest(folder).files, FILE]  # the manifest last: it vouches for the others
            for name in names:
                sync(folder / name)
            for name in names:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).replace(path / name)
            for place in {(path / name).parent for name in names}:
                sync(place)


def write_manifest(model: GenerativeModel, folder: Path, data: DataSpec | None = None, step: int = 0) -> None:
    """Describe everything in a folder by its genhub.json."""
    manifest = describe_model(model, data, step).model_copy(update={"files": describe_files(folder)})
    (folder / FILE).write_text(manifest.text())


def describe_model(model: GenerativeModel, data: DataSpec | None = None, step: int = 0) -> Manifest:
    """A model's genhub.json, without its files."""
    described = StoredModel.of(model)
    return Manifest(
        genhub=genhub_version(),
        plugin=described.plugin,
        config=described.config,
        data=data or model.trained_on,
        step=step,
        conditions=model.conditions,
        versions=package_versions(),
    )


def load_model(
    source: str | Path, model_class: type[GenerativeModel] | None = None, device: str | torch.device | None = None, *,
    dtype: str | torch.dtype | None = None, revision: str | None = None, token: str | None = None,
    local_files_only: bool = False, trust_remote_code: bool = False,
) -> GenerativeModel:  # fmt: skip
    """The model in a run's folder (its newest whole checkpoint), a checkpoint, a folder that another library saved, or a
    repository on the Hub. See `genhub.load`.

    What describes a model is read and checked before its weights are fetched or memory is taken for them.
    """
    wanted = _dtype(dtype)
    if split_id(source) is None:
        if revision or local_files_only or trust_remote_code:
            raise InputError(
                f"{source}: revision, local_files_only and trust_remote_code are for models on the Hub, user/name"
            )
        model = read_newest(Path(source), lambda folder: _load(folder, model_class), checked=True)
    else:
        repository = open_repository(str(source), revision=revision, token=token, local_files_only=local_files_only)
        repository.fetch_texts()
        if trust_remote_code and model_class is None:
            model_class = _remote_class(repository, str(source), revision)
        with repository.naming():
            model = _build(repository.folder, model_class, repository.weight_bytes)
            model.load_networks(repository.fetch_weights())
    try:
        return model.to(device=device or "cpu", dtype=wanted).eval()
    except (RuntimeError, AssertionError) as error:  # torch's two ways to say that there is no such device
        raise InputError(f"device {shown(str(device))}: {str(error).splitlines()[0]}") from error


def _load(folder: Path, model_class: type[GenerativeModel] | None) -> GenerativeModel:
    if (folder / FILE).is_file():
        read_manifest(folder).verify(folder)
    model = _build(folder, model_class, weight_bytes(folder))
    model.load_networks(folder)
    return model


def _build(folder: Path, model_class: type[GenerativeModel] | None, most: int) -> GenerativeModel:
    model_class, config = read_model(folder, model_class)
    counted = check_size(model_class, config, most, folder)
    try:
        with nullcontext() if counted else budget(most, str(folder)), torch.device("cpu"):
            model: GenerativeModel = model_class(config)
        model.trained_on = read_manifest(folder).data if (folder / FILE).is_file() else None
        return model
    except UNBUILDABLE as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{folder}: its config asks for what can't be built: {reason}") from error


def check_size(model_class: type[GenerativeModel], config: ModelConfig, most: int, folder: Path) -> bool:
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


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise InputError(f"dtype: float32, bfloat16, float16 or float64, not {shown(dtype)}")
    return found


def _remote_class(repository: Repository, source: str, revision: str | None) -> type[GenerativeModel] | None:
    """Return the class in a repository's plugin.py: code from there runs here, and nowhere else in genhub. What runs are
    the bytes whose hash is said: they are read once, and no other file of the repository is imported, nor a compiled one.

    Raises:
        HubError: the commit is not pinned by the caller, or the file does not have the class.
    """
    plugin = repository.manifest().plugin if FILE in repository.files else None
    code = repository.manifest().code if plugin else None
    if plugin is None or code is None or ":" not in plugin.name:
        return None  # there is nothing to run: its plugin is an installed one
    if repository.commit not in (revision, source.partition("@")[2]):
        raise HubError(
            f"{repository.id}: trust_remote_code runs its plugin.py, so read that, then name the commit that you read: "
            f"revision='{repository.commit}'"
        )
    content = repository.fetch_code(code)
    warn(f"running {repository.id}/plugin.py at {repository.commit} ({code.size} bytes, SHA-256 {code.sha256[:16]})")
    module = sys.modules[f"genhub_remote_{code.sha256[:16]}"] = ModuleType(f"genhub_remote_{code.sha256[:16]}")
    name = plugin.name.partition(":")[2]
    try:
        exec(compile(content, f"<{repository.id}/plugin.py>", "exec", dont_inherit=True), vars(module))
        found = getattr(module, name)
        if not issubclass(found, GenerativeModel):
            raise TypeError(f"{name} is no GenerativeModel")
    except Exception as error:  # somebody's code may raise anything
        raise HubError(f"{repository.id}: its plugin.py can't be used: {type(error).__name__}: {error}") from error
    model_class: type[GenerativeModel] = found
    return model_class


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
            _add_card(temporary, run_dir, describe_model(model, data, step))
            for name, tensors in state.tensors.items():
                save_tensors(tensors, temporary / TRAINER / f"{name}.safetensors")
            (temporary / TRAINER / "state.json").write_text(json.dumps(state.values))
            write_manifest(model, temporary, data, step)
            publish(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder


def _add_card(folder: Path, run_dir: Path, manifest: Manifest) -> None:
    """The recipe, the preview that was drawn at this very step if one was, and the card."""
    shutil.copy(recipe_file(run_dir), folder / RECIPE)
    preview = run_dir / "samples" / f"step-{manifest.step:06d}.png"
    if preview.is_file():
        shutil.copy(preview, folder / PICTURE)
    recipe = (folder / RECIPE).read_text("utf-8")
    card = model_card(manifest, folder, recipe=recipe, title=run_dir.name, picture=preview.is_file())
    (folder / CARD).write_text(card, "utf-8")


def prune_checkpoints(run_dir: Path, keep_last: int, keep_every: int | None = None, best: int | None = None) -> None:
    """Delete all checkpoints but the newest `keep_last`, those at multiples of `keep_every` steps, and step `best`'s."""
    for old in list(checkpoints(run_dir))[keep_last:]:
        if step_of(old) != best and (keep_every is None or step_of(old) % keep_every):
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
    for folder in (run_dir, run_dir / "samples"):
        remove_leftovers(folder)
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
    if before is None or before.fingerprint not in (data.spec.fingerprint, _fingerprint_of_old(folder, data)):
        stored = [spec.fingerprint.startswith(STORED_CONTENT) for spec in (before, data.spec) if spec]
        other = " (or genhub has, which knew larger data by name and size before)"
        raise RecipeError(
            f"data: the images, labels or their order have changed since {folder}{other if len(set(stored)) > 1 else ''}; "
            f"put them back, start over with --fresh, or start a new run from these weights (model.from={folder})"
        )


def _fingerprint_of_old(folder: Path, data: TrainingData) -> str | None:
    """Return the images' fingerprint as it was taken when the checkpoint was made, from memory or from the stored bytes:
    those in memory are known by their pixels, others by what is stored. None where nothing has changed about that."""
    if data.config.streaming or not (folder / RECIPE).is_file():
        return None
    in_memory = read_data_config(folder / RECIPE).in_memory
    if in_memory == data.config.in_memory:
        return None
    return load_data(data.config.model_copy(update={"in_memory": in_memory})).spec.fingerprint


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
