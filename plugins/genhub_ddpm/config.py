"""A DDPM's options, checked before anything is built, and without importing diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import nn

from genhub import (
    ModelConfig,
    ModelPath,
    PluginError,
    PositiveInt,
    RecipeError,
    SchedulerName,
    Section,
    StoredModel,
    did_you_mean,
    load_scheduler,
)

DownBlock = Literal["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]


class UNetConfig(Section):
    """Keys of the U-Net, under diffusers' names; their defaults suit a small network."""

    block_out_channels: tuple[PositiveInt, ...] = Field(default=(32, 64), min_length=1)
    """Channels at each level; each level but the last halves height and width."""
    layers_per_block: PositiveInt = 1
    norm_num_groups: PositiveInt = 8
    down_block_types: tuple[DownBlock, ...] | None = None
    """Left out: attention at the last level alone, or none without add_attention."""
    up_block_types: tuple[UpBlock, ...] | None = None
    add_attention: bool = True
    """Attention in the middle, and at the last level where the block types are left out."""
    attention_head_dim: PositiveInt | None = 8
    dropout: float = Field(default=0.0, ge=0, lt=1)
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    norm_eps: float = Field(default=1e-5, gt=0)
    time_embedding_type: Literal["positional", "fourier"] = "positional"
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    center_input_sample: bool = False
    mid_block_scale_factor: float = 1.0
    downsample_padding: int = 1
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    attn_norm_num_groups: PositiveInt | None = None

    @model_validator(mode="after")
    def _arithmetic(self) -> UNetConfig:
        groups = self.norm_num_groups
        for width in self.block_out_channels:
            if width % 2:
                raise ValueError(f"block_out_channels: must be even, {width} is not")
            if width % groups:
                near = max(groups, round(width / groups) * groups)
                raise ValueError(f"block_out_channels: {width} does not divide by norm_num_groups {groups}; {near} does")
            if (
                self.add_attention
                and self.attention_head_dim
                and width % self.attention_head_dim
                and width == self.block_out_channels[-1]
            ):
                raise ValueError(f"attention_head_dim: {self.attention_head_dim} does not divide {width} channels")
        for name in ("down_block_types", "up_block_types"):
            types, levels = getattr(self, name), len(self.block_out_channels)
            if types is not None and len(types) != levels:
                raise ValueError(f"{name}: {len(types)} given for {levels} levels of block_out_channels")
        return self

    def check_size(self, height: int, width: int, latents: bool = False) -> None:
        """
        Raises:
            ValueError: the sides can't be halved as often as the levels ask.
        """
        divisor = 2 ** (len(self.block_out_channels) - 1)
        for side in (height, width):
            if side % divisor:
                near = max(divisor, round(side / divisor) * divisor)
                remedy = f"the images are {height}x{width}: set data.image_size to {near}, or use fewer levels"
                if latents:
                    remedy = f"the autoencoder's latents are {height}x{width}: use fewer levels"
                raise ValueError(
                    f"unet.block_out_channels: {len(self.block_out_channels)} levels need sides divisible by {divisor}, "
                    + remedy
                )

    def build(self, sample_shape: tuple[int, int, int], out_channels: int, num_class_embeds: int | None) -> nn.Module:
        import diffusers  # slow to import

        channels, height, width = sample_shape
        plain = len(self.block_out_channels) - (1 if self.add_attention else 0)
        down = self.down_block_types or ("DownBlock2D",) * plain + ("AttnDownBlock2D",) * self.add_attention
        up = self.up_block_types or ("AttnUpBlock2D",) * self.add_attention + ("UpBlock2D",) * plain
        options = self.model_dump() | {"down_block_types": down, "up_block_types": up, "num_class_embeds": num_class_embeds}
        size = height if height == width else (height, width)
        network: Any = diffusers.UNet2DModel
        unet: nn.Module = network(sample_size=size, in_channels=channels, out_channels=out_channels, **options)
        return unet


PredictionType = Literal["epsilon", "sample", "v_prediction"]


Share = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(ge=0)]


class ScheduleConfig(Section):
    """Keys of the forward process, under the names of diffusers' schedulers."""

    name: SchedulerName = "ddpm"
    """Saved with the checkpoint; `genhub plugins` lists the schedulers."""
    num_train_timesteps: int = Field(default=1000, strict=True, ge=2, le=100_000)
    """T, the number of noise levels."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"
    """linear: Ho et al. 2020; scaled_linear: linear in sqrt(beta); squaredcos_cap_v2: Nichol & Dhariwal 2021."""
    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    beta_end: float = Field(default=0.02, gt=0, lt=1)
    prediction_type: PredictionType = "v_prediction"
    """Output of the U-Net: the noise, the clean image, or v (Salimans & Ho 2022)."""
    clip_sample: bool = True
    """Samplers that can, clip their guess of the clean image to [-1, 1]; latents are not clipped."""
    variance_type: Literal["fixed_small", "fixed_large", "learned_range"] = "fixed_small"
    """Variance of the ancestral sampler: eq. 7 (fixed_small), beta_t (fixed_large), or learned between the two."""
    timestep_spacing: Literal["trailing", "linspace", "leading"] = "trailing"
    """Spacing of the levels that a sampler with fewer than T steps visits; trailing starts at pure noise."""
    options: Mapping[str, Any] = {}
    """Arguments of the named schedule beyond these: {tau: 0.9}; `genhub plugins info NAME` lists them."""

    @model_validator(mode="after")
    def _own(self) -> ScheduleConfig:
        if self.options:  # only then is the class needed, and imported
            try:
                parameters = inspect.signature(load_scheduler(self.name)).parameters
            except PluginError as error:
                raise ValueError(str(error)) from error
            known = parameters.keys() - ScheduleConfig.model_fields.keys()
            for key, value in self.options.items():
                if key not in known:
                    nearest = did_you_mean(key, known)
                    raise ValueError(f"options.{key}: scheduler '{self.name}' has no such argument; {nearest}")
                if isinstance(value, bool) and type(parameters[key].default) in (int, float):
                    raise ValueError(f"options.{key}: must be a number, not {value}")
            try:
                self.build()
            except RecipeError as error:
                raise ValueError(f"options: {str(error).removeprefix('model.scheduler: ')}") from error
        return self

    def build(self, **changes: Any) -> Any:
        """Return the schedule, with other values for some keys.

        Raises:
            RecipeError: it can't be built so, or is none that a DDPM can use.
        """
        cls = load_scheduler(self.name)
        where = f"model.scheduler: '{self.name}'"
        try:
            schedule = cls(**accepted(cls, self.model_dump(exclude={"name", "options"}) | changes), **self.options)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{where}: {error}") from error
        levels = getattr(schedule, "alphas_cumprod", None)
        if levels is None or levels.shape != (self.num_train_timesteps,):
            raise RecipeError(f"{where} has no alphas_cumprod of {self.num_train_timesteps} levels, which a DDPM needs")
        if levels.is_meta:  # there are no numbers to look at
            return schedule
        if not levels.isfinite().all():
            raise RecipeError(f"{where} has NaN or infinity in its alphas_cumprod")
        if levels[-1] == 0 and self.prediction_type == "epsilon":  # zero terminal SNR, Lin et al. 2023
            raise RecipeError(
                f"{where} ends at noise alone, from which a prediction of the noise tells no image: set "
                "model.scheduler.prediction_type to v_prediction (or sample)"
            )
        return schedule


NO_ETA = "the sampler '{}' has no such share of noise to set; ddim has"


class SamplingConfig(Section):
    """Defaults of the options of `sample`."""

    scheduler: SchedulerName = "ddim"
    num_inference_steps: int = Field(default=50, strict=True, ge=1, le=100_000)
    eta: Share = 1.0
    """For ddim: the share of ancestral noise; 0 is deterministic (Song et al. 2021, eq. 16)."""
    guidance_scale: Scale = 1.0
    """For a conditional model: 1 is the condition alone, more exaggerates it (Ho & Salimans 2022), 0 ignores it."""


class StoredAutoencoder(StoredModel):
    """Autoencoder whose weights are in the checkpoint. genhub writes it; a recipe names a folder."""

    latent_shape: tuple[PositiveInt, ...]
    """(c, h, w), or (d,) for a vector, which is treated as (d, 1, 1)."""

    @field_validator("latent_shape")
    @classmethod
    def _image_like(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) not in (1, 3):
            raise ValueError(f"autoencoder: its latents have the shape {shape}; a U-Net needs (c, h, w) or (d,)")
        return shape


class DDPMConfig(ModelConfig):
    unet: UNetConfig = UNetConfig()
    scheduler: ScheduleConfig = ScheduleConfig()
    sampling: SamplingConfig = SamplingConfig()
    conditional: bool = False
    """Learn to draw what a label asks for. Without it, labels in the data are ignored."""
    label_dropout: Share = 0.1
    """For a conditional model: the share of images trained on without their label, which guidance needs."""
    vlb_weight: float = Field(default=0.001, ge=0)
    """With learned_range: the weight of the variational bound beside the simple loss (Nichol & Dhariwal 2021, eq. 16)."""
    loss_weighting: Literal["none", "min_snr"] = "none"
    """none: the simple loss, eq. 14; min_snr: Hang et al. 2023, which balances the noise levels."""
    min_snr_gamma: float = Field(default=5.0, gt=0)
    autoencoder: ModelPath | StoredAutoencoder | None = None
    """Latent diffusion: a trained model that can encode and decode (a vae, say), by its run or folder. The U-Net works on
    its latents; a checkpoint has a copy of it. Left out: the U-Net works on the images themselves."""

    @property
    def unet_shape(self) -> tuple[int, int, int] | None:
        """Shape (c, h, w) that the U-Net works on; None before the data and the autoencoder are known."""
        if isinstance(self.autoencoder, StoredAutoencoder):
            channels, height, width = (*self.autoencoder.latent_shape, 1, 1)[:3]
            return channels, height, width
        return self.sample_shape if self.autoencoder is None else None

    def mistakes(self) -> dict[str, str]:
        """Return the keys that change nothing, and the numbers of steps that can't be taken, each with the reason."""
        sampling, schedule = self.sampling, self.scheduler
        needs = {  # what a key that is not left at its default is for
            "sampling.guidance_scale": (self.conditional, "conditional: true"),
            "label_dropout": (self.conditional, "conditional: true"),
            "vlb_weight": (schedule.variance_type == "learned_range", "scheduler.variance_type: learned_range"),
            "min_snr_gamma": (self.loss_weighting == "min_snr", "loss_weighting: min_snr"),
        }
        found = {
            key: f"changes nothing without {need}; leave it out"
            for key, (met, need) in needs.items()
            if not met and not _is_default(self, key)
        }
        if not _is_default(self, "sampling.eta") and not has_eta(sampling.scheduler):
            found["sampling.eta"] = f"changes nothing: {NO_ETA.format(sampling.scheduler)}; leave it out"
        if sampling.num_inference_steps > schedule.num_train_timesteps:
            found["sampling.num_inference_steps"] = (
                f"at most {schedule.num_train_timesteps}, scheduler.num_train_timesteps, not {sampling.num_inference_steps}"
            )
        return found

    @model_validator(mode="after")
    def _fits(self) -> DDPMConfig:
        if self.sample_shape is not None:
            if self.unet_shape is not None:
                self.unet.check_size(*self.unet_shape[1:], latents=self.autoencoder is not None)
            if self.conditional and self.num_classes is None:
                raise ValueError("conditional: needs labels, and the data has none")
        return self


def accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a function's signature names."""
    return {key: value for key, value in options.items() if key in _parameters(function)}


def has_eta(sampler: str) -> bool:
    """Whether a registered scheduler's steps have a share of ancestral noise. Imports it."""
    return "eta" in _parameters(load_scheduler(sampler).step)


def _is_default(section: Section, key: str) -> bool:
    name, _, rest = key.partition(".")
    value, default = getattr(section, name), type(section).model_fields[name].default
    return _is_default(value, rest) if rest else bool(value == default)


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
