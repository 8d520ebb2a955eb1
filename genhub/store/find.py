"""Find the model folder that a user names: itself, or a run's newest whole checkpoint. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from genhub.errors import NAME, CheckpointError, cut
from genhub.ground.disk import check_files
from genhub.ground.ids import HUB, nearest_path, parse_id
from genhub.interfaces.registry import FORMATS, plugin_names
from genhub.store.manifest import MANIFEST, PICKLES, TRAINER_PART, read_json, read_manifest
from genhub.store.run_folder import RunFolder


def find_checkpoint(path: Path) -> Path:
    """Return the folder to load for a path that a user gave: itself, or a run's newest whole checkpoint. What lies there,
    and in its run, may be opened: see `check_files`.

    Raises:
        CheckpointError: there is none, or it holds what is not opened.
    """
    try:
        if not path.exists():
            known = "a run, a checkpoint, or one that diffusers saved"
            other = f"; a model on the Hub would be {HUB}{path}" if parse_id(str(path)) else ", and no Hub id, user/name"
            raise CheckpointError(f"{path}: no such folder ({known}){other}{nearest_path(path)}")
        if (path / MANIFEST).is_file() or foreign_format(path):
            folder: Path | None = path
            check_files(path)
        else:
            run = RunFolder(path)
            run.check_files()
            folder, faults = run.newest_whole()
            if faults:
                from genhub.ground.console import warn  # imports torch

                for fault in faults:
                    warn(f"{fault}; taking an earlier checkpoint")
        if folder is None:
            raise no_model(path)
        if within := RunFolder.of(folder):
            within.check_files()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    return folder


def foreign_format(folder: Path) -> str | None:
    """Return the registered class name in the JSON of a folder that another library saved."""
    return next((name for name in _foreign_classes(folder) if name in plugin_names(FORMATS)), None)


def _foreign_classes(folder: Path) -> list[str]:
    files = [folder / name for name in ("model_index.json", "config.json") if (folder / name).is_file()]
    found = [content.get("_class_name") for file in files if isinstance(content := read_json(file), dict)]
    return [name for name in found if isinstance(name, str)]


def no_model(folder: Path) -> CheckpointError:
    """Return an error that says why a folder can't be loaded."""
    if classes := _foreign_classes(folder):
        known = ", ".join(plugin_names(FORMATS))
        return CheckpointError(
            f"{folder}: holds a {cut(classes[0], NAME)}, which no plugin reads; of others' formats: {known}"
        )
    return CheckpointError(f"{folder}: neither a run with checkpoints, nor a model folder ({MANIFEST} or model_index.json)")


def weight_bytes(folder: Path) -> int:
    """Return how many bytes a folder's weights take, the trainer's part left out.

    Raises:
        CheckpointError: there are none, but a pickle.
    """
    files = [file for file in folder.rglob("*") if TRAINER_PART not in file.relative_to(folder).parts]
    weights = [file for file in files if file.suffix == ".safetensors"]
    pickles = [file for file in files if file.suffix in PICKLES]
    if pickles and not weights:
        raise CheckpointError(f"{folder}: {pickle_advice(pickles[0].name, str(folder))}")
    return sum(file.stat().st_size for file in weights)


def pickle_advice(file: str, source: str) -> str:
    """Return why a pickle of weights is not opened, and how to get safetensors of it where `source` is trusted."""
    return (
        f"its weights are a pickle ({cut(file, NAME)}), which can run code when opened; genhub reads safetensors only. If "
        "you trust it, let diffusers convert it, and give FOLDER: "
        f"DDPMPipeline.from_pretrained('{source}').save_pretrained('FOLDER')"
    )


T = TypeVar("T")
MOST_TRIES = 100
"""Most checkpoints that a reader tries while a run deletes one after another."""


def read_newest(path: Path, read: Callable[[Path], T], *, checked: bool = False) -> T:
    """Return the result of `read` for the folder to load for a path that a user gave, its files compared with their hashes.
    Of a run that trains meanwhile, the newest checkpoint may be deleted while it is read: then the next newest is read in
    its place.

    Args:
        checked: `read` fails by itself where a file is missing, so that what it makes is whole, however long it took.
    Raises:
        CheckpointError: see `find_checkpoint`; or the checkpoint that was named itself is damaged, or deleted meanwhile.
    """
    for _ in range(MOST_TRIES):
        folder = find_checkpoint(path)
        before = _identity(folder)
        try:
            if folder == path and (folder / MANIFEST).is_file():  # of a run's, that was done to find it
                read_manifest(folder).verify(folder)
            found = read(folder)
            if checked or before == _identity(folder) is not None:
                return found
        except Exception:  # a library that misses a file may raise anything
            if before == _identity(folder) is not None:
                raise
        if folder == path:
            raise CheckpointError(f"{path}: was deleted while it was read")
    raise CheckpointError(f"{path}: its checkpoints are deleted faster than they can be read; try again")


def _identity(folder: Path) -> int | None:
    """Return the inode, which differs where another folder took the name; None for a folder that is gone."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None
