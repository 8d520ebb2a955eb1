"""What a run trains, and all of it that changes: to a checkpoint and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from genhub.checkpoint import load_optimizer, optimizer_tensors
from genhub.config import AccelerateConfig
from genhub.ema import EMA
from genhub.interfaces import Batch, GenerativeModel, Phase
from genhub.logs import Entry, RunLog, warn
from genhub.optim import FrozenNetworks, PhaseOptimizer, build_optimizers
from genhub.sharding import autocast, full, gather, like, shard
from genhub.training import TrainerState


@dataclass
class Networks:
    """A model as a run trains it."""

    model: GenerativeModel
    phases: Sequence[Phase]
    frozen: FrozenNetworks
    optimizers: Mapping[frozenset[str], PhaseOptimizer]
    """By the networks that they move."""
    ema: EMA | None
    whole: GenerativeModel | None
    """Of a sharded model, the copy that is drawn from and saved."""
    live: Callable[[Batch, str], Mapping[str, Tensor]]
    """What all losses go through: the model, wrapped for the run's processes and precision."""
    compiled: bool
    graphs: bool
    """Whether compiled networks are replayed as CUDA graphs: one launch in place of hundreds."""

    @property
    def exported(self) -> GenerativeModel:
        """The model that samples and is shared."""
        if self.ema:
            return self.ema.current()
        return gather(self.model, self.whole) if self.whole else self.model

    def as_written(self) -> AbstractContextManager[object]:
        """Compiled networks as they were, for what comes in other sizes than training's batches: drawing, trials."""
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def unwrap(self, accelerator: Accelerator) -> None:
        """Let go of the wrapper, which must not outlive the process group: as the last that holds the group, torch's reducer
        would end its threads while it keeps the GIL, and the one that still frees a barrier's tensor waits for that."""
        self.live = self.model
        accelerator.free_memory()


def prepare_networks(
    model: GenerativeModel, phases: Sequence[Phase], config: AccelerateConfig, accelerator: Accelerator
) -> Networks:
    """Put a model where it is trained, give it its optimizers and averages, and wrap it.

    Raises:
        RecipeError: see `build_optimizers` and `shard`.
    """
    model.to(accelerator.device).train()
    half_on_cuda = accelerator.device.type == "cuda" and config.mixed_precision != "no"
    if config.channels_last or (config.channels_last is None and half_on_cuda):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    trained = {name for phase in phases for name in phase.trains}
    shards = config.sharding == "full" and accelerator.num_processes > 1
    whole = shard(model, trained, accelerator) if shards else None
    frozen = FrozenNetworks(model, phases)
    optimizers = build_optimizers(model, phases, config)
    averaged = {name for phase in phases if phase.ema for name in phase.trains}
    ema = EMA(model, config.ema, averaged, whole) if config.ema else None
    alone = accelerator.num_processes == 1 and len(phases) == 1  # what CUDA graphs were tried with
    graphs = config.compile and accelerator.device.type == "cuda" and alone
    if config.compile:
        compile_networks(model, trained, graphs)
    live = autocast(model, accelerator) if shards else accelerator.prepare_model(model)
    return Networks(model, phases, frozen, optimizers, ema, whole, live, config.compile, graphs)


def compile_networks(model: GenerativeModel, names: Iterable[str], graphs: bool) -> None:
    import torch._dynamo  # slow to import, and not needed otherwise

    # Phases switch requires_grad, and torch would not look at parameters again that are where they were.
    torch._dynamo.config.skip_tensor_guards_with_matching_dict_tags = False
    for name in names:
        getattr(model, name).compile(mode="reduce-overhead" if graphs else None)


@dataclass
class RunState:
    """All that changes in a run, to and from a checkpoint."""

    networks: Networks
    log: RunLog
    accelerator: Accelerator
    share: Mapping[str, int]
    """This process's part of a batch: rank, world_size and accumulation."""
    unseen: set[str]
    """Phases whose loss has not been computed since the run started or went on."""

    @property
    def machine(self) -> dict[str, Any]:
        """What bit-equality depends on besides the recipe."""
        return {"threads": torch.get_num_threads(), "processes": self.accelerator.num_processes,
                "device": self.accelerator.device.type, "torch": str(torch.__version__),
                "gradient_accumulation_steps": self.share["accumulation"]}  # fmt: skip

    def save(self, windows: Sequence[list[Entry]], states: Sequence[Mapping[str, Any]]) -> TrainerState:
        """`windows` are the processes' losses since the last log line, `states` where they are in the data."""
        tensors = {"weights": self._changing(self.networks.model)}
        if self.networks.ema:
            tensors["averages"] = self._changing(self.networks.ema.current())
        for index, optimizer in enumerate(self.networks.optimizers.values()):
            stored = optimizer_tensors(optimizer.torch)
            tensors[f"optimizer-{index}"] = {name: full(tensor) for name, tensor in stored.items()}
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        values = {"windows": windows, "data": states, "seconds": self.log.seconds, "machine": self.machine, "scaler": scaler,
                  "left_out": self.log.left_out}  # fmt: skip
        return TrainerState(tensors, values)

    def _changing(self, model: GenerativeModel) -> dict[str, Tensor]:
        """The trained networks and all buffers. Weights that no phase trains are in the model's own folder already."""
        trained = frozenset().union(*self.networks.optimizers)
        names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        return {k: full(v) for k, v in model.state_dict().items() if k not in names or k.split(".")[0] in trained}

    def _restore(self, model: GenerativeModel, tensors: dict[str, Tensor]) -> None:
        """The inverse of `_changing`."""
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
            load_optimizer(optimizer.torch, whole)
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
