"""Stop a run while it trains: for signals, for the deadline, and for numbers that are not finite."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, distributed

from genhub.errors import TrainingError
from genhub.ground.console import warn
from genhub.interfaces.trainer import Run, TrainingData
from genhub.store.run_folder import RunFolder
from genhub.training.sharding import local
from genhub.training.state import RunState

T = TypeVar("T")
GRACE = 10.0
"""Seconds past the deadline after which a wait is cut short."""


class _Came(BaseException):
    """Raised by a signal while waiting. A BaseException, so that no `except Exception` takes it."""


class StopSignal:
    """Memory of SIGINT or SIGTERM until the step is done; the second one acts at once, as if nobody listened. A deadline
    counts as the SIGTERM that would have come a little later. Both end `waiting_for`: what it waits for may never come.

    Several processes agree on the step to stop after: each tells the others its signal with every step, and hears theirs
    a step later, so that none waits for an answer.
    """

    def __init__(self, accelerator: Accelerator, deadline: float | None) -> None:
        """Take the deadline as a time of `time.monotonic`."""
        self.number = 0
        self._deadline = math.inf if deadline is None else deadline
        self._group = distributed.new_group(backend="gloo") if accelerator.num_processes > 1 else None
        self._asked: tuple[Any, Tensor] | None = None
        self._old: dict[int, Any] = {}
        self._waiting = False
        self._came: _Came | None = None
        self._over = threading.Event()

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
            if self._deadline < math.inf:
                threading.Thread(target=self._end_waits, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._forget_handlers()
        if self._asked and kind is None:
            self._asked[0].wait()

    def _forget_handlers(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._forget_handlers()
        doing = "saving what is done" if self._waiting else "finishing the step and saving"
        warn(f"{signal.Signals(number).name}: {doing} (once more: stop at once)")
        if self._waiting:
            raise _Came

    def _end_waits(self) -> None:
        """End a wait that lasts past the deadline, as a signal would; runs in a thread of its own."""
        self._over.wait(self._deadline - time.monotonic())
        while not self._over.wait(GRACE):
            if self._waiting:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def waiting_for(self, get: Callable[[], T]) -> T | None:
        """Return the result of `get`; None if a signal comes first. Of several processes none stops here, as they have
        to agree on a step: their launcher ends those that don't come."""
        try:
            self._waiting = self._group is None
            return get()
        except _Came as came:
            self._came = came  # and what it holds: to close that may take long, and the run is to be saved first
            return None
        finally:
            self._waiting = False

    def seen(self) -> bool:
        """Whether to stop now. Every process calls it once a step."""
        if time.monotonic() >= self._deadline and not self.number:
            self.number = signal.SIGTERM
        if self._group is None:
            return self.number > 0
        asked = self._asked
        numbers = torch.tensor([self.number])
        self._asked = distributed.all_reduce(numbers, distributed.ReduceOp.MAX, group=self._group, async_op=True), numbers
        if asked is None:
            return False
        asked[0].wait()
        self.number = max(self.number, int(asked[1]))
        return int(asked[1]) > 0


class FiniteGuard:
    """Guard against NaN and infinity in losses, gradients and weights.

    It looks when a log line or a checkpoint is due, and stops the run: no step waits for the device. With
    `trainer.skip_bad_steps` it looks at every update before it is applied, and leaves out those that are not finite. An
    update is left out for what is in it alone, so a run that was stopped and goes on leaves out the same ones.
    """

    def __init__(self, allowed: int, run: Run, state: RunState, data: TrainingData) -> None:
        self._allowed, self._run, self._data = allowed, run, data
        self._model, self._accelerator, self._log = state.networks.model, state.accelerator, state.log
        self._share = state.share
        self._buffers: dict[str, Tensor] = {}

    def before_update(self) -> None:
        """Remember buffers that a loss may change in passing, such as batch normalisation's statistics."""
        if self._allowed:
            self._buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}

    def leaves_out(self, step: int, phase: str) -> bool:
        """Whether to leave out the update whose losses and gradient norm the log has just been given.

        Raises:
            TrainingError: more have been left out than `skip_bad_steps` allows.
        """
        if not self._allowed:
            return False
        mine = [values for at, name, values in self._log.waiting if (at, name) == (step, phase)]
        keys, tensors = zip(*((key, value) for values in mine for key, value in values.items()), strict=True)
        values = torch.stack([tensor.float().reshape(()) for tensor in tensors])
        bad = (~values.isfinite()).any().float()
        if self._accelerator.num_processes > 1:  # a loss is a process's own, the decision is everybody's
            bad = self._accelerator.reduce(bad, "sum")
        if not bad.item():
            return False
        key, value = next(((k, v) for k, v in zip(keys, values.tolist(), strict=True) if not math.isfinite(v)), ("", 0.0))
        what = self._describe(step, phase, key, value) if key else f"step {step + 1}: not finite in another process"
        if len(self._log.left_out) == self._allowed:
            raise TrainingError(f"{what} trainer.skip_bad_steps={self._allowed} are used up. {self._last_good()}")
        self._log.take_back(step, phase)
        self._log.left_out.append((step, phase))
        for name, buffer in self._model.named_buffers():
            buffer.copy_(self._buffers[name])
        warn(f"{what} Left out ({len(self._log.left_out)} of {self._allowed}).")
        return True

    def check_logged(self) -> None:
        """
        Raises:
            TrainingError: a loss or a gradient was not finite: step, phase, value, rows, last good checkpoint.
        """
        self._log.fetch()
        bad = self._log.first_not_finite()
        if bad:
            raise TrainingError(
                f"{self._describe(*bad)} {self._last_good()} Lower trainer.optimizer.lr, look at those rows, or set "
                "trainer.skip_bad_steps."
            )

    def check_weights(self, done: int) -> None:
        """Check the weights before they are saved as good.

        Raises:
            TrainingError: a weight is not finite after step `done`.
        """
        tensors = {name: tensor for name, tensor in self._model.state_dict().items() if tensor.is_floating_point()}
        finite = torch.stack([local(tensor).isfinite().all() for tensor in tensors.values()]).tolist()
        bad = next((name for name, fine in zip(tensors, finite, strict=True) if not fine), None)
        if bad:
            raise TrainingError(
                f"step {done}: {bad} has numbers that are not finite, after losses and gradients that were. "
                f"{self._last_good()} Lower trainer.optimizer.lr."
            )

    def _describe(self, step: int, phase: str, key: str, value: float) -> str:
        rows = [int(row) for row in self._data.rows(self._share, seed=self._run.seed, step=step)]
        return f"step {step + 1}, phase '{phase}': {key} is {value}. The batch's rows: {rows}."

    def _last_good(self) -> str:
        self._run.check_saved(wait=True)
        return f"Last good checkpoint: {next(iter(RunFolder(self._run.folder).checkpoints()), 'none')}."
