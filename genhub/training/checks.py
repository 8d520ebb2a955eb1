"""Check a run before it starts and in its first step: a week of machine time must not end in what was wrong at the start."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from torch import Tensor

from genhub.errors import RecipeError, TrainingError, did_you_mean, shown
from genhub.interfaces.model import Model, Phase
from genhub.recipe.sections import AccelerateConfig

EXTRAS = ("trackio", "wandb")
"""Trackers that genhub's extra of their name installs."""


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
    known = [str(tracker) for tracker in LoggerType if tracker != LoggerType.ALL]
    available = [str(tracker) for tracker in get_available_trackers()]
    for tracker in config.trackers:
        if tracker not in known:
            raise RecipeError(f"trainer.trackers: no tracker is called '{tracker}'; {did_you_mean(tracker, known)}")
        if tracker not in available:
            package = f"'genhub-framework[{tracker}]'" if tracker in EXTRAS else tracker
            raise RecipeError(f"trainer.trackers: {tracker} is not installed: pip install {package}")


def check_loss(model: Model, phase: Phase, losses: object) -> None:
    """
    Raises:
        TrainingError: what a phase's loss has returned breaks the contract of `Phase`.
    """
    where = f"{type(model).__name__}, phase '{phase.name}'"
    loss = losses.get("loss") if isinstance(losses, Mapping) else None
    if not isinstance(losses, Mapping) or not isinstance(loss, Tensor) or not loss.requires_grad:
        raise TrainingError(f"{where}: must return a mapping whose 'loss' is a tensor with a gradient, not {shown(losses)}")
    for key, value in losses.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise TrainingError(f"{where}: '{key}' must be a scalar tensor; every entry is logged")
