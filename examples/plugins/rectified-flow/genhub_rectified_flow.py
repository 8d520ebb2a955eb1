"""Rectified flow (Liu, Gong & Liu 2022, arXiv:2209.03003): a U-Net learns the velocity along straight lines between noise
and images, and an ODE solver follows it. The two solvers are noise schedules of their own, for any model of a flow.

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
from pydantic import Field, model_validator
from torch import Tensor, nn

from genhub import (
    Batch,
    DenoisingStep,
    GenerativeModel,
    Generators,
    InputError,
    ModelConfig,
    Phase,
    PositiveInt,
    SchedulerName,
    Section,
    load_scheduler,
    load_strictly,
    randn,
)

T = 1000
"""Timesteps from image to noise: only a unit, that of diffusers and of the U-Net's time embedding."""


# Options


Steps = Annotated[int, Field(strict=True, ge=1, le=T)]


class UNetConfig(Section):
    """The arguments of diffusers' `UNet2DModel` that matter for small images."""

    block_out_channels: tuple[PositiveInt, ...] = Field(default=(32, 64), min_length=1)
    """Channels at each level; each level but the last halves height and width."""
    layers_per_block: PositiveInt = 1
    norm_num_groups: PositiveInt = 8

    @model_validator(mode="after")
    def _arithmetic(self) -> UNetConfig:
        for width in self.block_out_channels:
            if width % 2 or width % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels: {width} is odd, or no multiple of norm_num_groups {self.norm_num_groups}"
                )
        return self


class SamplingConfig(Section):
    """Defaults of `sample`'s options."""

    scheduler: SchedulerName = "flow_heun"
    """flow_euler, flow_heun, or one of diffusers' that knows flows, such as unipc and dpmsolver."""
    num_inference_steps: Steps = 12
    """Each costs one evaluation of the U-Net, with flow_heun two."""


class RectifiedFlowConfig(ModelConfig):
    unet: UNetConfig = UNetConfig()
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _fits(self) -> RectifiedFlowConfig:
        divisor = 2 ** (len(self.unet.block_out_channels) - 1)
        if self.shape is not None and any(side % divisor for side in self.shape[1:]):
            height, width = self.shape[1:]
            levels = len(self.unet.block_out_channels)
            raise ValueError(
                f"unet.block_out_channels: {levels} levels need sides divisible by {divisor}, not {height}x{width}"
            )
        return self


# Noise schedules


class StepOutput(NamedTuple):
    prev_sample: Tensor


class FlowSchedule(ABC):
    """The straight path between image and noise, and a solver of dx/dsigma = velocity from sigma = 1 to 0 in equal steps.

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
        """Of another schedule's config, the keys that this one has, too."""
        known = inspect.signature(cls).parameters
        return cls(**{key: value for key, value in {**config, **options}.items() if key in known})

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_sigma = (1 - sigma) x + sigma noise, for x (n, c, h, w) and timesteps (n,)."""
        sigmas = (timesteps / self.config["num_train_timesteps"]).view(-1, 1, 1, 1).to(original_samples)
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
        """The sample after an evaluation. All are (n, c, h, w); sample is what the last call returned."""


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
    """Learns where the straight lines between noise and images lead on average; following that draws an image."""

    Config = RectifiedFlowConfig
    config: RectifiedFlowConfig
    num_train_timesteps = T

    def __init__(self, config: RectifiedFlowConfig) -> None:
        super().__init__(config)
        import diffusers

        channels, height, width = self.shape
        levels = len(config.unet.block_out_channels)
        network: Any = diffusers.UNet2DModel
        self.unet: nn.Module = network(
            sample_size=(height, width), in_channels=channels, out_channels=channels,
            down_block_types=("DownBlock2D",) * levels, up_block_types=("UpBlock2D",) * levels, add_attention=False,
            **config.unet.model_dump(),
        )  # fmt: skip
        self.scheduler = self.schedule(config.sampling.scheduler)

    def schedule(self, name: str) -> Any:
        """A fresh noise schedule; most keep count of their steps.

        Raises:
            InputError: one that knows no flows.
        """
        cls = load_scheduler(name)
        if "use_flow_sigmas" not in inspect.signature(cls).parameters:
            raise InputError(f"scheduler: '{name}' knows no flows; flow_euler, flow_heun, unipc and dpmsolver do")
        return cls(num_train_timesteps=T, prediction_type="flow_prediction", use_flow_sigmas=True)

    def phases(self) -> list[Phase]:
        return [Phase("flow", self.loss, trains=("unet",))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """E |(noise - x) - v(x_sigma, sigma)|^2 over sigma uniform in [0, 1], eq. 1: a mean over pixels."""
        images = batch.x
        timesteps = T * torch.rand(len(images), device=images.device)
        noise = torch.randn_like(images)
        velocity = self.velocity(self.scheduler.add_noise(images, noise, timesteps), timesteps)
        return {"loss": (velocity - (noise - images)).square().mean()}

    def velocity(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """dx/dsigma at x_sigma (n, c, h, w) and timesteps, (n,) or one for all."""
        prediction: Tensor = self.unet(noisy, timesteps, return_dict=False)[0]
        return prediction.float()

    def sample(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None,
        scheduler: SchedulerName | None = None, num_inference_steps: Steps | None = None,
    ) -> Tensor:  # fmt: skip
        """Draw n images.

        Args:
            scheduler: a registered name; left out: the config's `sampling.scheduler`.
            num_inference_steps: 1 to 1000.
        """
        *_, last = self.denoise(n, generator=generator, scheduler=scheduler, num_inference_steps=num_inference_steps)
        return last.sample.clamp(-1, 1)

    # The capability `Denoiser`. Its level k counts from 0, nearly clean, to T - 1, pure noise: timestep k + 1.

    def add_noise(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_sigma for images (n, c, h, w) at levels (n,)."""
        noisy: Tensor = self.scheduler.add_noise(images, noise, timesteps + 1)
        return noisy

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """((1 - sigma) / sigma)^2 at levels (n,); 0 at the last."""
        sigmas = (timesteps + 1) / T
        return (1 / sigmas - 1).square()

    def denoise(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None,
        scheduler: SchedulerName | None = None, num_inference_steps: Steps | None = None,
    ) -> Iterator[DenoisingStep]:  # fmt: skip
        """The flow from noise to images, an evaluation at a time. Arguments as in `sample`."""
        name = scheduler or self.config.sampling.scheduler
        steps = num_inference_steps or self.config.sampling.num_inference_steps
        schedule = self.schedule(name)
        schedule.set_timesteps(steps, device=self.device)
        if len(schedule.timesteps.unique()) < steps:  # diffusers' round them to whole ones
            raise InputError(f"num_inference_steps: {steps} are too many for '{name}', which visits a timestep twice then")
        options = {"generator": generator} if "generator" in inspect.signature(schedule.step).parameters else {}
        sample = randn((n, *self.shape), generator, self.device) * schedule.init_noise_sigma
        for index, (timestep, number) in enumerate(zip(schedule.timesteps, schedule.timesteps.tolist(), strict=True)):
            with torch.inference_mode():
                velocity = self.velocity(schedule.scale_model_input(sample, timestep), timestep)
                original = (sample - number / T * velocity).clamp(-1, 1)
                sample = schedule.step(velocity, timestep, sample, **options).prev_sample
            yield DenoisingStep(index, max(0.0, number - 1), sample, original)

    # Folders: unet/ opens with diffusers' UNet2DModel.from_pretrained

    def save_networks(self, path: Path) -> None:
        unet: Any = self.unet
        unet.save_pretrained(path / "unet")

    def load_networks(self, path: Path) -> None:
        load_strictly(self.unet, path / "unet" / "diffusion_pytorch_model.safetensors")
