"""Check, before anything is written, that a recipe may train in a folder; then claim the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from genhub.errors import RecipeError, shown
from genhub.ground.console import warn
from genhub.ground.disk import check_unlocked, locked, saving, write_whole
from genhub.ground.parsing import MOST_FAULTS, TextSource, parse_yaml, read_text
from genhub.interfaces.section import MAY_CHANGE, Section
from genhub.recipe.hints import GONE
from genhub.recipe.recipe import Recipe, origin_in
from genhub.store.run_folder import RunFolder


def check_folder(folder: Path, fresh: bool) -> None:
    """Check that a folder is a run's or can become one. Nothing is written.

    Raises:
        RecipeError: it is a file, can't be written, holds something else, another process trains there, or, with `fresh`,
            it can't be moved out of the way.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            reason = "can't be written to" if there.is_dir() else "is a file"
            raise RecipeError(f"run_dir: {there} {reason}; choose another with --run-dir")
        RunFolder(folder).check_files()
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if there == folder else []
        if others and not RunFolder(folder).is_run():
            what = f"{folder} holds other files ({others[0]}, ...) and is no run's folder"
            raise RecipeError(f"run_dir: {what}; choose another with --run-dir")
        if others and fresh and Path.cwd().is_relative_to(folder.resolve()):
            raise RecipeError(f"--fresh: {folder} is where this command runs, so it can't be moved; run it from elsewhere")
        check_unlocked(folder)
    except OSError as error:
        raise RecipeError(f"run_dir: {folder}: {error.strerror}; choose another with --run-dir") from error


@contextmanager
def claimed(folder: Path, fresh: bool) -> Iterator[None]:
    """Hold a folder that is a run's or can become one; with `fresh`, move the old run out of the way first.

    Raises:
        RecipeError: see `check_folder`.
    """
    with ExitStack() as held:
        try:
            check_folder(folder, fresh)
            folder.mkdir(parents=True, exist_ok=True)
            if fresh and RunFolder(folder).is_run():
                with locked(folder):
                    number = next(i for i in range(1, 10**6) if not folder.with_name(f"{folder.name}.old-{i}").exists())
                    folder.rename(folder.with_name(f"{folder.name}.old-{number}"))
                folder.mkdir()
            held.enter_context(locked(folder))
        except OSError as error:
            raise RecipeError(f"run_dir: {folder}: {error.strerror}; choose another with --run-dir") from error
        yield


def check_recipe(recipe: Recipe, before: Before | None, folder: Path) -> None:
    """Compare a recipe with the one that a folder's run was started with. Nothing is written.

    Raises:
        RecipeError: a key that may not change has changed; both values, and what to do.
    """
    if before is None or not RunFolder(folder).checkpoints():
        return
    faults = [f"{key}: was {shown(old)}, is {shown(new)}" for key, old, new in changes(recipe, before.content)]
    if faults:
        advice = ["give it the old values", "choose another --run-dir", "start over with --fresh (keeps the old run)"]
        if not any(fault.startswith("model.") for fault in faults):  # else its weights need not fit
            number = next(i for i in range(2, 10**6) if not folder.with_name(f"{folder.name}-{i}").exists())
            other = folder.with_name(f"{folder.name}-{number}")
            advice.append(f"start another run with its weights: the same command with model.from={folder} --run-dir {other}")
        raise RecipeError(
            f"{folder} was started with another recipe:",
            *(f"  {fault}" for fault in faults[:MOST_FAULTS]),
            f"To go on: {'; '.join(advice[:-1])}; or {advice[-1]}.",
        )


def check_origin(recipe: Recipe, before: Before | None, folder: Path) -> None:
    """
    Raises:
        RecipeError: the run in a folder is of somebody else's recipe, or of the user's own where this one is not: it would
            be continued, and its checkpoints deleted, by a recipe that was never meant for it.
    """
    if before is not None and before.origin != recipe.origin:
        origins = before.origin, recipe.origin
        was, now = (f"the recipe of {origin}" if origin else "a recipe of your own" for origin in origins)
        raise RecipeError(
            f"run_dir: {folder} was started with {was}, this is {now}; choose another with --run-dir, or start over with "
            "--fresh (keeps the old run)"
        )


def changes(recipe: Recipe, before: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List the keys whose values are others than in a recipe that was written down: (key, old value, new value). Keys marked
    MAY_CHANGE are left out, and so is a key that the old recipe lacks, of an older genhub, if it has its default, and one
    that no recipe has any more."""
    return [change for change in _changes(recipe, before, recipe.dump(), "") if change[0] not in GONE]


def _changes(section: object, before: Any, after: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        if before != after:
            yield path, before, after
        return
    fields = type(section).model_fields if isinstance(section, Section) else {}
    for key in {**before, **after}:
        field, inner = fields.get(key), getattr(section, key, None) if key in fields else None
        new = field is not None and key not in before and inner == field.get_default(call_default_factory=True)
        if not new and not (field is not None and MAY_CHANGE in field.metadata):
            yield from _changes(inner, before.get(key), after.get(key), f"{path}.{key}" if path else key)


@dataclass(frozen=True)
class Before:
    """The recipe that a folder's run was started with."""

    content: dict[str, Any]
    origin: str | None
    """The repository that the recipe is from: see `Recipe.origin`."""


def recipe_before(folder: Path) -> Before | None:
    """Read the recipe of a folder's run; the copy in a checkpoint where recipe.yaml is lost or can't be read, which is said.
    None: there is none."""
    run = RunFolder(folder)
    for file in chain([run.recipe], run.recipe_copies()):  # which looks at no copy unless it is asked for
        try:
            text = read_text(file)
            content = parse_yaml(text, TextSource(str(file)))
        except RecipeError as error:
            reason = error.args[0]
            continue
        if file != run.recipe:
            warn(f"{reason}; the copy in {file.parent} is used in its place")
        return Before(content, origin_in(text))
    return None


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Keep the resolved recipe with the run."""
    file = RunFolder(folder).recipe
    with saving(file):
        write_whole(file, recipe.yaml())
