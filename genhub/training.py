"""What a trainer is, what it is given, and what it keeps. A new one derives from `Trainer`; trainer.py has genhub's own."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, final

import torch
from torch import Tensor

from genhub.config import DataConfig, DataSpec, TrainerConfig
from genhub.errors import NotFinite
from genhub.interfaces import GenerativeModel
from genhub.logs import warn

if TYPE_CHECKING:
    from accelerate import Accelerator


class TrainingData(Protocol):
    """What a trainer needs of data: batches whose order is a pure function of (seed, step, position)."""

    @property
    def config(self) -> DataConfig:
        """Section `data` of the recipe."""

    @property
    def spec(self) -> DataSpec:
        """Shape, classes and fingerprint of the data."""

    @property
    def columns(self) -> Collection[str]:
        """Names of a batch's tensors."""

    def batches(
        self, *, seed: int, start_step: int, rank: int, world_size: int, accumulation: int, device: torch.device,
        state: Mapping[str, Any] | None = None,
    ) -> Iterator[dict[str, Tensor]]:  # fmt: skip
        """Endless micro-batches from `start_step` on; `accumulation` of them make a step on each rank. `state` spares a
        stream of data the reading of all that comes before."""

    def state(self, step: int) -> dict[str, Any]:
        """The `state` with which `batches` starts at that step on this rank, as JSON; of the latest `batches`."""

    def rows(self, *, seed: int, step: int, rank: int, world_size: int, accumulation: int) -> Any:
        """Row numbers of a step's batch on a rank, for messages."""


@dataclass
class TrainerState:
    """What a stopped run needs to go on, besides the model folder itself."""

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """File name to named tensors: the raw weights, the averages, each optimizer."""
    values: dict[str, Any] = field(default_factory=dict)
    """Counters and whatever else is JSON."""


@dataclass(frozen=True)
class StoppedRun:
    """Where a run goes on."""

    folder: Path
    """The checkpoint."""
    step: int
    """How many steps were done."""
    state: TrainerState
    """What was given to `save_checkpoint`."""


class Evaluator(Protocol):
    """What measures a run's model while it trains; `genhub.train` gives it to the trainer."""

    def __call__(self, step: int, model: GenerativeModel, accelerator: Accelerator | None = None) -> dict[str, float]:
        """See `Trainer.evaluate`."""

    def best(self, step: int) -> Any:
        """What was best up to a step, with its `step`; None if nothing was measured, or is to be kept for it."""

    def conclude(self) -> None:
        """Print the best checkpoint, when the run is done."""


class Trainer(ABC):
    """Trains a model. A method whose updates do not fit phases brings its own: `fit`, and a `Config` with its keys.

    The methods below keep a run's folder as every verb expects it. Of several processes, only the first may call them, but
    for `evaluate`, which is for all.
    """

    Config: ClassVar[type[TrainerConfig]] = TrainerConfig

    def __init__(self, config: TrainerConfig, *, run_dir: Path, seed: int = 0) -> None:
        self.config = config
        self.run_dir = run_dir
        self.seed = seed
        self.started = time.monotonic()
        """When the run began, before its data were read: `stop_after` counts from here."""
        self.listeners: list[Callable[[Path, bool], None]] = []
        """Told of each checkpoint that `save_checkpoint` wrote, and whether it is the run's last."""
        self.evaluator: Evaluator | None = None
        """What `evaluate` calls; None: the recipe does not want it."""

    def check(self, model: GenerativeModel, data: TrainingData) -> None:  # noqa: B027  # most have nothing to find out
        """Find out what would keep `fit` from its first step, before anything is written; `--dry-run` asks, too.

        Raises:
            RecipeError: the config asks for what this machine, model or data doesn't have.
        """

    @abstractmethod
    def fit(self, model: GenerativeModel, data: TrainingData) -> Path:
        """Train until the config's last step, from the run's newest checkpoint if it has one; return the last one."""

    @final
    def stopped_run(self, data: TrainingData) -> StoppedRun | None:
        """The run's newest whole checkpoint, or None for a new run. Damaged newer ones are told and passed over.

        Raises:
            CheckpointError: there are checkpoints, and none is whole.
            RecipeError: the images are not those that the run was trained on.
        """
        from genhub.checkpoint import stopped_run

        return stopped_run(self.run_dir, data)

    @final
    def save_checkpoint(self, step: int, model: GenerativeModel, data: TrainingData, state: TrainerState) -> Path:
        """Write checkpoints/step-NNNNNN whole or not at all, then delete older ones as `keep_last` and `keep_every` say.

        Args:
            step: how many steps are done.
            model: the one that samples and is shared: the averaged weights, where there are any.
            state: what `stopped_run` gives back; the model's own weights are not in it unless you put them there.
        Raises:
            GenhubError: it can't be written; older checkpoints are untouched.
        """
        from genhub.checkpoint import prune_checkpoints, save_checkpoint

        folder = save_checkpoint(self.run_dir, step, model, state, data.spec)
        best = self.evaluator.best(step) if self.evaluator else None
        prune_checkpoints(self.run_dir, self.config.keep_last, self.config.keep_every, best.step if best else None)
        for listener in self.listeners:
            listener(folder, step == self.config.max_steps)
        return folder

    @final
    def evaluate(self, step: int, model: GenerativeModel, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Measure a model where the recipe's `evaluate` wants it at this step. Call it after `save_checkpoint`, and, for
        what a stop left out, when a stopped run goes on. It disturbs neither the model nor torch's randomness.

        Args:
            step: how many steps are done.
            model: as for `save_checkpoint`.
            accelerator: of a trainer of several processes, which all call this together: each draws its share.
        Returns:
            `evaluate/` and a figure's name to its value, for trackers; they are in metrics.jsonl already. Empty where
            nothing is due or has been measured before, or where something is NaN or infinite, which is warned of.
        """
        try:
            return self.evaluator(step, model, accelerator) if self.evaluator else {}
        except NotFinite as error:
            warn(f"step {step} is not measured: {error}")
            return {}

    @final
    def save_preview(self, step: int, model: GenerativeModel) -> Path | None:
        """Draw the config's `num_samples` in eval mode, with the same seeds every time, to samples/step-NNNNNN.png.

        Returns:
            The file; None where an image is NaN or infinite, which is warned of.
        """
        from genhub.sampling import draw_preview

        return draw_preview(model, self.config.num_samples, self.run_dir, step, seed=self.seed)
