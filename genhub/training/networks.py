"""Prepare the networks of a run for training: moved, wrapped, averaged, sharded, compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from genhub.interfaces.model import Batch, Model, Phase
from genhub.recipe.sections import AccelerateConfig
from genhub.training.ema import EMA
from genhub.training.optim import FrozenNetworks, PhaseOptimizer, build_optimizers
from genhub.training.sharding import autocast, gather, shard


@dataclass
class Networks:
    """A model as a run trains it, with its optimizers and averages."""

    model: Model
    phases: Sequence[Phase]
    frozen: FrozenNetworks
    optimizers: Mapping[frozenset[str], PhaseOptimizer]
    """Optimizers by the networks that they train."""
    ema: EMA | None
    whole: Model | None
    """Whole copy of a sharded model, which is drawn from and saved."""
    live: Callable[[Batch, str], Mapping[str, Tensor]]
    """The model wrapped for the run's processes and precision, through which all losses go."""
    compiled: bool
    graphs: bool
    """Whether compiled networks are replayed as CUDA graphs: one launch in place of hundreds."""

    @property
    def exported(self) -> Model:
        """The model that samples and is shared."""
        if self.ema:
            return self.ema.current()
        return gather(self.model, self.whole) if self.whole else self.model

    def as_written(self) -> AbstractContextManager[object]:
        """Return a context with compiled networks as they were, for other sizes than training's batches: drawing, trials."""
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def guards(self) -> AbstractContextManager[object]:
        """Compiled networks look at all their parameters in each call, while this lasts: phases switch `requires_grad`, and
        torch would not look again at parameters that are where they were."""
        if not self.compiled:
            return nullcontext()
        import torch._dynamo  # slow to import, and not needed otherwise

        # The key is torch's own: `torch.compile` has no argument for it.
        key = "skip_tensor_guards_with_matching_dict_tags"
        patched: AbstractContextManager[object] = torch._dynamo.config.patch({key: False})
        return patched

    def unwrap(self, accelerator: Accelerator) -> None:
        """Let go of the wrapper, which must not outlive the process group: as the last that holds the group, torch's reducer
        would end its threads while it keeps the GIL, and the one that still frees a barrier's tensor waits for that."""
        self.live = self.model
        accelerator.free_memory()


def prepare_networks(model: Model, phases: Sequence[Phase], config: AccelerateConfig, accelerator: Accelerator) -> Networks:
    """Put a model where it is trained, give it its optimizers and averages, and wrap it.

    Raises:
        RecipeError: see `build_optimizers` and `shard`.
    """
    model.to(accelerator.device).train()
    half_on_cuda = accelerator.device.type == "cuda" and config.mixed_precision != "no"
    if config.channels_last or (config.channels_last is None and half_on_cuda):
        for parameter in model.parameters():
            if parameter.dim() == 4:  # what convolutions of one or three sides have knows no such format
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
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
    live = autocast(model, accelerator) if shards else accelerator.prepare_model(model, device_placement=True)
    return Networks(model, phases, frozen, optimizers, ema, whole, live, config.compile, graphs)


def compile_networks(model: Model, names: Iterable[str], graphs: bool) -> None:
    for name in names:
        getattr(model, name).compile(mode="reduce-overhead" if graphs else None)
