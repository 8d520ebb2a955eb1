"""Run jobs in the other processes of `genhub.testing.running`: `python -m genhub.testing.worker FOLDER
MODULE...`.

FOLDER has recipe.json and saved/; the modules are imported first. Each job runs in a process of its own, forked where the
system can, so that a class and its libraries are imported once: those that the first job needed, here before the others.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from genhub.data.open import load_data
from genhub.ground.garbage import look_for_garbage_as_usual, look_for_garbage_seldom
from genhub.ground.later import put_off_imports
from genhub.ground.weights import save_tensors
from genhub.recipe.recipe import Recipe, read_recipe
from genhub.run.prepare import prepare
from genhub.run.run import FolderRun
from genhub.run.train import train
from genhub.store.run_folder import RECIPE
from genhub.testing.report import told
from genhub.testing.subject import STOPPED_AT, drawn

Job = Callable[[Path, Recipe], None]
IMPORTED = "imported.txt"
COMPILER = "torch._dynamo.utils"


def main(folder: Path, modules: Sequence[str]) -> None:
    look_for_garbage_seldom()
    put_off_imports()  # as a command does
    for module in modules:
        import_module(module)
    recipe = read_recipe(json.loads((folder / "recipe.json").read_text()))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a process that has used several can't be forked
    prepare(recipe)  # with the trainer, imports nearly all there is to import
    recipe.trainer_class()
    look_for_garbage_as_usual()
    results = {"whole": in_processes(whole, folder, recipe, 1, threads)}
    import_what_was(folder / IMPORTED)
    for job, number in [(stopped, 1), (resumed, 1), (loaded, 1), (together, 2)]:
        results[job.__name__] = in_processes(job, folder, recipe, number, threads)
    (folder / "results.json").write_text(json.dumps(results))


def import_what_was(file: Path) -> None:
    """Import the modules that a file lists, and the compiler, as several processes do by DistributedDataParallel."""
    for name in [*(file.read_text().split() if file.exists() else ()), COMPILER]:
        with suppress(ImportError):  # some were made by hand, by others
            import_module(name)


def in_processes(job: Job, folder: Path, recipe: Recipe, number: int, threads: int) -> str:
    """Run a job on so many processes; return the message of the first that failed, or ""."""
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    started = [context.Process(target=attempt, args=(job, folder, recipe, rank, number, threads)) for rank in range(number)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    failures = sorted(folder.glob(f"{job.__name__}-*.failure"), key=lambda file: file.stat().st_mtime_ns)
    codes = [f"a process ended with code {process.exitcode}" for process in started if process.exitcode]
    return next(iter([*(file.read_text() for file in failures), *codes]), "")


def attempt(job: Job, folder: Path, recipe: Recipe, rank: int, number: int, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        if number > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(number), LOCAL_WORLD_SIZE=str(number))
            where = f"file://{folder / 'rendezvous'}"
            torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=number)
        job(folder, recipe)
    except BaseException as error:
        (folder / f"{job.__name__}-{rank}.failure").write_text(told(error))
        os._exit(1)  # the other process may wait for this one: let it see that nobody is there


def whole(folder: Path, recipe: Recipe) -> None:
    before = set(sys.modules)
    train(recipe, run_dir=str(folder / "whole"))
    (folder / IMPORTED).write_text("\n".join(name for name in list(sys.modules) if name not in before))


def stopped(folder: Path, recipe: Recipe) -> None:
    train(recipe, [f"trainer.max_steps={STOPPED_AT}"], run_dir=str(folder / "parts"))


def resumed(folder: Path, recipe: Recipe) -> None:
    train(recipe, run_dir=str(folder / "parts"))


def loaded(folder: Path, recipe: Recipe) -> None:
    cls = recipe.model_class()
    conditions = load_data(recipe.data, recipe.model.conditions, recipe.known).conditions(range(3))
    elements = drawn(cls.from_pretrained(folder / "saved"), 3, range(3), conditions)
    save_tensors({"drawn": elements}, folder / "loaded.safetensors")


def together(folder: Path, recipe: Recipe) -> None:
    prepared = prepare(recipe)
    run_dir = folder / "together"
    run_dir.mkdir(exist_ok=True)
    (run_dir / RECIPE).write_text(prepared.recipe.yaml())
    run = FolderRun(run_dir, recipe.trainer, recipe.seed)
    recipe.trainer_class()(recipe.trainer, run).fit(prepared.model, prepared.data)
    save_tensors(dict(prepared.model.named_parameters()), folder / f"rank-{os.environ['RANK']}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
