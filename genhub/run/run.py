"""The run that a trainer is handed: it finds the checkpoint to go on from, and writes into the run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from genhub.data.open import open_data
from genhub.errors import CheckpointError, NotFinite, RecipeError
from genhub.evaluation.chosen import MetricFailed
from genhub.evaluation.during import Evaluator
from genhub.ground.background import in_background
from genhub.ground.console import warn
from genhub.ground.processes import Together, alone
from genhub.ground.run_log import RunLog
from genhub.interfaces.columns import DataSpec
from genhub.interfaces.config import TrainerConfig
from genhub.interfaces.model import Model
from genhub.interfaces.trainer import StoppedRun, TrainerState, TrainingData
from genhub.recipe.recipe import read_data_config
from genhub.sampling.draw import draw_preview
from genhub.sampling.request import Drawing
from genhub.store.checkpoints import load_state, prune_checkpoints, save_checkpoint
from genhub.store.manifest import read_manifest
from genhub.store.run_folder import RECIPE, RunFolder
from genhub.store.snapshot import snapshot, snapshot_of_state


class FolderRun:
    """A run in a folder: the `genhub.Run` that `genhub train` hands to a trainer. See there for what each method is."""

    def __init__(self, folder: Path, config: TrainerConfig, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.files = RunFolder(folder)
        self.started = time.monotonic()
        self.evaluator: Evaluator | None = None
        """The evaluator that measures while the run trains; None: the recipe does not want it."""
        self.listeners: list[Callable[[Path, bool], None]] = []
        """Functions that are told of each checkpoint that was written, and whether it is the run's last."""
        self.preview_conditions: Mapping[str, Tensor | Sequence[Any]] = {}
        """The conditions, as kept, that previews are drawn for."""
        self._previewed: int | None = None
        """The step of the last preview that was drawn here: one of the same step may be of an earlier run's weights."""
        self.config = config
        self._seen: list[Path] | None = None
        """The checkpoints that were there when the newest whole one was looked for."""
        self._newest: tuple[Path | None, list[str]] = (None, [])
        self._checked: Path | None = None
        """The checkpoint whose data are known to be this run's."""
        self._log: RunLog | None = None
        self._saving: Future[None] | None = None
        """The checkpoint that is being written in the background."""

    @cached_property
    def together(self) -> Together:
        return Together(self.config.device)

    @property
    def _together(self) -> Together | None:
        """The processes, None where this one is alone: then nothing need be imported to meet them."""
        return None if alone() else self.together

    @property
    def _main(self) -> bool:
        return self._together is None or self._together.main

    def _wait(self) -> None:
        if self._together:
            self._together.wait()

    def part(self) -> None:
        """Part from the other processes, if there are any."""
        if self._together:
            self._together.end()

    def newest_whole(self) -> Path | None:
        """Return the newest whole checkpoint, on all processes. The first one alone compares files with their hashes, and
        doesn't again before checkpoints come or go; the others wait for what it has found, be it an error.

        Raises:
            CheckpointError: see `stopped_run`.
        """
        found: Path | CheckpointError | None = None
        if self._main:
            try:
                found = self._look()
            except CheckpointError as error:
                found = error
        folder = self._together.broadcast(found) if self._together else found
        if isinstance(folder, CheckpointError):
            raise folder
        return folder

    def _look(self) -> Path | None:
        there = self.files.checkpoints()
        if there != self._seen:
            self._newest = self.files.newest_whole()
            self._seen = there
        return self._newest[0]

    def stopped_run(self, data: TrainingData) -> StoppedRun | None:
        if self._main:
            self.files.remove_leftovers()
        folder = self.newest_whole()
        if folder is not None and folder != self._checked:
            check_same_data(folder, data)
            self._checked = folder
        for fault in self._newest[1]:
            warn(f"{fault}; going back to an earlier checkpoint")
        return StoppedRun(folder, read_manifest(folder).step, load_state(folder)) if folder else None

    def log(self, data: TrainingData, start: int = 0) -> RunLog:
        total, batch_size = self.config.max_steps, data.config.batch_size
        self._log = RunLog(self.files.metrics, total, batch_size, start, writes=self._main)
        return self._log

    def save_checkpoint(self, step: int, model: Model, data: TrainingData, state: TrainerState) -> Path:
        self._wait()  # nobody runs ahead of the one that writes
        if self._main:
            self.check_saved(wait=True)  # the one before
            if self._log:
                self._log.sync()
            previewed = self._previewed == step
            copied = None if self._together else snapshot(model)  # other processes would not know whether it is there
            if copied is None:
                self._write(step, model, data.spec, state, previewed)
            else:
                write = partial(self._write, step, copied, data.spec, snapshot_of_state(state), previewed)
                self._saving = in_background(write, "genhub-save")
        self._wait()
        return self.files.checkpoint(step)

    def _write(self, step: int, model: Model, data: DataSpec, state: TrainerState, previewed: bool) -> None:
        folder = save_checkpoint(self.files, step, model, state, data, previewed=previewed)
        best = self.evaluator.best(step) if self.evaluator else None
        prune_checkpoints(self.files, self.config.keep_last, self.config.keep_every, best.step if best else None)
        for listener in self.listeners:
            listener(folder, step == self.config.max_steps)

    def check_saved(self, wait: bool = False) -> None:
        if self._saving and (wait or self._saving.done()):
            saving, self._saving = self._saving, None
            saving.result()

    def evaluate(self, step: int, model: Model) -> dict[str, float]:
        if not self.evaluator or not self.evaluator.due(step):
            return {}
        self.check_saved(wait=True)  # what is measured is kept with the digest of its checkpoint
        try:
            return self.evaluator(step, model, self._together)
        except (NotFinite, MetricFailed) as error:
            warn(f"step {step} is not measured: {error}")
            return {}

    def measured(self, step: int) -> list[tuple[int, str, float, float | None, float | None]]:
        return self.evaluator.measured(step) if self.evaluator else []

    def save_preview(self, step: int, model: Model) -> Path | None:
        drawing = Drawing(self.config.num_samples, self.seed, self.preview_conditions)
        picture = draw_preview(model, drawing, self.files, step, together=self._together)
        self._previewed = step if picture else None
        return picture


def check_same_data(folder: Path, data: TrainingData) -> None:
    """
    Raises:
        RecipeError: the rows are not those that the checkpoint was trained on.
    """
    before = read_manifest(folder).data
    if before is None or before.fingerprint not in (data.spec.fingerprint, _fingerprint_of_old(folder, data)):
        prints = before.fingerprints if before else {}
        changed = [name for name, value in data.spec.fingerprints.items() if prints.get(name) != value]
        raise RecipeError(
            f"data: the values or the order of {', '.join(changed)} have changed since {folder}; put them back, start over "
            f"with --fresh, or start a new run from these weights (model.from={folder})"
        )


def _fingerprint_of_old(folder: Path, data: TrainingData) -> str | None:
    """Return the rows' fingerprint as it was taken when the checkpoint was made, from memory or from the stored bytes: those
    in memory are known by what is kept of them, others by what is stored. None where nothing has changed about that."""
    if data.config.streaming or not (folder / RECIPE).is_file():
        return None
    in_memory = read_data_config(folder / RECIPE).in_memory
    if in_memory == data.config.in_memory:
        return None
    config, known = data.config.model_copy(update={"in_memory": in_memory}), data.spec.model_data
    return open_data(config, tuple(known.conditions), known).spec.fingerprint
