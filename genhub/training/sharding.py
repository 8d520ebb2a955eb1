"""Split weights, gradients, optimizer state and averages into pieces, one a process: torch's FSDP2, for networks too large
for one device. A whole copy on the CPU is drawn from and saved: the pieces are gathered into it when it is due.

FSDP2 and its DTensor are imported late, as that takes as long as importing torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from genhub.errors import RecipeError
from genhub.interfaces.model import Model


def shard(model: Model, networks: Collection[str], accelerator: Accelerator) -> Model:
    """Leave this process its piece of each weight of some networks; return a whole copy of the model, on the CPU.

    Raises:
        RecipeError: a weight is a single number, which FSDP2 can't split.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    single = [name for name, p in model.named_parameters() if name.split(".")[0] in networks and not p.dim()]
    if single:
        name = type(model).__name__
        raise RecipeError(f"trainer.sharding: {name} has a weight that is a single number, {single[0]}; leave it out")
    whole = copy.deepcopy(model).to("cpu")
    others = {p for name, p in model.named_parameters() if name.split(".")[0] not in networks}
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    # The model as one unit, because a loss may call parts of a network by other doors than its `forward`.
    fully_shard(model, mesh=mesh, ignored_params=others)
    return whole


def full(tensor: Tensor) -> Tensor:
    """Return a whole tensor, of whose pieces each process has one; all must ask for it."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def local(tensor: Tensor) -> Tensor:
    """Return this process's piece of a tensor."""
    piece: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return piece


def like(tensor: Tensor, other: Any) -> Tensor:
    """Return a whole tensor, in pieces if `other` is."""
    if not hasattr(other, "placements"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


@torch.no_grad()
def gather(model: Model, whole: Model) -> Model:
    """Copy a model's weights and buffers into its whole copy."""
    copies = whole.state_dict()
    for name, tensor in model.state_dict().items():
        copies[name].copy_(full(tensor))
    return whole


def autocast(model: Model, accelerator: Accelerator) -> Callable[..., Any]:
    """Return the model's losses in the run's precision, as `Accelerator.prepare_model` does for a model that is not
    sharded."""

    def losses(batch: Any, phase: str) -> Any:
        with accelerator.autocast():
            return model(batch, phase)

    return losses
