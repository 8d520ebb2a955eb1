"""Write, prune and find the checkpoints of a run: whole or absent, safetensors and JSON, checked before they are used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file

from genhub.ground.console import warn
from genhub.ground.disk import publish, remove, remove_leftovers, saving, sync
from genhub.ground.weights import save_tensors
from genhub.interfaces.config import DataSpec
from genhub.interfaces.model import Model
from genhub.interfaces.trainer import TrainerState
from genhub.store.card import CARD, PICTURE, model_card
from genhub.store.find import checkpoints, newest_whole, step_of
from genhub.store.manifest import (
    TRAINER,
    Manifest,
    read_json,
)
from genhub.store.models import describe_model, write_manifest
from genhub.store.run_folder import RECIPE, recipe_file

# Checkpoints of a run


def save_checkpoint(run_dir: Path, step: int, model: Model, state: TrainerState, data: DataSpec) -> Path:
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
    """Add the recipe, the preview drawn at this very step if one was, and the card."""
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
    """Return a run's newest whole checkpoint, and what is wrong with any newer one. What a killed save left is removed.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """
    for leftover in (run_dir / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover)
    for folder in (run_dir, run_dir / "samples"):
        remove_leftovers(folder)
    return newest_whole(run_dir)


def load_state(folder: Path) -> TrainerState:
    """Return the trainer's part of a checkpoint that `newest_checkpoint` found whole."""
    files = (folder / TRAINER).glob("*.safetensors")
    values = read_json(folder / TRAINER / "state.json")
    return TrainerState({file.stem: load_file(file) for file in files}, values)
