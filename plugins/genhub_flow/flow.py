"""Flow matching: a network learns the velocity along straight lines between data and noise, and an ODE solver follows it
from noise to data. path.py has the notation.

Sources: Lipman et al. 2023, arXiv:2210.02747; Liu, Gong & Liu 2023, arXiv:2209.03003. Karras et al. 2022, arXiv:2206.00364
(preconditioning). Tong et al. 2023, arXiv:2302.00482 (coupling). Li & He 2025, arXiv:2511.13720 (prediction of x).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genhub import (
    Batch,
    Conditions,
    DenoisingStep,
    Generators,
    Given,
    InputError,
    Interval,
    NonNegative,
    Phase,
    SchedulerName,
    guidance_at,
    guided,
    load_scheduler,
    unused_guidance,
)
from genhub_flow.config import NO_FLOWS, FlowConfig, Steps, T, knows_flows
from genhub_flow.likelihood import bits_per_dimension
from genhub_flow.path import StraightPath, along, mix

NEAREST = 0.05
"""Least s or 1 - s that is divided by: near x a guess of x says little of the velocity, near noise one of the noise."""
SIGMAS = (0.002, 80.0)
"""EDM's least and greatest noise, which become the networks' times 0 and T."""


class Scales(NamedTuple):
    """Scales of a network at shares of noise s (n,): its guess is skip * x_s + output * F(input * x_s, times)."""

    skip: Tensor
    output: Tensor
    input: Tensor
    times: Tensor
    weight: Tensor
    """Weight of the squared error of the velocity."""


def plain(s: Tensor) -> Scales:
    one = torch.ones_like(s)
    return Scales(0 * one, one, one, T * s, one)


def edm(s: Tensor, sigma_data: float) -> Scales:
    """Return the scales of Karras et al. 2022, table 1, for a guess of the velocity.

    There x is noised as x + sigma noise, which is x_s / (1 - s) with sigma = s / (1 - s). Their guess of x, D, means the
    velocity (x_s - D) / s. With size^2 = s^2 + sigma_data^2 (1 - s)^2, the variance of x_s, what follows from c_skip and
    c_out is finite at both ends. c_noise = ln(sigma) / 4 is stretched to the networks' times. The weight is
    lambda(sigma) s^2."""
    size = (s.square() + (sigma_data * (1 - s)).square()).sqrt()
    low, high = map(math.log, SIGMAS)
    times = T * ((s.logit() - low) / (high - low)).clamp(0, 1)  # logit(s) = ln(sigma)
    skip = (s - sigma_data**2 * (1 - s)) / size.square()
    return Scales(skip, -sigma_data / size, 1 / size, times, (size / sigma_data).square())


class Options(NamedTuple):
    """Options of a drawing; None: the config's `sampling` has it."""

    scheduler: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    guidance_interval: tuple[float, float] | None


class Flow(StraightPath):
    """Learns where the straight lines between noise and data lead on average; following that draws."""

    Config = FlowConfig
    config: FlowConfig

    # Training

    def phases(self) -> list[Phase]:
        return [Phase("flow", self.loss, trains=self.trained)]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return E w(s) |velocity(x_s, s) - (noise - x)|^2 over s, Lipman et al. eq. 23: a mean over numbers. w is 1, or
        with EDM's preconditioning what makes its lambda(sigma). Guesses of x or noise are compared as the velocities they
        mean: |x - guess|^2 / max(s, 0.05)^2, say."""
        s, noise = self.times(len(batch)), torch.randn_like(batch.x)
        if self.config.coupling == "optimal_transport":
            noise = nearest(batch.x, noise)
        noisy = mix(batch.x, noise, s)
        truth = {"velocity": noise - batch.x, "sample": batch.x, "epsilon": noise}[self.config.prediction_type]
        velocity = self.velocity(noisy, s, self.conditioner(batch.conditions))
        error = (velocity - self.velocity_of(truth, noisy, s)).square().flatten(1).mean(1)
        return {"loss": (self.scales(s).weight * error).mean()}

    def velocity(
        self, noisy: Tensor, s: Tensor, given: Given, nothing: Given | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        """Return dx/ds at x_s (n, *shape) and s (n,). A guidance scale other than 1 moves it away from the velocity for
        `nothing`, what is given of no conditions, or towards it."""
        skip, output, scale, times, _ = (along(part, noisy) for part in self.scales(s))
        found = guided(self.network, scale * noisy, times.flatten(), given, nothing or given, guidance_scale).float()
        return self.velocity_of(skip * noisy + output * found, noisy, s)

    def scales(self, s: Tensor) -> Scales:
        return edm(s, self.config.sigma_data) if self.config.preconditioning == "edm" else plain(s)

    def velocity_of(self, guess: Tensor, noisy: Tensor, s: Tensor) -> Tensor:
        """Return the velocity that a guess of the config's `prediction_type` means, both (n, *shape)."""
        s = along(s, noisy)
        match self.config.prediction_type:
            case "sample":
                return (noisy - guess) / s.clamp(min=NEAREST)
            case "epsilon":
                return (guess - noisy) / (1 - s).clamp(min=NEAREST)
        return guess

    # Sampling

    def schedule(self, name: str) -> Any:
        """Return a fresh noise schedule; most keep count of their steps.

        Raises:
            InputError: one that knows no flows.
        """
        if not knows_flows(name):
            raise InputError(f"scheduler: {NO_FLOWS.format(name)}")
        return load_scheduler(name)(num_train_timesteps=T, prediction_type="flow_prediction", use_flow_sigmas=True)

    def sample(
        self,
        n: int,
        *,
        conditions: Conditions | None = None,
        generator: Generators = None,
        scheduler: SchedulerName | None = None,
        num_inference_steps: Steps | None = None,
        guidance_scale: NonNegative | None = None,
        guidance_interval: Interval | None = None,
        callback: Callable[[DenoisingStep], None] | None = None,
    ) -> Tensor:
        """Draw n elements.

        Args:
            scheduler: a registered name; left out: the config's `sampling.scheduler`.
            num_inference_steps: 1 to 1000.
            guidance_scale: for a model with conditions; 1 is the conditions alone, more exaggerates them.
            guidance_interval: the shares of noise in [0, 1] at which guidance_scale counts; outside, it is 1.
            callback: is given every `DenoisingStep`.
        """
        options = Options(scheduler, num_inference_steps, guidance_scale, guidance_interval)
        step = None
        for step in self._denoise(n, conditions, generator, options):
            if callback is not None:
                callback(step)
        assert step is not None
        return self.clip(step.sample)

    def unused_options(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Return guidance where there are no conditions, or where its scale is 1, each with the reason."""
        return unused_guidance(self.conditions, options, self.config.sampling.guidance_scale)

    def denoise(
        self,
        n: int,
        *,
        conditions: Conditions | None = None,
        generator: Generators = None,
        scheduler: SchedulerName | None = None,
        num_inference_steps: Steps | None = None,
        guidance_scale: NonNegative | None = None,
        guidance_interval: Interval | None = None,
    ) -> Iterator[DenoisingStep]:
        """Yield the flow from noise to data, an evaluation at a time, arguments as in `sample`."""
        yield from self._denoise(
            n, conditions, generator, Options(scheduler, num_inference_steps, guidance_scale, guidance_interval)
        )

    def _denoise(
        self, n: int, conditions: Conditions | None, generator: Generators, options: Options
    ) -> Iterator[DenoisingStep]:
        sampling = self.config.sampling
        name, steps = options.scheduler or sampling.scheduler, options.num_inference_steps or sampling.num_inference_steps
        scale = sampling.guidance_scale if options.guidance_scale is None else options.guidance_scale
        interval = options.guidance_interval or sampling.guidance_interval
        schedule = self.schedule(name)
        schedule.set_timesteps(steps, device=self.device)
        if len(schedule.timesteps.unique()) < steps:  # diffusers' round them to whole ones
            raise InputError(f"num_inference_steps: {steps} are too many for '{name}', which visits a timestep twice then")
        with torch.inference_mode():
            given = self.conditioner(self.conditions_of(n, conditions))
            guides = bool(self.conditions) and scale != 1
            nothing = self.conditioner(Conditions.nothing(self.conditions, n, self.device)) if guides else None
        own = {"generator": generator} if "generator" in inspect.signature(schedule.step).parameters else {}
        sample = self.noise(n, generator) * schedule.init_noise_sigma
        for index, (timestep, number) in enumerate(zip(schedule.timesteps, schedule.timesteps.tolist(), strict=True)):
            with torch.inference_mode():
                noisy, s = schedule.scale_model_input(sample, timestep), (timestep.float() / T).expand(n)
                guidance = guidance_at(scale, interval, number / T) if guides else 1.0
                velocity = self.velocity(noisy, s, given, nothing, guidance)
                original = self.clip(noisy - number / T * velocity)
                sample = schedule.step(velocity, timestep, sample, **own).prev_sample
            yield DenoisingStep(index, max(0.0, number - 1), sample, original)

    def predict_x0(self, x_t: Tensor, timesteps: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return where the straight line through x_t (n, *shape) at levels (n,) ends."""
        s = (timesteps.float() + 1) / T
        velocity = self.velocity(x_t, s, self.conditioner(self.conditions_of(len(x_t), conditions)))
        return self.clip(x_t - along(s, x_t) * velocity)

    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        """Return the bits (n,) that a number of x needs: see likelihood.py."""
        return bits_per_dimension(self, batch, generator)

    # Folders

    def save_networks(self, path: Path) -> None:
        """Write the networks, and, where the network's output is the velocity as it is, `scheduler/` for diffusers'
        FlowMatchEulerDiscreteScheduler: with the sigmas 1, 1 - 1/n, ..., 1/n it draws what flow_euler draws."""
        super().save_networks(path)
        if self.config.prediction_type == "velocity" and self.config.preconditioning == "none":
            from diffusers import FlowMatchEulerDiscreteScheduler

            schedule: Any = FlowMatchEulerDiscreteScheduler
            schedule(num_train_timesteps=T).save_pretrained(path / "scheduler")


def nearest(x: Tensor, noise: Tensor) -> Tensor:
    """Return the noise (n, *shape) in the order in which its squared distances to the rows of x (n, *shape) have the least
    sum: the coupling of optimal transport within a batch. Rows of x keep their places, and so their conditions."""
    from scipy.optimize import linear_sum_assignment

    costs = torch.cdist(x.flatten(1).float(), noise.flatten(1).float()).square()
    _, order = linear_sum_assignment(costs.cpu().numpy())
    return noise[torch.from_numpy(order).to(noise.device)]
