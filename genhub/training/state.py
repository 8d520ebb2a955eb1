"""State of a run, everything that changes while it trains: to a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from genhub.ground.console import warn
from genhub.ground.processes import Share
from genhub.ground.run_log import Entry, RunLog
from genhub.interfaces.model import Model
from genhub.interfaces.trainer import TrainerState
from genhub.training.networks import Networks
from genhub.training.optim import load_optimizer, optimizer_tensors
from genhub.training.sharding import full, like
from genhub.training.tracking import Tracking


@dataclass
class RunState:
    """Everything that changes in a run, to and from a checkpoint."""

    networks: Networks
    log: RunLog
    accelerator: Accelerator
    trackers: Tracking
    share: Share
    """This process's part of a batch: rank, world_size and accumulation."""
    unseen: set[str]
    """Phases whose loss has not been computed since the run started or went on."""

    @property
    def machine(self) -> dict[str, Any]:
        """Facts besides the recipe that bit-equality depends on."""
        return {
            "threads": torch.get_num_threads(),
            "processes": self.accelerator.num_processes,
            "device": self.accelerator.device.type,
            "torch": str(torch.__version__),
            "gradient_accumulation_steps": self.share.accumulation,
        }

    def save(self, windows: Sequence[list[Entry]], states: Sequence[Mapping[str, Any]]) -> TrainerState:
        """Return the state to store; `windows` are the processes' losses since the last log line, `states` their places in
        the data."""
        tensors = {"weights": self._changing(self.networks.model)}
        if self.networks.ema:
            tensors["averages"] = self._changing(self.networks.ema.current())
        for index, optimizer in enumerate(self.networks.optimizers.values()):
            stored = optimizer_tensors(optimizer)
            tensors[f"optimizer-{index}"] = {name: full(tensor) for name, tensor in stored.items()}
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        values = {
            "windows": windows,
            "data": states,
            "seconds": self.log.seconds,
            "machine": self.machine,
            "scaler": scaler,
            "left_out": self.log.left_out,
        }
        return TrainerState(tensors, values)

    def _changing(self, model: Model) -> dict[str, Tensor]:
        """Return the trained networks' weights and all buffers. Weights that no phase trains are in the model's own folder
        already."""
        trained = frozenset().union(*self.networks.optimizers)
        names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        return {k: full(v) for k, v in model.state_dict().items() if k not in names or k.split(".")[0] in trained}

    def _restore(self, model: Model, tensors: dict[str, Tensor]) -> None:
        """Load the weights and buffers that `_changing` returned."""
        missing = self._changing(model).keys() - tensors.keys()
        if missing:
            raise LookupError(f"Missing: {', '.join(sorted(missing)[:5])}")
        own = model.state_dict()
        model.load_state_dict(own | {name: like(tensor, own[name]) for name, tensor in tensors.items()})

    def load(self, state: TrainerState) -> None:
        self._restore(self.networks.model, state.tensors["weights"])
        if self.networks.ema:
            self._restore(self.networks.ema.model, state.tensors["averages"])
            self.networks.ema.restored()
        for index, optimizer in enumerate(self.networks.optimizers.values()):
            stored = state.tensors[f"optimizer-{index}"]
            owners = {name: optimizer.parameters[int(name.partition(".")[0])] for name in stored}
            whole = {name: like(tensor, owners[name]) if tensor.dim() else tensor for name, tensor in stored.items()}
            load_optimizer(optimizer, whole)
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state.values["scaler"])
        windows = state.values["windows"]
        mine = windows[self.accelerator.process_index % len(windows)]
        self.log.entries = [(step, phase, values) for step, phase, values in mine]
        self.log.seconds_before = state.values["seconds"]
        self.log.left_out = [(step, phase) for step, phase in state.values["left_out"]]
        for key, now in self.machine.items():
            before = state.values["machine"][key]
            if before != now:
                warn(f"{key} was {before}, is {now}: the run goes on, but not bit for bit the same")
