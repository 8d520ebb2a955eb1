"""A DDPM's options, checked before anything is built, and without importing diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from genhub import (
    Fraction,
    Interval,
    Means,
    ModelData,
    ModelPath,
    NetworkedConfig,
    NonNegative,
    PluginError,
    RecipeError,
    SchedulerName,
    Section,
    Shape,
    StoredModel,
    did_you_mean,
    load_scheduler,
)

PredictionType = Literal["epsilon", "sample", "v_prediction"]


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
    """Output of the network: the noise, the clean x, or v (Salimans & Ho 2022)."""
    clip_sample: bool = True
    """Samplers that can, clip their guess of the clean x to [-1, 1], where its modality has these bounds, as images have;
    latents are not clipped."""
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
                f"{where} ends at noise alone, from which a prediction of the noise tells no x: set "
                "model.scheduler.prediction_type to v_prediction (or sample)"
            )
        return schedule


UNET = "unet"
"""Name of the network that is diffusers' U-Net, and of its folder in a model folder."""
NO_ETA = "the sampler '{}' has no such share of noise to set; ddim has"


class SamplingConfig(Section):
    """Defaults of the options of `sample`."""

    scheduler: SchedulerName = "ddim"
    num_inference_steps: int = Field(default=50, strict=True, ge=1, le=100_000)
    eta: Fraction = 1.0
    """For ddim: the share of ancestral noise; 0 is deterministic (Song et al. 2021, eq. 16)."""
    guidance_scale: NonNegative = 1.0
    """For a model with conditions: 1 is the conditions alone, more exaggerates them (Ho & Salimans 2022), 0 ignores them."""
    guidance_interval: Interval = (0.0, 1.0)
    """Levels t / T at which guidance_scale counts, [0.2, 0.8]; outside it is 1 (Kynkaanniemi et al. 2024)."""


class StoredAutoencoder(StoredModel):
    """Autoencoder whose weights are in the checkpoint. genhub writes it; a recipe names a folder."""

    latent_shape: Annotated[Shape, Field(min_length=1)]
    """Shape of its latents, as the network gets them: (channels, *sides), or (d,) for a vector."""
    flat: bool = False
    """Its latents are vectors (d,), which the network gets as (d, 1, 1): so format 1 gave them to a U-Net."""


class DDPMConfig(NetworkedConfig):
    condition_dropout: Fraction | Mapping[str, Fraction] = 0.1
    """Share of rows trained on without their conditions, which guidance needs: all of a row's together; {label: 0.1} drops
    each column for itself."""
    autoencoder: ModelPath | StoredAutoencoder | None = None
    """Latent diffusion: a trained model that can encode and decode (a vae, say), by its run or folder. The network works on
    its latents; a checkpoint has a copy of it. Left out: the network works on x itself."""
    scheduler: ScheduleConfig = ScheduleConfig()
    sampling: SamplingConfig = SamplingConfig()
    vlb_weight: float = Field(default=0.001, ge=0)
    """With learned_range: the weight of the variational bound beside the simple loss (Nichol & Dhariwal 2021, eq. 16)."""
    loss_weighting: Literal["none", "min_snr"] = "none"
    """none: the simple loss, eq. 14; min_snr: Hang et al. 2023, which balances the noise levels."""
    min_snr_gamma: float = Field(default=5.0, gt=0)

    @property
    def network_shape(self) -> tuple[int, ...] | None:
        """Shape that the network works on; None before the data and the autoencoder are known."""
        if isinstance(self.autoencoder, StoredAutoencoder):
            return self.autoencoder.latent_shape
        return self.shape if self.autoencoder is None else None

    @property
    def contains(self) -> tuple[str, str] | None:
        return ("autoencoder", self.autoencoder) if isinstance(self.autoencoder, str) else None

    def check_network(self, shape: tuple[int, ...]) -> None:
        try:
            super().check_network(shape)
        except ValueError as error:
            latents = f" (x is the autoencoder's latents, {'x'.join(map(str, shape))})" if self.autoencoder else ""
            raise ValueError(f"{error}{latents}") from error

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        few = {} if len(data.target.shape) == 1 else {"model.sampling": {"scheduler": "sasolver", "num_inference_steps": 20}}
        return super().suited(data, means) | few

    def mistakes(self) -> dict[str, str]:
        """Return the keys that change nothing, and the numbers of steps that can't be taken, each with the reason."""
        sampling, schedule = self.sampling, self.scheduler
        needs = {  # what a key that is not left at its default is for
            "sampling.guidance_scale": (bool(self.conditions), "conditions"),
            "sampling.guidance_interval": (bool(self.conditions), "conditions"),
            "vlb_weight": (schedule.variance_type == "learned_range", "scheduler.variance_type: learned_range"),
            "min_snr_gamma": (self.loss_weighting == "min_snr", "loss_weighting: min_snr"),
        }
        found = {
            key: f"changes nothing without {need}; leave it out"
            for key, (met, need) in needs.items()
            if not met and not self.is_default(key)
        }
        if not self.is_default("sampling.eta") and not has_eta(sampling.scheduler):
            found["sampling.eta"] = f"changes nothing: {NO_ETA.format(sampling.scheduler)}; leave it out"
        if sampling.num_inference_steps > schedule.num_train_timesteps:
            found["sampling.num_inference_steps"] = (
                f"at most {schedule.num_train_timesteps}, scheduler.num_train_timesteps, not {sampling.num_inference_steps}"
            )
        return found

    @classmethod
    def from_format_1(cls, config: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """Return this format's keys: the U-Net is one of several networks now, and a label one of several conditions."""
        renamed = {"label_dropout": "condition_dropout"}
        now = {renamed.get(key, key): value for key, value in config.items() if key not in ("unet", "conditional")}
        now["network"] = {"name": UNET} | config.get("unet", {})
        now["conditions"] = ["label"] if config.get("conditional") else []
        if isinstance(stored := config.get("autoencoder"), dict):
            shape = tuple(stored["latent_shape"])
            flat = {"latent_shape": (*shape, 1, 1), "flat": True} if len(shape) == 1 else {}
            now["autoencoder"] = StoredAutoencoder.from_format_1(stored, data) | flat
        return super().from_format_1(now, data)


def accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a function's signature names."""
    return {key: value for key, value in options.items() if key in _parameters(function)}


def has_eta(sampler: str) -> bool:
    """Whether a registered scheduler's steps have a share of ancestral noise. Imports it."""
    return "eta" in _parameters(load_scheduler(sampler).step)


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
