"""Read a run's folder: its recipe, its previews, and its newest checkpoint, which the run may be deleting. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from genhub.disk import LOCK
from genhub.errors import CheckpointError
from genhub.manifest import (
    FILE,
    MAX_JSON_BYTES,
    TRAINER,
    Manifest,
    checkpoints,
    find_checkpoint,
    read_manifest,
    read_model,
    weight_bytes,
)

T = TypeVar("T")
RECIPE = "recipe.yaml"
MOST_TRIES = 100
"""Most checkpoints that a reader tries, where a run deletes one after another."""


def is_run(folder: Path) -> bool:
    """Whether genhub trained here. A recipe.yaml alone is anybody's: a plugin's folder has one."""
    if any((checkpoint / FILE).is_file() for checkpoint in checkpoints(folder)):
        return True
    return (folder / RECIPE).is_file() and ((folder / LOCK).is_file() or any(checkpoints(folder)))


def recipe_file(run_dir: Path) -> Path:
    """Return a run's recipe.yaml; where that is lost, or empty after a power cut, the copy in its newest checkpoint."""
    own = run_dir / RECIPE
    if own.is_file() and own.read_bytes().strip(b"\0 \t\r\n"):
        return own
    return next(recipe_copies(run_dir), own)


def recipe_copies(run_dir: Path) -> Iterator[Path]:
    """Yield the whole copies of its recipe in a run's checkpoints, newest first."""
    for folder in checkpoints(run_dir):
        with suppress(CheckpointError, OSError):
            listed = read_manifest(folder).files
            if RECIPE in listed:
                Manifest.verify_files({RECIPE: listed[RECIPE]}, folder)
                yield folder / RECIPE


def previews(run_dir: Path) -> list[Path]:
    """Return a run's pictures of itself, in the order of their steps."""
    found = [file for file in (run_dir / "samples").glob("step-*.png") if file.stem[5:].isdecimal()]
    return sorted(found, key=lambda file: int(file.stem[5:]))


def read_newest(path: Path, read: Callable[[Path], T], *, checked: bool = False) -> T:
    """Return the result of `read` for the folder to load for a path that a user gave. Of a run that trains meanwhile, the
    newest checkpoint may be deleted while it is read: then the next newest is read in its place.

    Args:
        checked: `read` fails by itself where a file is missing, so that what it makes is whole, however long it took.
    Raises:
        CheckpointError: see `find_checkpoint`; or the checkpoint that was named itself is deleted meanwhile.
    """
    for _ in range(MOST_TRIES):
        folder = find_checkpoint(path)
        before = _identity(folder)
        try:
            found = read(folder)
            if checked or before == _identity(folder) is not None:
                return found
        except Exception:  # a library that misses a file may raise anything
            if before == _identity(folder) is not None:
                raise
        if folder == path:
            raise CheckpointError(f"{path}: was deleted while it was read")
    raise CheckpointError(f"{path}: its checkpoints are deleted faster than they can be read; try again")


def describe_folder(folder: Path) -> dict[str, Any]:
    """Return facts about a model folder, its files verified; if its weights are a pickle, a `note` says so."""
    _, config = read_model(folder)
    facts: dict[str, Any] = {"folder": str(folder), "parameters": sum(map(_parameters, folder.rglob("*.safetensors")))}
    try:
        weight_bytes(folder)
    except CheckpointError as error:
        facts |= {"parameters": None, "note": str(error)}
    if not (folder / FILE).is_file():
        return facts | {"plugin": {"name": config.name}, "config": config.model_dump(mode="json")}
    manifest = read_manifest(folder)
    manifest.verify(folder)
    return facts | manifest.model_dump(mode="json", exclude={"checksum"})


def _parameters(file: Path) -> int:
    """Return how many numbers a file of weights holds, from its header alone; 0 for the trainer's part."""
    if file.parent.name == TRAINER:
        return 0
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(min(int.from_bytes(stream.read(8), "little"), MAX_JSON_BYTES)))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error


def _identity(folder: Path) -> int | None:
    """Return the inode, which differs where another folder took the name; None for a folder that is gone."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None
