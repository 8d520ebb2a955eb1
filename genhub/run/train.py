"""Train a recipe, from the first step or from where it was stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from genhub.data.objects import stored_name
from genhub.data.workers import deaths_explained
from genhub.errors import Interrupted
from genhub.ground.console import say
from genhub.ground.garbage import look_for_garbage_as_usual
from genhub.ground.processes import check_launcher, main_process
from genhub.recipe.recipe import Recipe, RecipeLike, read_recipe
from genhub.run.claims import claimed, write_recipe
from genhub.run.prepare import prepare_run
from genhub.run.publisher import LAST_PUSH, STOPPED_PUSH, Publisher
from genhub.run.run import FolderRun
from genhub.run.timed import with_steps


def train(
    recipe: RecipeLike, overrides: Sequence[str] = (), *, data: Any = None, run_dir: str | None = None, fresh: bool = False
) -> Path:
    """Train a recipe, from the first step or from where a run of it was stopped.

    Args:
        recipe: a file, a shipped recipe's name, a mapping, or a Recipe.
        overrides: `key.path=value`, on top of the recipe.
        data: a Python object in place of the recipe's `data.name`: what `genhub.load_data` takes. It is kept in the cache
            under a name of its content, by which the run goes on.
        fresh: start over; the old run's folder is kept under another name.
    Returns:
        The last checkpoint's folder.
    Raises:
        GenhubError: see genhub.errors; bad input is told before step 0.
    """
    check_launcher()
    if data is not None:
        overrides = [f"data.name={stored_name(data)}", *overrides]
    start = prepare_run(read_recipe(recipe, overrides, run_dir), fresh)
    run, run_folder = start.run, start.run.folder
    with ExitStack() as stack:
        if main_process():  # the others meet it in `with_steps` or in `fit`
            stack.enter_context(claimed(run_folder, fresh))
        stack.enter_context(deaths_explained())
        start = with_steps(start)
        recipe = start.prepared.recipe
        if main_process():
            write_recipe(recipe, run_folder)
        stack.enter_context(_publishing(recipe, run))
        stack.enter_context(_parting(run))
        stack.enter_context(_saved(run))
        look_for_garbage_as_usual()  # tensors may be held by it
        folder: Path = start.trainer.fit(start.prepared.model, start.training)
    if pictures := run.files.previews():
        say(f"Picture  {pictures[-1]}")
    say(f"Model    {folder}")
    if run.evaluator:
        run.evaluator.conclude()
    say(f"Next     genhub sample {run_folder} -n 64 --out samples.png")
    return folder


@contextmanager
def _parting(run: FolderRun) -> Iterator[None]:
    """Part from the other processes at the end or at a stop. After an error they may be anywhere: the launcher ends them."""
    try:
        yield
    except Interrupted:
        run.part()
        raise
    run.part()


@contextmanager
def _saved(run: FolderRun) -> Iterator[None]:
    """Wait until the last checkpoint is written, after an error as well; but not where a person says twice to stop."""
    try:
        yield
    except Exception:
        run.check_saved(wait=True)
        raise
    run.check_saved(wait=True)


@contextmanager
def _publishing(recipe: Recipe, run: FolderRun) -> Iterator[None]:
    """Push the checkpoints that a run makes meanwhile, if the recipe says so."""
    if recipe.hub is None or not main_process():
        yield
        return
    publisher = Publisher(recipe.hub, run.files)
    run.listeners.append(publisher.offer)
    wait = STOPPED_PUSH
    try:
        yield
        wait = LAST_PUSH
    finally:
        publisher.close(wait)
