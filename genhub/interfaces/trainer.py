"""Interface of trainers: `Trainer`, from which a new one derives, and the run and data it is given. training/ has genhub's
own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from genhub.ground.brief import Brief
from genhub.ground.processes import ALONE, Share, Together
from genhub.ground.run_log import RunLog
from genhub.interfaces.columns import DataConfig, DataSpec
from genhub.interfaces.config import TrainerConfig
from genhub.interfaces.model import Batch, Model


class TrainingData(Protocol):
    """Data as a trainer sees them: batches whose order is a pure function of (seed, step, position)."""

    @property
    def config(self) -> DataConfig:
        """The recipe's section `data`."""

    @property
    def spec(self) -> DataSpec:
        """Shape, classes and fingerprint of the data."""

    @property
    def columns(self) -> Collection[str]:
        """Names of a batch's tensors."""

    def batches(
        self, share: Share = ALONE, *, seed: int, start_step: int, device: torch.device,
        state: Mapping[str, Any] | None = None,
    ) -> Iterator[Batch]:  # fmt: skip
        """Yield endless micro-batches from `start_step` on; `share.accumulation` of them make a step on each rank. `state`
        spares a stream of data the reading of all that comes before."""

    def state(self, step: int) -> dict[str, Any]:
        """Return the `state`, as JSON, with which the latest `batches` would start at a step on this rank."""

    def rows(self, share: Share = ALONE, *, seed: int, step: int) -> Any:
        """Return the row numbers of a step's batch on a rank, for messages."""


@dataclass(repr=False)
class TrainerState(Brief):
    """State that a stopped run needs to go on, besides the model folder itself."""

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Named tensors by file name: the raw weights, the averages, each optimizer."""
    values: dict[str, Any] = field(default_factory=dict)
    """Counters and other values, as JSON."""


@dataclass(frozen=True, repr=False)
class StoppedRun(Brief):
    """Checkpoint from which a run goes on."""

    folder: Path
    """The checkpoint's folder."""
    step: int
    """Number of steps done."""
    state: TrainerState
    """The state that `save_checkpoint` was given."""


class Run(Protocol):
    """The run that a trainer is handed: its folder, and what every verb expects to find there. All of a run's processes
    call the methods, each with the same arguments; the first one writes, and the others wait for it."""

    @property
    def folder(self) -> Path:
        """The run's folder."""

    @property
    def seed(self) -> int:
        """Seed of all the run's randomness."""

    @property
    def started(self) -> float:
        """Time by `time.monotonic` when the run began, before its data were read."""

    @property
    def together(self) -> Together:
        """The processes that train together: this one's rank and device, and what they tell each other. One alone counts,
        too."""

    def stopped_run(self, data: TrainingData) -> StoppedRun | None:
        """Return the run's newest whole checkpoint, or None for a new run. Damaged newer ones are told and passed over.

        Raises:
            CheckpointError: there are checkpoints, and none is whole.
            RecipeError: the images are not those that the run was trained on.
        """

    def log(self, data: TrainingData, start: int = 0) -> RunLog:
        """Return the log of a run that goes on at a step: lines of metrics.jsonl, and what the console shows."""

    def save_checkpoint(self, step: int, model: Model, data: TrainingData, state: TrainerState) -> Path:
        """Write checkpoints/step-NNNNNN whole or not at all, then delete older ones as `keep_last` and `keep_every` say.
        What it holds is copied when this returns, and written in the background: see `check_saved`. Where several processes
        train, or Python can't copy the model, it is there when this returns.

        Args:
            step: how many steps are done.
            model: the one that samples and is shared: the averaged weights, where there are any.
            state: what `stopped_run` gives back; the model's own weights are not in it unless you put them there.
        Returns:
            The folder that the checkpoint has when it is written.
        Raises:
            GenhubError: it, or the one before, can't be written; older checkpoints are untouched.
        """

    def check_saved(self, wait: bool = False) -> None:
        """Raise what kept the last checkpoint from being written, if that is known by now. Call it in each step, as it
        costs nothing; `evaluate`, the next `save_checkpoint` and the run's end do so, too.

        Args:
            wait: wait until the checkpoint is there.
        Raises:
            GenhubError: it can't be written; older checkpoints are untouched.
        """

    def evaluate(self, step: int, model: Model) -> dict[str, float]:
        """Measure a model where the recipe's `evaluate` wants it at this step. Call it after `save_checkpoint`, and, for
        what a stop left out, when a stopped run goes on. It disturbs neither the model nor torch's randomness.

        Args:
            step: how many steps are done.
            model: as for `save_checkpoint`.
        Returns:
            `evaluate/` and a figure's name to its value, for trackers; they are in metrics.jsonl already. Empty where
            nothing is due or has been measured before, or where something is NaN or infinite, which is warned of.
        """

    def measured(self, step: int) -> list[tuple[int, str, float, float | None, float | None]]:
        """Return what `evaluate` has measured up to a step, as rows of a table: step, the figure's name, its value, and the
        ends of its 95% interval, None where it has none. On the first process alone."""

    def save_preview(self, step: int, model: Model) -> Path | None:
        """Draw the config's `num_samples` in eval mode, with the same seeds every time, to samples/step-NNNNNN.png; of
        what can be heard, the first few also to samples/step-NNNNNN-0.wav and so on.

        Returns:
            The picture's file; None where an image is NaN or infinite, which is warned of, and on the other processes.
        """


class Trainer(ABC):
    """Trains a model. A method whose updates do not fit phases brings its own: `fit`, and a `Config` with its keys."""

    Config: ClassVar[type[TrainerConfig]] = TrainerConfig

    def __init__(self, config: TrainerConfig, run: Run) -> None:
        self.config = config
        self.run = run

    def check(self, model: Model, data: TrainingData) -> None:  # noqa: B027  # most have nothing to find out
        """Find out what would keep `fit` from its first step, before anything is written; `--dry-run` asks, too.

        Raises:
            RecipeError: the config asks for what this machine, model or data doesn't have.
        """

    @abstractmethod
    def fit(self, model: Model, data: TrainingData) -> Path:
        """Train until the config's last step, from the run's newest checkpoint if it has one; return the last one."""
