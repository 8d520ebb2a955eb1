"""One run of a bench, in a process of its own: `python -m genhub.benches.job FOLDER MODEL SEED PROCESSES`."""

from __future__ import annotations

import inspect
import json
import math
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from genhub.benches.plan import OF_OTHERS, RESULT, RunResult, Settings, by_other, digest, read_result, read_settings
from genhub.errors import GenhubError, RecipeError
from genhub.evaluation.evaluate import evaluate
from genhub.evaluation.protocol import PREFIX, Evaluation
from genhub.ground.console import say, warn
from genhub.ground.disk import check_unlocked, saving, write_whole
from genhub.ground.processes import command_line
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
STARTED = "bench.json"
"""Ending of the file, beside a run's folder, of the recipe that it was started with and the memory that it took."""


def run_job(folder: Path, model: str, seed: int, num_processes: int = 1) -> None:
    """Train one family with one seed, measure it, and write the result into the run's folder."""
    settings, run, file = read_settings(folder), folder / model / f"seed-{seed}", folder / f"{model}.yaml"
    if read_result(run, digest(file)):
        return
    peak = _trained(file, run, seed, settings, num_processes)
    first, *others = settings.extractors
    measure = partial(evaluate, run, held_out=settings.held_out)
    found = measure(settings.n, extractor=first)
    more = {by_other(name): measure(settings.n, metrics=[OF_OTHERS], extractor=name).values[OF_OTHERS] for name in others}
    by_evaluations = _by_evaluations(partial(measure, extractor=first), model, settings) if seed == 0 else ()
    result = RunResult(
        model=model, recipe=digest(file), seed=seed, steps=found.step, seconds=_seconds(run),
        values={**found.values, **more}, intervals=dict(found.intervals), floor=dict(found.floor), notes=found.notes,
        peak_memory=peak,
        by_time=_by_time(run, found, settings), by_evaluations=by_evaluations,
        capabilities=tuple(capabilities(load_class(MODELS, model))),
    )  # fmt: skip
    with saving(run / RESULT):
        write_whole(run / RESULT, result.model_dump_json(indent=2) + "\n")
    say(f"Result   {settings.ranked_by} {found.values.get(settings.ranked_by, math.nan):.4g}")


def _trained(file: Path, run: Path, seed: int, settings: Settings, num_processes: int) -> int:
    """Train a run to its end, and return the most memory that this took. What was trained by a recipe that was edited since
    is kept under another name."""
    mark = run.with_name(f"{run.name}.{STARTED}")
    started: dict[str, Any] = json.loads(mark.read_text()) if mark.is_file() else {"recipe": digest(file), "peak": 0}
    fresh = started["recipe"] != digest(file)
    if fresh or not mark.is_file():
        started = {"recipe": digest(file), "peak": 0}
        _keep(mark, started)
    if num_processes > 1:
        _train_together(file, run, seed, num_processes, fresh)
    else:
        recipe = read_recipe(file, [f"seed={seed}"], str(run))
        train(_measured(recipe, settings) if seed == 0 and not fresh else recipe, fresh=fresh)
    peak = max(int(started["peak"]), _peak())
    _keep(mark, started | {"peak": peak})
    return peak


def _keep(mark: Path, content: dict[str, Any]) -> None:
    with saving(mark):
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_whole(mark, json.dumps(content) + "\n")


def _train_together(file: Path, run: Path, seed: int, num_processes: int, fresh: bool) -> None:
    """Train in several processes; a signal is passed on to them."""
    words = ["train", str(file), f"seed={seed}", "--run-dir", str(run), "--num-processes", str(num_processes)]
    process = subprocess.Popen([*command_line(), *words, *["--fresh"] * fresh])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda came, _: process.send_signal(came))
    if code := process.wait():
        sys.exit(code)


def _measured(recipe: Recipe, settings: Settings) -> Recipe:
    """Return the recipe with its checkpoints at each quarter of its steps, where it is measured, too."""
    every = -(-steps_in_time(recipe) // QUARTERS)
    keys = {"every": every, "n": min(FEW, settings.n), "metrics": f"[{settings.ranked_by}]",
            "extractor": settings.extractors[0], "held_out": settings.held_out}  # fmt: skip
    measuring = [f"evaluate.{key}={value}" for key, value in keys.items()]
    return read_recipe(recipe, [f"trainer.save_every={every}", f"trainer.sample_every={every}", *measuring])


def _seconds(run: Path) -> float:
    """Return the seconds of training of a whole run."""
    return max(line.get("seconds", 0.0) for line in read_metrics(RunFolder(run).metrics)[0])


def _by_time(run: Path, found: Evaluation, settings: Settings) -> tuple[tuple[float, float], ...]:
    """Return the figure at each step where it was measured in training, by the seconds that the steps up to there took."""
    key, seconds = f"{PREFIX}{settings.ranked_by}", _seconds(run)
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
        except (GenhubError, LookupError, ValueError, RuntimeError) as error:  # a solver may need more steps than so few
            warn(f"num_inference_steps={steps}: {error}; left out")
    return tuple(points)


def _peak() -> int:
    """Return the most bytes that were in use: of the accelerator's memory, or else by this process or the largest that it
    has started."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


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
    folder, model, seed, num_processes = sys.argv[1:]
    try:
        wait_for(Path(folder) / model / f"seed-{seed}")
        run_job(Path(folder), model, int(seed), int(num_processes))
    except GenhubError as error:
        warn("; ".join(map(str, error.args)))  # one line, as the last one of the log is the reason that is told
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
