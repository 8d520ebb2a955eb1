"""One run of a bench, in a process of its own: `python -m genhub.bench.job FOLDER MODEL SEED`. Started again, it goes on."""

from __future__ import annotations

import inspect
import math
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from genhub.bench.plan import RESULT, Result, Settings, read_settings
from genhub.errors import GenhubError, RecipeError
from genhub.evaluation.evaluate import evaluate
from genhub.evaluation.protocol import Evaluation
from genhub.ground.console import say, warn
from genhub.ground.disk import check_unlocked, saving, write_whole
from genhub.ground.processes import main_process
from genhub.ground.run_log import read_metrics
from genhub.interfaces.registry import MODELS, load_class
from genhub.recipe.recipe import Recipe, read_recipe
from genhub.recipe.schema import capabilities
from genhub.run.timed import steps_in_time
from genhub.run.train import train
from genhub.store.run_folder import RunFolder

QUARTERS = 4
"""Number of times that a run is measured while it trains."""
FEW = 500
"""Rows by which it is measured then, and by which numbers of steps are compared."""
STEPS = (1, 2, 4, 8, 16, 32)


def run_job(folder: Path, model: str, seed: int) -> None:
    """Train one family with one seed, measure it, and write the result into the run's folder."""
    settings, run = read_settings(folder), folder / model / f"seed-{seed}"
    if (run / RESULT).is_file():
        return
    recipe = read_recipe(folder / f"{model}.yaml", [f"seed={seed}"], str(run))
    if seed == 0:
        recipe = _measured(recipe, settings)
    train(recipe)
    found = evaluate(run, settings.n, extractor=settings.extractor)
    curve = by_evaluations(run, model, settings) if seed == 0 else ()
    if main_process():
        result = _result(run, model, seed, settings, found).model_copy(update={"by_evaluations": curve})
        with saving(run / RESULT):
            write_whole(run / RESULT, result.model_dump_json(indent=2) + "\n")
        say(f"Result   {settings.ranked_by} {found.values.get(settings.ranked_by, math.nan):.4g}")


def _measured(recipe: Recipe, settings: Settings) -> Recipe:
    """Return the recipe with its checkpoints at each quarter of its steps, where it is measured, too."""
    every = -(-steps_in_time(recipe) // QUARTERS)
    keys = {"every": every, "n": min(FEW, settings.n), "metrics": f"[{settings.ranked_by}]", "extractor": settings.extractor}
    measuring = [f"evaluate.{key}={value}" for key, value in keys.items()]
    return read_recipe(recipe, [f"trainer.save_every={every}", f"trainer.sample_every={every}", *measuring])


def by_evaluations(run: Path, model: str, settings: Settings) -> tuple[tuple[float, float, float], ...]:
    """Return what the figure is with several numbers of steps, of a family that has steps to choose."""
    if "num_inference_steps" not in inspect.signature(load_class(MODELS, model).sample).parameters:
        return ()
    points = []
    for steps in STEPS:
        try:
            found = evaluate(run, min(FEW, settings.n), metrics=[settings.ranked_by, "cost"], extractor=settings.extractor,
                             num_inference_steps=steps).values  # fmt: skip
            points.append((found["network_evaluations"], 1 / found["rows_per_second"], found[settings.ranked_by]))
        except (GenhubError, LookupError) as error:  # a solver may need more steps than so few
            warn(f"num_inference_steps={steps}: {error}; left out")
    return tuple(points)


def _result(run: Path, model: str, seed: int, settings: Settings, found: Evaluation) -> Result:
    lines, _ = read_metrics(RunFolder(run).metrics)
    seconds = max((line["seconds"] for line in lines if math.isfinite(line.get("seconds", math.nan))), default=0.0)
    key = f"evaluate/{settings.ranked_by}"
    measured = {line["step"]: line[key] for line in lines if key in line}  # of a run that was stopped, perhaps twice
    return Result(
        model=model, seed=seed, steps=found.step, seconds=seconds, values=dict(found.values), notes=found.notes,
        peak_memory=_peak(), by_time=tuple((seconds * step / found.step, value) for step, value in measured.items()),
        capabilities=tuple(capabilities(load_class(MODELS, model))),
    )  # fmt: skip


def _peak() -> int:
    """Return the most bytes that were in use: of the accelerator's memory, or else by this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def wait_for(run: Path) -> None:
    """Wait while another process trains there: a bench that was killed leaves its jobs a moment longer."""
    told = False
    while True:
        try:
            check_unlocked(run)
            return
        except RecipeError as error:
            if not told:
                say(f"{error}; waiting for it")
            told = True
            time.sleep(1)


def stop_with_parent() -> None:
    """Stop as by SIGTERM, with a checkpoint, when the process that started this one is gone, as after a SIGKILL."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    folder, model, seed = sys.argv[1:]
    stop_with_parent()
    try:
        wait_for(Path(folder) / model / f"seed-{seed}")
        run_job(Path(folder), model, int(seed))
    except GenhubError as error:
        warn(*error.args)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
