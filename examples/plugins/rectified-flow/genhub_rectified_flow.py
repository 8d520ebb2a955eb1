"""Rectified flow (Liu, Gong & Liu 2022, arXiv:2209.03003): a network learns the velocity along straight lines between noise
and data, and an ODE solver follows it. It draws whatever a column holds, with any network, given anything. The two solvers
are noise schedules of their own, for any model of a flow.

Notation: sigma in [0, 1] is the share of noise, x_sigma = (1 - sigma) x + sigma noise. The paper's time is t = 1 - sigma,
its velocity x - noise; here it is the derivative by sigma, noise - x, as in diffusers, whose schedulers fit as they are.
A timestep is sigma * num_train_timesteps, and need not be whole.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor

from genhub import (
    AnyNetwork,
    Batch,
    Conditioner,
    Conditions,
    DenoisingStep,
    Fraction,
    GenerativeModel,
    Generators,
    Given,
    InputError,
    ModelConfig,
    Phase,
    SchedulerName,
    Section,
    guided,
    load_scheduler,
    load_strictly,
    network_for,
    randn,
    save_tensors,
)

T = 1000
"""Timesteps from data to noise: only a unit, that of diffusers and of the networks' times."""


# Options


Steps = Annotated[int, Field(strict=True, ge=1, le=T)]
Scale = Annotated[float, Field(ge=0)]


class SamplingConfig(Section):
    """Defaults of `sample`'s options."""

    scheduler: SchedulerName = "flow_heun"
    """flow_euler, flow_heun, or one of diffusers' that knows flows, such as unipc and dpmsolver."""
    num_inference_steps: Steps = 12
    """Each costs one evaluation of the network, with flow_heun two."""
    guidance_scale: Scale = 1.0
    """For a model with conditions: 1 is the conditions alone, more exaggerates them (Ho & Salimans 2022)."""


class RectifiedFlowConfig(ModelConfig):
    condition_dropout: Fraction | Mapping[str, Fraction] = 0.1
    """Share of rows trained on without their conditions, which guidance needs."""
    network: AnyNetwork | None = None
    """Left out: the one for as many sides as the data have, unet for images, mlp for vectors."""
    sampling: SamplingConfig = SamplingConfig()

    @field_validator("network", mode="before")
    @classmethod
    def _named_by_the_shape(cls, network: Any, info: ValidationInfo) -> Any:
        data = info.data.get("data")
        return network_for(len(data.target.shape) - 1) if network is None and data else network

    @model_validator(mode="after")
    def _fits(self) -> RectifiedFlowConfig:
        if self.network is not None and self.shape is not None:
            try:
                self.network.check(self.shape)
            except ValueError as error:
                raise ValueError(f"network.{error}") from error
        return self

    def mistakes(self) -> dict[str, str]:
        told = "changes nothing without conditions; leave it out"
        return {"sampling.guidance_scale": told} if self.sampling.guidance_scale != 1 and not self.conditions else {}


# Noise schedules


class StepOutput(NamedTuple):
    prev_sample: Tensor


class FlowSchedule(ABC):
    """The straight path between data and noise, and a solver of dx/dsigma = velocity from sigma = 1 to 0 in equal steps.

    Raises:
        ValueError: it is asked to follow something else than velocities.
    """

    init_noise_sigma = 1.0

    def __init__(
        self, num_train_timesteps: int = T, prediction_type: str = "flow_prediction", use_flow_sigmas: bool = True
    ) -> None:
        if prediction_type != "flow_prediction" or not use_flow_sigmas:
            raise ValueError(f"scheduler: {type(self).__name__} follows the velocity of a flow, not {prediction_type}")
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
        """Return x_sigma = (1 - sigma) x + sigma noise, for x (n, *shape) and timesteps (n,)."""
        sigmas = (timesteps / self.config["num_train_timesteps"]).view(-1, *[1] * (noise.ndim - 1)).to(original_samples)
        return torch.lerp(original_samples, noise, sigmas)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        return sample

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Start a new path: `timesteps` are where the model is evaluated, and `step` is to be called with, in turn."""
        self.size = 1 / num_inference_steps  # of a step, in sigma
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


# The model


class RectifiedFlow(GenerativeModel):
    """Learns where the straight lines between noise and data lead on average; following that draws."""

    Config = RectifiedFlowConfig
    config: RectifiedFlowConfig
    num_train_timesteps = T

    def __init__(self, config: RectifiedFlowConfig) -> None:
        super().__init__(config)
        network = config.network
        assert network is not None  # the Config names one once it knows the data
        self.conditioner = Conditioner(self.conditions, self.shape, network.width, network.takes)
        self.network = network.build(self.shape, self.conditioner)
        self.scheduler = self.schedule(config.sampling.scheduler)

    def schedule(self, name: str) -> Any:
        """Return a fresh noise schedule; most keep count of their steps.

        Raises:
            InputError: one that knows no flows.
        """
        cls = load_scheduler(name)
        if "use_flow_sigmas" not in inspect.signature(cls).parameters:
            raise InputError(f"scheduler: '{name}' knows no flows; flow_euler, flow_heun, unipc and dpmsolver do")
        return cls(num_train_timesteps=T, prediction_type="flow_prediction", use_flow_sigmas=True)

    def phases(self) -> list[Phase]:
        learns = bool(self.conditioner.state_dict())  # without conditions, it is empty
        return [Phase("flow", self.loss, trains=("network", "conditioner") if learns else ("network",))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return E |(noise - x) - v(x_sigma, sigma)|^2 over sigma uniform in [0, 1], eq. 1: a mean over numbers."""
        timesteps = T * torch.rand(len(batch), device=batch.x.device)
        noise = torch.randn_like(batch.x)
        noisy = self.scheduler.add_noise(batch.x, noise, timesteps)
        velocity = self.velocity(noisy, timesteps, self.conditioner(batch.conditions))
        return {"loss": (velocity - (noise - batch.x)).square().mean()}

    def velocity(
        self, noisy: Tensor, timesteps: Tensor, given: Given, nothing: Given | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        """Return dx/dsigma at x_sigma (n, *shape) and timesteps (n,)."""
        return guided(self.network, noisy, timesteps, given, nothing or given, guidance_scale).float()

    def sample(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None,
        scheduler: SchedulerName | None = None, num_inference_steps: Steps | None = None,
        guidance_scale: Scale | None = None,
    ) -> Tensor:  # fmt: skip
        """Draw n elements.

        Args:
            scheduler: a registered name; left out: the config's `sampling.scheduler`.
            num_inference_steps: 1 to 1000.
            guidance_scale: for a model with conditions; 1 is the conditions alone.
        """
        *_, last = self.denoise(
            n, conditions=conditions, generator=generator, scheduler=scheduler,
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
        )  # fmt: skip
        return self.clip(last.sample)

    def unused_options(self, options: Mapping[str, Any]) -> dict[str, str]:
        guides = options.get("guidance_scale") is not None and not self.conditions
        return {"guidance_scale": "this model is given nothing"} if guides else {}

    def clip(self, x: Tensor) -> Tensor:
        return x if self.modality.bounds is None else x.clamp(*self.modality.bounds)

    # The capability `Denoiser`. Its level k counts from 0, nearly clean, to T - 1, pure noise: timestep k + 1.

    def add_noise(self, x: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_sigma for x (n, *shape) at levels (n,)."""
        noisy: Tensor = self.scheduler.add_noise(x, noise, timesteps + 1)
        return noisy

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """Return ((1 - sigma) / sigma)^2 at levels (n,); 0 at the last."""
        sigmas = (timesteps + 1) / T
        return (1 / sigmas - 1).square()

    def predict_x0(self, x_t: Tensor, timesteps: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return where the straight line through x_t (n, *shape) at levels (n,) ends."""
        times = timesteps.float() + 1
        velocity = self.velocity(x_t, times, self.conditioner(self.conditions_of(len(x_t), conditions)))
        return self.clip(x_t - (times / T).view(-1, *[1] * (x_t.ndim - 1)) * velocity)

    def denoise(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None,
        scheduler: SchedulerName | None = None, num_inference_steps: Steps | None = None,
        guidance_scale: Scale | None = None,
    ) -> Iterator[DenoisingStep]:  # fmt: skip
        """Yield the flow from noise to data, an evaluation at a time. Arguments as in `sample`."""
        sampling = self.config.sampling
        name, steps = scheduler or sampling.scheduler, num_inference_steps or sampling.num_inference_steps
        scale = sampling.guidance_scale if guidance_scale is None else guidance_scale
        schedule = self.schedule(name)
        schedule.set_timesteps(steps, device=self.device)
        if len(schedule.timesteps.unique()) < steps:  # diffusers' round them to whole ones
            raise InputError(f"num_inference_steps: {steps} are too many for '{name}', which visits a timestep twice then")
        with torch.inference_mode():
            given = self.conditioner(self.conditions_of(n, conditions))
            nothing = self.conditioner(Conditions.nothing(self.conditions, n, self.device))
        scale = scale if self.conditions else 1.0
        options = {"generator": generator} if "generator" in inspect.signature(schedule.step).parameters else {}
        sample = randn((n, *self.shape), generator, self.device) * schedule.init_noise_sigma
        for index, (timestep, number) in enumerate(zip(schedule.timesteps, schedule.timesteps.tolist(), strict=True)):
            with torch.inference_mode():
                model_input = schedule.scale_model_input(sample, timestep)
                velocity = self.velocity(model_input, timestep.float().expand(n), given, nothing, scale)
                original = self.clip(sample - number / T * velocity)
                sample = schedule.step(velocity, timestep, sample, **options).prev_sample
            yield DenoisingStep(index, max(0.0, number - 1), sample, original)

    # Folders: a unet's network/ opens with diffusers' UNet2DModel.from_pretrained

    def save_networks(self, path: Path) -> None:
        self.network.save(path / "network")
        save_tensors(self.conditioner.state_dict(), path / "conditioner.safetensors")

    def load_networks(self, path: Path) -> None:
        self.network.load(path / "network")
        load_strictly(self.conditioner, path / "conditioner.safetensors")
