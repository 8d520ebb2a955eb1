"""Write, prune and find the checkpoints of a run: whole or absent, safetensors and JSON, checked before they are used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file

from genhub.ground.console import warn
from genhub.ground.disk import put_in_place, remove, saving, sync
from genhub.ground.weights import save_tensors
from genhub.interfaces.columns import DataSpec
from genhub.interfaces.model import Model
from genhub.interfaces.trainer import TrainerState
from genhub.store.card import CARD, PICTURE, Card
from genhub.store.manifest import (
    TRAINER_PART,
    Manifest,
    read_json,
)
from genhub.store.models import describe_model, save_encoders, write_manifest
from genhub.store.run_folder import RECIPE, RunFolder, step_of

# Checkpoints of a run


def save_checkpoint(
    run: RunFolder, step: int, model: Model, state: TrainerState, data: DataSpec, *, previewed: bool = False
) -> Path:  # fmt: skip
    """Write checkpoints/step-NNNNNN whole or not at all.

    Args:
        previewed: whether the run's preview of this step was drawn from this very model.
    Raises:
        GenhubError: it can't be written; older checkpoints are untouched.
    """
    folder = run.checkpoint(step)
    temporary = folder.with_name(f".{folder.name}.tmp")
    size = sum(tensor.nbytes for tensors in [model.state_dict(), *state.tensors.values()] for tensor in tensors.values())
    with saving(folder, size):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            (temporary / TRAINER_PART).mkdir(parents=True)
            sync(run.path)
            model.save_networks(temporary)
            save_encoders(model, temporary, run.encoders)
            _add_card(temporary, run, describe_model(model, data, step), previewed)
            for name, tensors in state.tensors.items():
                save_tensors(tensors, temporary / TRAINER_PART / f"{name}.safetensors")
            (temporary / TRAINER_PART / "state.json").write_text(json.dumps(state.values))
            write_manifest(model, temporary, data, step)
            put_in_place(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder


def _add_card(folder: Path, run: RunFolder, manifest: Manifest, previewed: bool) -> None:
    """Add the recipe, the preview if it was drawn from this very model, and the card."""
    shutil.copy(run.whole_recipe(), folder / RECIPE)
    if previewed:
        shutil.copy(run.preview(manifest.step), folder / PICTURE)
    recipe = (folder / RECIPE).read_text("utf-8")
    card = Card(manifest, folder, recipe, title=run.path.name, picture=previewed)
    (folder / CARD).write_text(card.text(), "utf-8")


def prune_checkpoints(run: RunFolder, keep_last: int, keep_every: int | None = None, best: int | None = None) -> None:
    """Delete all checkpoints but the newest `keep_last`, those at multiples of `keep_every` steps, and step `best`'s."""
    for old in run.checkpoints()[keep_last:]:
        if step_of(old) != best and (keep_every is None or step_of(old) % keep_every):
            try:
                remove(old)
            except OSError as error:  # somebody reads it, perhaps: no reason to stop a run
                warn(f"{old}: can't be deleted: {error}")


def load_state(folder: Path) -> TrainerState:
    """Return the trainer's part of a checkpoint that `newest_whole` found whole."""
    files = (folder / TRAINER_PART).glob("*.safetensors")
    values = read_json(folder / TRAINER_PART / "state.json")
    return TrainerState({file.stem: load_file(file) for file in files}, values)
