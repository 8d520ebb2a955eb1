"""Find the registered schedulers that can sample with a model's noise schedule, and set the levels that they visit."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from genhub import InputError, load_scheduler
from genhub_ddpm.config import ScheduleConfig, accepted

MAX_SIGMA = 157.0
"""Last noise level of the paper's linear schedule, where nothing is left of x_0."""
MOST_SIGNAL = 0.1
"""Most of x_0's power that may be left at the first level visited: drawing starts there from noise alone."""


def build_sampler(name: str, config: ScheduleConfig, schedule: Any, snr: Tensor) -> Any:
    """Return a fresh scheduler (many keep state) of that name on a schedule of signal-to-noise ratios (T,).

    Raises:
        InputError: a scheduler that refuses this schedule, such as one that follows a flow.
    """
    cls = load_scheduler(name)
    options: dict[str, Any] = {"timestep_spacing": config.timestep_spacing}
    if config.prediction_type == "sample":
        options["prediction_type"] = "v_prediction"  # some know no other; `denoise` converts
    if cls is type(schedule) and not is_diffusers(cls):
        return config.build(**options)
    plain = dict(plain_schedule(config, schedule).config)
    if cls is not type(schedule):  # its own stays as plain diffusers would have it
        # A cosine schedule ends at sigma = 20,000, where float32 (DDIM's variance, PNDM) and second-order steps
        # (Heun) break down, and one of zero terminal SNR at infinity. Nothing is left of x_0 long before: bend sigma
        # smoothly to stay below MAX_SIGMA.
        options["trained_betas"] = betas(1 / (1 + 1 / (snr.double().cpu() + MAX_SIGMA**-2)))
        plain["rescale_betas_zero_snr"] = False  # or it would be taken to infinity again
    if not is_diffusers(cls):
        try:
            return cls(**accepted(cls, {**plain, **options}))
        except ValueError as error:
            raise InputError(f"scheduler: '{name}' can't sample for this model: {error}") from error
    if name == "ddim":
        from genhub_ddpm.ddim import DDIMScheduler as cls  # imports diffusers
    return cls.from_config(plain, **options)


def plain_schedule(config: ScheduleConfig, schedule: Any) -> Any:
    """Return the noise schedule as a class of diffusers' own; another's, as a DDPMScheduler with the same noise levels."""
    if is_diffusers(type(schedule)):
        return schedule
    cls = load_scheduler("ddpm")
    options = config.model_dump(exclude={"name", "options"})
    return cls(**accepted(cls, options), trained_betas=betas(schedule.alphas_cumprod.double()))


def is_diffusers(cls: type) -> bool:
    """Whether a class is diffusers' own: a folder must not name any other."""
    return cls.__module__.split(".")[0] == "diffusers"


def betas(signal: Tensor) -> list[float]:
    """Return beta_t of alphas_cumprod (T,), eq. 4 backwards."""
    found: list[float] = (1 - signal / torch.cat([torch.ones(1), signal[:-1]])).tolist()
    return found


# The levels that a sampler visits


class Steps(int):
    """Number of steps n, which divides the number of levels T as diffusers' schedulers need it. They err in two places:

    - `trailing` counts down from T by T / n, and the rounding of that makes one step too many, to level -1, for 62 of the
      numbers up to 1,000 (61 is one): what DDIM and DDPM have drawn by then is taken for noise, and lost.
    - A step of DDIM and PNDM ends at t - T // n, which is another level than the one where the next begins wherever n does
      not divide T (issues 9261 and 11347 of diffusers): noise stays in what is drawn.
    """

    length: int | None = None
    """Length in levels of the step that is being taken."""

    def __rtruediv__(self, levels: int) -> float:
        length = levels / int(self)
        return length if math.ceil(levels / length) == self else math.nextafter(length, math.inf)

    def __rfloordiv__(self, levels: int) -> int:
        return levels // int(self) if self.length is None else self.length


def visit(sampler: Any, n: int, signal: Tensor, device: torch.device) -> Iterator[tuple[Tensor, float]]:
    """Return an iterator over a sampler's n timesteps: each twice, on the device for the network, and as a number so that
    no step waits for the device. `signal` (T,) is the share of x_0's power at each level.

    Raises:
        InputError: it can't take so many steps, or so few.
    """
    reason = fault(sampler, steps := Steps(n), signal, device)
    if reason:
        near = sorted(range(1, len(signal) + 1), key=lambda other: abs(other - n))
        works = next((other for other in near if not fault(copy.copy(sampler), Steps(other), signal, device)), None)
        raise InputError(f"num_inference_steps: {reason}" + (f"; {works} works" if works else ""))
    return _visited(sampler, steps)  # what starts the drawing, such as init_noise_sigma, is known from here on


def _visited(sampler: Any, steps: Steps) -> Iterator[tuple[Tensor, float]]:
    numbers = sampler.timesteps.tolist()
    halves = len(getattr(sampler, "prk_timesteps", ()))  # PNDM's first steps, which it divides by itself
    for index, (number, following) in enumerate(zip(numbers, [*numbers[1:], -1], strict=True)):
        steps.length = None if index < halves else number - following
        yield sampler.timesteps[index], number


def fault(sampler: Any, steps: Steps, signal: Tensor, device: torch.device) -> str | None:
    """Set a sampler's timesteps and return what is wrong with them; None if nothing is."""
    kind, levels = type(sampler).__name__, len(signal)
    if steps > levels:
        return f"at most {levels}, not {steps}"
    try:
        sampler.set_timesteps(steps, device=device)
    except ValueError:  # PNDM starts with four steps of its own
        return f"{steps} are too few for {kind}"
    numbers = sampler.timesteps.tolist()
    if not all(map(math.isfinite, numbers)):
        return f"{steps} are too few for {kind}"
    spacing = f"{kind}'s timestep_spacing '{dict(sampler.config).get('timestep_spacing', '')}'"
    if len(set(numbers)) < steps:
        return f"{steps} are too many for {spacing}"
    first = min(max(round(numbers[0]), 0), levels - 1)
    if signal[first] - signal[-1] > MOST_SIGNAL:
        return f"with {steps}, {spacing} starts at level {first} of {levels}, where x is not noise yet"
    return None
