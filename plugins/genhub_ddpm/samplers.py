"""The samplers that run on a model's noise schedule, from the registered schedulers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genhub import load_scheduler
from genhub_ddpm.config import ScheduleConfig, accepted

MAX_SIGMA = 157.0
"""The last noise level of the paper's linear schedule, where nothing is left of the image."""


def build_sampler(name: str, config: ScheduleConfig, schedule: Any, snr: Tensor) -> Any:
    """A fresh scheduler (many keep state) of that name on a schedule of signal-to-noise ratios (T,)."""
    cls = load_scheduler(name)
    options: dict[str, Any] = {"timestep_spacing": config.timestep_spacing}
    if config.prediction_type == "sample":
        options["prediction_type"] = "v_prediction"  # some know no other; `denoise` converts
    if cls is type(schedule) and not is_diffusers(cls):
        return config.build(**options)
    if cls is not type(schedule):  # its own stays as plain diffusers would have it
        # A cosine schedule ends at sigma = 20,000, where float32 (DDIM's variance, PNDM) and second-order steps
        # (Heun) break down. Nothing is left of an image long before: bend sigma smoothly to stay below MAX_SIGMA.
        options["trained_betas"] = betas(1 / (1 + 1 / (snr.double().cpu() + MAX_SIGMA**-2)))
    plain = plain_schedule(config, schedule).config
    return cls.from_config(plain, **options) if is_diffusers(cls) else cls(**accepted(cls, {**plain, **options}))


def plain_schedule(config: ScheduleConfig, schedule: Any) -> Any:
    """The noise schedule as a class of diffusers' own; another's, as a DDPMScheduler with the same noise levels."""
    if is_diffusers(type(schedule)):
        return schedule
    cls = load_scheduler("ddpm")
    options = config.model_dump(exclude={"name", "options"})
    return cls(**accepted(cls, options), trained_betas=betas(schedule.alphas_cumprod.double()))


def is_diffusers(cls: type) -> bool:
    """Whether whoever has diffusers has this class; a folder must not name any other."""
    return cls.__module__.split(".")[0] == "diffusers"


def betas(signal: Tensor) -> list[float]:
    """beta_t of alphas_cumprod (T,), eq. 4 backwards."""
    found: list[float] = (1 - signal / torch.cat([torch.ones(1), signal[:-1]])).tolist()
    return found
