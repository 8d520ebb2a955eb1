"""`trainer.max_time`: find out, before step 0, how many steps fit into a time."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from genhub.ground.console import say
from genhub.ground.disk import saving, write_whole
from genhub.ground.processes import main_process
from genhub.ground.run_log import RunLog
from genhub.interfaces.config import TrainerConfig
from genhub.interfaces.model import Model
from genhub.interfaces.section import seconds_in
from genhub.interfaces.trainer import StoppedRun, TrainerState, TrainingData
from genhub.recipe.recipe import Recipe
from genhub.recipe.sections import AccelerateConfig
from genhub.run.claims import claimed
from genhub.run.prepare import Start, prepare_run
from genhub.run.run import FolderRun

FEW = 4
"""Steps of a first trial, of which the very first is left out: it is slow."""
SHARE, MOST = 0.02, 200
"""Share of the time that a second trial may take, and its most steps."""


def with_steps(start: Start) -> Start:
    """Return a start whose recipe has the steps that fit into its `max_time`, if it has one: those that were found when the
    run began, or that are measured now. All processes call it; the first one writes what was found into the run's folder."""
    config = start.prepared.recipe.trainer
    if config.max_time is None:
        return start
    file, seconds = start.run.files.found_steps, seconds_in(config.max_time)
    together = start.run.together
    steps = together.broadcast(_found(file, config.max_time))
    if steps is None:
        each = seconds_a_step(start, seconds)
        steps = max(1, round(seconds / each))
        if together.main:
            with saving(file):
                write_whole(file, json.dumps({"max_time": config.max_time, "max_steps": steps}) + "\n")
        say(f"Steps    {steps:,} of {1000 * each:.3g} ms fill {config.max_time}")
    return start.of_steps(steps)


def steps_in_time(recipe: Recipe) -> int:
    """Return the steps that a recipe's run has: those that fit into its `max_time`, which are kept in the run's folder, so
    that it is trained with as many."""
    start = prepare_run(recipe)
    with ExitStack() as stack:
        if main_process():  # the others meet it in `with_steps`
            stack.enter_context(claimed(start.run.folder, fresh=False))
        return with_steps(start).prepared.recipe.trainer.max_steps


def _found(file: Path, max_time: str) -> int | None:
    """Return the steps that were found for so long a time, None: there are none yet."""
    try:
        found = json.loads(file.read_text())
        return int(found["max_steps"]) if found["max_time"] == max_time else None
    except (OSError, ValueError, LookupError, TypeError):
        return None  # none, or half of it: it is measured again


def seconds_a_step(start: Start, seconds: int) -> float:
    """Return how long a step takes on the first process, by steps of a copy of the model that leave no trace. All processes
    call it and get the same: each step of one waits for the others, so that they must make as many."""
    first = _trial(start, FEW)
    steps = min(MOST, int(SHARE * seconds / first))
    return _trial(start, steps) if steps > FEW else first


def _trial(start: Start, steps: int) -> float:
    config = start.prepared.recipe.trainer
    every = max(1, min(config.log_every, steps // FEW))
    quiet: dict[str, object] = {"max_steps": steps, "max_time": None, "log_every": every, "sample_every": None}
    if isinstance(config, AccelerateConfig):
        quiet |= {"trackers": (), "stop_after": None}
    config = config.model_copy(update=quiet)
    with tempfile.TemporaryDirectory() as folder:
        run = TrialRun(Path(folder), config, start.run.seed)
        trainer = type(start.trainer)(config, run)
        trainer.check(model := copy.deepcopy(start.prepared.model), start.training)
        trainer.fit(model, start.training)
    (begin, at), (end, later) = run.times[0], run.times[-1]
    return start.run.together.broadcast((later - at) / (end - begin))


class TrialRun(FolderRun):
    """A run that keeps nothing but the times of its log's lines."""

    def __init__(self, folder: Path, config: TrainerConfig, seed: int) -> None:
        super().__init__(folder, config, seed)
        self.times: list[tuple[int, float]] = []
        """(step, seconds of training) of each line."""

    def stopped_run(self, data: TrainingData) -> StoppedRun | None:
        return None

    def log(self, data: TrainingData, start: int = 0) -> RunLog:
        return TrialLog(self)

    def save_checkpoint(self, step: int, model: Model, data: TrainingData, state: TrainerState) -> Path:
        return self.files.checkpoint(step)

    def evaluate(self, step: int, model: Model) -> dict[str, float]:
        return {}

    def save_preview(self, step: int, model: Model) -> Path | None:
        return None


class TrialLog(RunLog):
    """A log that says and writes nothing."""

    def __init__(self, run: TrialRun) -> None:
        super().__init__(run.files.metrics, total=1, batch_size=1, start=0, writes=False)
        self._times = run.times

    def line(self, step: int, values: Mapping[str, float], losses: Mapping[str, float]) -> dict[str, float]:
        self._times.append((step, self.seconds))
        return super().line(step, values, losses)
