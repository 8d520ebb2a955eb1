"""Average weights into an ordinary copy of the model (as NVlabs/edm2 keeps them), buffers included."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from genhub.interfaces.model import Model
from genhub.recipe.sections import EMAConfig
from genhub.training.sharding import full, like, local


class EMA:
    """Exponential moving average of some of a model's networks; the averaged copy samples and is exported.

    Construct it before an engine wraps the model, so that the copy is a plain one.
    """

    def __init__(self, model: Model, config: EMAConfig, networks: Collection[str], whole: Model | None = None) -> None:
        """Copy the model; of a sharded one `whole` is a copy: the averages are then sharded, too, and gathered into it."""
        self.config = config
        untrained = {id(p): p for p in model.parameters() if not p.requires_grad}  # never change: shared, not copied
        self.model = (whole or copy.deepcopy(model, untrained)).eval().requires_grad_(False)
        self._live = model
        names = [name for name, _ in model.named_parameters() if name.split(".")[0] in networks]
        live, averages = model.state_dict(keep_vars=True), self.model.state_dict(keep_vars=True)
        self._sharded = {name: live[name].detach().clone() for name in names} if whole else {}
        averages |= self._sharded
        self._pairs = [live[name] for name in names], [averages[name] for name in names]
        averaged = set(names)
        self._copied = [name for name in model.state_dict() if name not in averaged]  # buffers, and networks not averaged

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights after step number `step` (0 for the first)."""
        if (step + 1) % self.config.every == 0:
            decay = min(self.config.decay, (1 + step) / (10 + step)) ** self.config.every
            live, averages = self._pairs
            if self._sharded:  # asked each time, as FSDP may put a piece elsewhere
                live, averages = ([local(tensor) for tensor in tensors] for tensors in self._pairs)
            get_ema_multi_avg_fn(decay)(averages, live, None)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def current(self) -> Model:
        """Return the averaged model, with today's buffers and networks that are not averaged. Of a sharded one all processes
        must ask for it."""
        live, averages = self._live.state_dict(), self.model.state_dict()
        for name in self._copied:
            averages[name].copy_(full(live[name]))
        for name, average in self._sharded.items():
            averages[name].copy_(full(average))
        return self.model

    @torch.no_grad()
    def restored(self) -> None:
        """Go on from the averages that `model` has been given."""
        averages = self.model.state_dict()
        for name, average in self._sharded.items():
            average.copy_(like(averages[name], average))
