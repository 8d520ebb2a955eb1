"""Noise schedules and the samplers that run on them, from the registered schedulers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from genhub import load_scheduler
from genhub_ddpm.config import ScheduleConfig

MAX_SIGMA = 157.0
"""The last noise level of the paper's linear schedule, where nothing is left of the image."""


def build_schedule(config: ScheduleConfig, clip_sample: bool) -> Any:
    """The scheduler that is saved with the checkpoint."""
    cls, options = load_scheduler(config.name), config.model_dump(exclude={"name"})
    return cls(**accepted(cls, options | {"clip_sample": clip_sample and config.clip_sample}))


def build_sampler(name: str, config: ScheduleConfig, schedule: Any, snr: Tensor) -> Any:
    """A fresh scheduler (many keep state) of that name on a schedule of signal-to-noise ratios (T,)."""
    cls = load_scheduler(name)
    options: dict[str, Any] = {"timestep_spacing": config.timestep_spacing}
    if config.prediction_type == "sample":
        options["prediction_type"] = "v_prediction"  # some know no other; `denoise` converts
    if cls is not type(schedule):  # its own stays as plain diffusers would have it
        # A cosine schedule ends at sigma = 20,000, where float32 (DDIM's variance, PNDM) and second-order steps
        # (Heun) break down. Nothing is left of an image long before: bend sigma smoothly to stay below MAX_SIGMA.
        signal = 1 / (1 + 1 / (snr.double().cpu() + MAX_SIGMA**-2))
        options["trained_betas"] = (1 - signal / torch.cat([torch.ones(1), signal[:-1]])).tolist()
    return cls.from_config(schedule.config, **options)


def accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a function's signature names."""
    return {key: value for key, value in options.items() if key in inspect.signature(function).parameters}
