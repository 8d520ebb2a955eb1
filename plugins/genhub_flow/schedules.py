"""Solvers of a flow as noise schedules, under diffusers' names, for any model of a flow.

A timestep is s * num_train_timesteps, for a share of noise s in [0, 1], and need not be whole.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from genhub_flow.config import T


class StepOutput(NamedTuple):
    prev_sample: Tensor


class FlowSchedule(ABC):
    """The straight path between data and noise, and a solver of dx/ds = velocity from s = 1 to 0 in equal steps.

    Raises:
        ValueError: it is asked to follow something else than velocities.
    """

    init_noise_sigma = 1.0

    def __init__(
        self, num_train_timesteps: int = T, prediction_type: str = "flow_prediction", use_flow_sigmas: bool = True
    ) -> None:
        if prediction_type != "flow_prediction" or not use_flow_sigmas:
            raise ValueError(f"{type(self).__name__} follows the velocity of a flow, not {prediction_type}")
        self.config: dict[str, Any] = {
            "num_train_timesteps": num_train_timesteps, "prediction_type": prediction_type, "use_flow_sigmas": True,
        }  # fmt: skip
        self.set_timesteps(num_train_timesteps)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> Self:
        """Return a schedule with the keys of another's config that this one has, too."""
        known = inspect.signature(cls).parameters
        return cls(**{key: value for key, value in {**config, **options}.items() if key in known})

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_s = (1 - s) x + s noise, for x (n, *shape) and timesteps (n,)."""
        shares = (timesteps / self.config["num_train_timesteps"]).view(-1, *[1] * (noise.ndim - 1)).to(original_samples)
        return torch.lerp(original_samples, noise, shares)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        return sample

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Start a new path: `timesteps` are where the model is evaluated, and `step` is to be called with, in turn."""
        self.size = 1 / num_inference_steps  # of a step, in s
        self.done = 0  # calls of `step`
        ends = torch.linspace(self.config["num_train_timesteps"], 0, num_inference_steps + 1)
        self.timesteps = self.evaluated(ends).to(device)

    @abstractmethod
    def evaluated(self, ends: Tensor) -> Tensor:
        """Return the timesteps at which the model is evaluated, for steps between those of `ends`."""

    @abstractmethod
    def step(self, model_output: Tensor, timestep: Any, sample: Tensor) -> StepOutput:
        """Return the sample after an evaluation. All are (n, *shape); sample is what the last call returned."""


class FlowEuler(FlowSchedule):
    """Euler's method: an evaluation a step, at its start."""

    def evaluated(self, ends: Tensor) -> Tensor:
        return ends[:-1]

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor) -> StepOutput:
        return StepOutput(sample - self.size * model_output)


class FlowHeun(FlowSchedule):
    """Heun's method: a step as Euler's, evaluated again at its end, then the whole step with the mean of both."""

    def evaluated(self, ends: Tensor) -> Tensor:
        return ends.repeat_interleave(2)[1:-1]

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor) -> StepOutput:
        self.done += 1
        if self.done % 2:
            self.start, self.first = sample, model_output
            return StepOutput(sample - self.size * model_output)
        return StepOutput(self.start - self.size * (self.first + model_output) / 2)
