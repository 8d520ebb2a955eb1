"""What is checked before step 0, so that a week of machine time never ends in what was wrong from the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from torch import Tensor

from genhub.config import AccelerateConfig
from genhub.errors import RecipeError, TrainingError, did_you_mean
from genhub.interfaces import Batch, GenerativeModel, Phase


def check_config(config: AccelerateConfig) -> None:
    """
    Raises:
        RecipeError: a precision that the device doesn't have, or a tracker that is unknown or not installed.
    """
    cuda = config.device != "cpu" and torch.cuda.is_available()
    if config.mixed_precision == "fp16" and not cuda:
        raise RecipeError("trainer.mixed_precision: fp16 needs a CUDA device; use bf16 or no")
    if config.mixed_precision == "bf16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RecipeError(f"trainer.mixed_precision: {torch.cuda.get_device_name()} has no bf16; use fp16 or no")
    for key, taken in [("mixed_precision", config.mixed_precision == "fp16"), ("find_batch_size", config.find_batch_size)]:
        if config.sharding == "full" and taken:
            raise RecipeError(f"trainer.sharding: full does not go with trainer.{key}={getattr(config, key)}; leave one out")
    available = [str(tracker) for tracker in get_available_trackers()]
    for tracker in config.trackers:
        if tracker not in LOGGER_TYPE_TO_CLASS:
            raise RecipeError(
                f"trainer.trackers: no tracker is called '{tracker}'; {did_you_mean(tracker, LOGGER_TYPE_TO_CLASS)}"
            )
        if tracker not in available:
            raise RecipeError(f"trainer.trackers: {tracker} is not installed: pip install {tracker}")


def check_losses(model: GenerativeModel, phases: Sequence[Phase], batch: Batch, finite: bool = True) -> None:
    """Send a batch through every loss; buffers and gradients are left as they were.

    Args:
        finite: whether a loss that is not may stop the run here.

    Raises:
        RecipeError: the model needs a column that the data lacks.
        TrainingError: a loss breaks the contract of `Phase`.
    """
    for column in model.conditions:
        if column not in batch:
            raise RecipeError(f"data: {type(model).__name__} needs '{column}', which the data does not have")
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for phase in phases:
        losses = model(batch, phase.name)
        where = f"{type(model).__name__}, phase '{phase.name}'"
        loss = losses.get("loss") if isinstance(losses, Mapping) else None
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            raise TrainingError(f"{where}: must return a mapping whose 'loss' is a tensor with a gradient, not {losses!r}")
        for key, value in losses.items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise TrainingError(f"{where}: '{key}' must be a scalar tensor; every entry is logged")
        if finite and not torch.isfinite(loss):
            raise TrainingError(f"{where}: the very first loss is {loss.item()}")
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
