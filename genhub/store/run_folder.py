"""Read a run's folder: its recipe, its previews, and its newest checkpoint, which the run may be deleting. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from genhub.errors import CheckpointError
from genhub.ground.disk import LOCK
from genhub.store.find import checkpoints
from genhub.store.manifest import FILE, Manifest, read_manifest

RECIPE = "recipe.yaml"


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
