"""Options of flows and mean flows, checked before anything is built."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from genhub import (
    Fraction,
    Interval,
    Means,
    ModelConfig,
    ModelData,
    NetworkedConfig,
    NonNegative,
    RecipeError,
    SchedulerName,
    Section,
    load_scheduler,
)

T = 1000
"""Timesteps from data to noise: only a unit, that of diffusers and of the networks' times."""

NO_FLOWS = "'{}' knows no flows; flow_euler, flow_heun, unipc and dpmsolver do"

IDLE = "changes nothing without {}; leave it out"
LOGIT_NORMAL = "time_density: logit_normal"

Steps = Annotated[int, Field(strict=True, ge=1, le=T)]


class PathConfig(NetworkedConfig):
    """Keys of every model of straight paths between data and noise."""

    condition_dropout: Fraction | Mapping[str, Fraction] = 0.1
    """Share of rows trained on without their conditions, which guidance needs."""
    time_density: Literal["uniform", "logit_normal", "edm"] = "uniform"
    """Density of the shares of noise s that are trained on: uniform in [0, 1]; logit_normal: log(s / (1 - s)) is normal
    (Esser et al. 2024); edm: that with the mean -1.2 and deviation 1.2 of Karras et al. 2022."""
    time_location: float = 0.0
    """For logit_normal: the mean of log(s / (1 - s)); above 0 trains more on noise."""
    time_scale: float = Field(default=1.0, gt=0)
    """For logit_normal: the deviation of log(s / (1 - s))."""

    def mistakes(self) -> dict[str, str]:
        """Return the keys that change nothing and are not left at their defaults, each with the reason."""
        idle = {} if self.time_density == "logit_normal" else {"time_location": LOGIT_NORMAL, "time_scale": LOGIT_NORMAL}
        return {key: IDLE.format(need) for key, need in (idle | self.idle()).items() if not self.is_default(key)}

    def idle(self) -> dict[str, str]:
        """Return a family's own keys that change nothing, each with what it needs."""
        return {}


class SamplingConfig(Section):
    """Defaults of the options of `sample`."""

    scheduler: SchedulerName = "flow_heun"
    """Solver: flow_euler, flow_heun, or one of diffusers' that knows flows, such as unipc and dpmsolver."""
    num_inference_steps: Steps = 12
    """Each costs one evaluation of the network, with flow_heun two."""
    guidance_scale: NonNegative = 1.0
    """For a model with conditions: 1 is the conditions alone, more exaggerates them (Ho & Salimans 2022), 0 ignores them."""
    guidance_interval: Interval = (0.0, 1.0)
    """Shares of noise at which guidance_scale counts, [0.2, 0.8]; outside it is 1 (Kynkaanniemi et al. 2024)."""


class FlowConfig(PathConfig):
    prediction_type: Literal["velocity", "sample", "epsilon"] = "velocity"
    """Output of the network: noise - x, the clean x, or the noise. The loss is one of velocities whichever it is."""
    preconditioning: Literal["none", "edm"] = "none"
    """Scales of input and output: with edm both have a variance of 1 at every share of noise (Karras et al. 2022)."""
    sigma_data: float = Field(default=0.5, gt=0)
    """For edm: the standard deviation of x; 0.5 is about that of images, 1 that of what is standardised."""
    coupling: Literal["independent", "optimal_transport"] = "independent"
    """Pairs of rows and noise: as drawn, or nearest to one another within the micro-batch (Pooladian et al. 2023, Tong et
    al. 2023)."""
    sampling: SamplingConfig = SamplingConfig()

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        few = {} if len(data.target.shape) == 1 else {"model.sampling": {"scheduler": "unipc", "num_inference_steps": 20}}
        return super().suited(data, means) | few

    @model_validator(mode="after")
    def _one_output(self) -> FlowConfig:
        if self.preconditioning == "edm" and self.prediction_type != "velocity":
            raise ValueError("prediction_type: with preconditioning: edm the network predicts EDM's mixture; leave it out")
        return self

    def idle(self) -> dict[str, str]:
        guidance = dict.fromkeys(("sampling.guidance_scale", "sampling.guidance_interval"), "conditions")
        return ({} if self.conditions else guidance) | (
            {"sigma_data": "preconditioning: edm"} if self.preconditioning == "none" else {}
        )

    def mistakes(self) -> dict[str, str]:
        """Return the keys that change nothing, and a solver of something else, each with the reason."""
        knows = knows_flows(name := self.sampling.scheduler)
        return super().mistakes() | ({} if knows else {"sampling.scheduler": NO_FLOWS.format(name)})


def knows_flows(scheduler: str) -> bool:
    """Whether a registered scheduler can follow the velocity of a flow. Imports it."""
    return "use_flow_sigmas" in inspect.signature(load_scheduler(scheduler)).parameters


class MeanSamplingConfig(Section):
    """Defaults of the options of `sample`."""

    num_inference_steps: Steps = 1
    """Each costs one evaluation of the network."""


class MeanFlowConfig(PathConfig):
    time_density: Literal["uniform", "logit_normal", "edm"] = "logit_normal"
    time_location: float = -0.4
    time_unit: float = Field(default=20.0, gt=0, le=T)
    """Time that the network is told for noise alone; a flow's is 1000. A smaller one makes the derivative calmer."""
    equal_times: Fraction = 0.75
    """Share of rows whose two times are one: they learn the velocity, the others what it is on average."""
    adaptive_power: float = Field(default=1.0, ge=0, le=1)
    """Power p in the weight 1 / (|error|^2 + 0.001)^p of a row; 0: the plain squared error."""
    guidance_scale: NonNegative = 1.0
    """For a model with conditions: guidance that is trained into the model, omega of eq. 19, at no cost when drawing."""
    sampling: MeanSamplingConfig = MeanSamplingConfig()

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        sharper = {"model.sampling": {"num_inference_steps": 2}} if math.prod(data.target.shape) > 256 else {}
        return super().suited(data, means) | sharper

    def idle(self) -> dict[str, str]:
        return {} if self.conditions else {"guidance_scale": "conditions"}

    @classmethod
    def keys_from(cls, other: ModelConfig) -> dict[str, Any] | None:
        """Return the keys of network and conditions of a flow whose network predicts the velocity: where both times are
        equal, a mean flow with its weights is that flow.

        Raises:
            RecipeError: a flow of another kind.
        """
        if not isinstance(other, FlowConfig):
            return None
        if other.prediction_type != "velocity" or other.preconditioning != "none":
            raise RecipeError("a meanflow starts from a flow with prediction_type: velocity and preconditioning: none alone")
        return other.model_dump(include={"conditions", "condition_dropout", "network"}) | {"time_unit": T}
