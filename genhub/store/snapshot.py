"""Copies of what a checkpoint holds, which can be written while training goes on."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from genhub.interfaces.model import Model
from genhub.interfaces.trainer import TrainerState


def snapshot(model: Model) -> Model | None:
    """Return a copy of a model, its weights and buffers on the CPU; None where it has something that Python can't copy, as
    a tensor with its graph. Its config and the modalities of its columns don't change, and are shared."""
    memo: dict[int, Any] = {id(each): each for each in (model.config, model.modality, *model.conditions.values())}
    memo |= {id(p): nn.Parameter(_copied(p), requires_grad=False) for p in model.parameters()}
    memo |= {id(buffer): _copied(buffer) for buffer in model.buffers()}
    try:
        return copy.deepcopy(model, memo)
    except Exception:  # whatever a stranger's class raises: such a model is written before training goes on
        return None


def snapshot_of_state(state: TrainerState) -> TrainerState:
    """Return a copy of a trainer's state, its tensors on the CPU."""
    tensors = {name: {key: _copied(tensor) for key, tensor in each.items()} for name, each in state.tensors.items()}
    return TrainerState(tensors, copy.deepcopy(state.values))


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
