"""One run of a bench, in a process of its own: `python -m genhub.bench.job FOLDER MODEL SEED`. Started again, it goes on."""

from __future__ import annotations

import inspect
import math
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from genhub.bench.plan import OF_OTHERS, RESULT, Result, Settings, by_other, read_settings
from genhub.errors import GenhubError, RecipeError
from genhub.evaluation.during import PREFIX
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
    train(_measured(recipe, settings) if seed == 0 else recipe)
    first, *others = settings.extractors
    measure = partial(evaluate, run, held_out=settings.held_out)
    found = measure(settings.n, extractor=first)
    more = {by_other(name): measure(settings.n, metrics=[OF_OTHERS], extractor=name).values[OF_OTHERS] for name in others}
    by_time = _by_time(run, found, settings)
    by_evaluations = _by_evaluations(partial(measure, extractor=first), model, settings) if seed == 0 else ()
    if main_process():
        result = Result(
            model=model, seed=seed, steps=found.step, seconds=_lines(run)[-1]["seconds"], values={**found.values, **more},
            intervals=dict(found.intervals), floor=dict(found.floor), notes=found.notes, peak_memory=_peak(),
            by_time=by_time, by_evaluations=by_evaluations, capabilities=tuple(capabilities(load_class(MODELS, model))),
        )  # fmt: skip
        with saving(run / RESULT):
            write_whole(run / RESULT, result.model_dump_json(indent=2) + "\n")
        say(f"Result   {settings.ranked_by} {found.values.get(settings.ranked_by, math.nan):.4g}")


def _measured(recipe: Recipe, settings: Settings) -> Recipe:
    """Return the recipe with its checkpoints at each quarter of its steps, where it is measured, too."""
    every = -(-steps_in_time(recipe) // QUARTERS)
    keys = {"every": every, "n": min(FEW, settings.n), "metrics": f"[{settings.ranked_by}]",
            "extractor": settings.extractors[0], "held_out": settings.held_out}  # fmt: skip
    measuring = [f"evaluate.{key}={value}" for key, value in keys.items()]
    return read_recipe(recipe, [f"trainer.save_every={every}", f"trainer.sample_every={every}", *measuring])


def _lines(run: Path) -> list[dict[str, float]]:
    """Return the lines of a run's log that have a time."""
    return [line for line in read_metrics(RunFolder(run).metrics)[0] if math.isfinite(line.get("seconds", math.nan))]


def _by_time(run: Path, found: Evaluation, settings: Settings) -> tuple[tuple[float, float], ...]:
    """Return the figure at each step where it was measured in training, by the seconds that the steps up to there took."""
    key, seconds = f"{PREFIX}{settings.ranked_by}", _lines(run)[-1]["seconds"]
    measured = {line["step"]: line[key] for line in read_metrics(RunFolder(run).metrics)[0] if key in line}
    return tuple((seconds * step / found.step, value) for step, value in measured.items())


def _by_evaluations(
    measure: Callable[..., Evaluation], model: str, settings: Settings
) -> tuple[tuple[float, float, float], ...]:
    """Return what the figure is with several numbers of steps, of a family that has steps to choose."""
    if "num_inference_steps" not in inspect.signature(load_class(MODELS, model).sample).parameters:
        return ()
    points, n, figures = [], min(FEW, settings.n), [settings.ranked_by, "cost"]
    for steps in STEPS:
        try:
            values = measure(n, metrics=figures, num_inference_steps=steps).values
            points.append((values["network_evaluations"], 1 / values["rows_per_second"], values[settings.ranked_by]))
        except (GenhubError, LookupError) as error:  # a solver may need more steps than so few
            warn(f"num_inference_steps={steps}: {error}; left out")
    return tuple(points)


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


def main() -> None:
    folder, model, seed = sys.argv[1:]
    try:
        wait_for(Path(folder) / model / f"seed-{seed}")
        run_job(Path(folder), model, int(seed))
    except GenhubError as error:
        warn(*error.args)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
