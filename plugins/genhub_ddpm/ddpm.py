"""Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel 2020, arXiv:2006.11239) of any x, with any network and
diffusers' schedules.

A checkpoint of 8-bit images is a `DDPMPipeline` folder where that draws the same, which it can without conditions: plain
diffusers opens it, and what plain diffusers saved can be trained on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genhub import (
    Batch,
    Conditioner,
    Conditions,
    DenoisingStep,
    Fraction,
    FrozenEncoder,
    GenerativeModel,
    Generators,
    Given,
    Interval,
    NonNegative,
    Phase,
    PositiveInt,
    SchedulerName,
    guidance_at,
    guided,
    load_scheduler,
    load_strictly,
    randn,
    save_tensors,
    unused_guidance,
)
from genhub_ddpm.config import NO_ETA, UNET, DDPMConfig, accepted, has_eta
from genhub_ddpm.foreign import config_of, write_index
from genhub_ddpm.latent import read_autoencoder
from genhub_ddpm.likelihood import bits_per_dimension, bound_term, posterior_table
from genhub_ddpm.samplers import build_sampler, plain_schedule, visit

CONDITIONER = "conditioner.safetensors"
"""Name of the file of what embeds the conditions."""


class Options(NamedTuple):
    """Options of a drawing; None: the config's `sampling` has it."""

    scheduler: str | None
    num_inference_steps: int | None
    eta: float | None
    guidance_scale: float | None
    guidance_interval: tuple[float, float] | None


class DDPM(GenerativeModel):
    """A network that learns to undo the noise of a fixed forward process.

    Notation: x_0 the data (their latents, where an autoencoder is named: latent.py), (n, c, *sides), a_t =
    alphas_cumprod[t], x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise (eq. 4).
    """

    Config = DDPMConfig
    config: DDPMConfig

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__(config)
        self.learns_variance = config.scheduler.variance_type == "learned_range"
        self.autoencoder, self.config = read_autoencoder(config)
        network, shape = self.config.network, self.config.network_shape
        assert network is not None  # the Config names one once it knows the shape
        assert shape is not None
        self.network_shape = shape
        self.conditioner = Conditioner(self.conditions, shape, network.width, network.takes)
        self.embeds = bool(self.conditioner.state_dict())  # a label alone is embedded by the U-Net itself
        self.network = network.build(shape, self.conditioner, shape[0] * (2 if self.learns_variance else 1))
        clip_sample = config.scheduler.clip_sample and self.autoencoder.bounds == (-1, 1)  # all that samplers clip to
        self.scheduler = config.scheduler.build(clip_sample=clip_sample)
        self._samplers: dict[str, Any] = {}
        self.num_train_timesteps = config.scheduler.num_train_timesteps
        a = self.scheduler.alphas_cumprod.double()
        self.signal_scale, self.noise_scale, self.snr, self.posterior_table = (
            nn.Buffer(table.float(), persistent=False)  # constants: they follow the device, and are not saved
            for table in (a.sqrt(), (1 - a).sqrt(), a / (1 - a), posterior_table(a))
        )

    # Training (algorithm 1)

    def phases(self) -> list[Phase]:
        return [Phase("denoise", self.loss, trains=("network", "conditioner") if self.embeds else ("network",))]

    def frozen_encoder(self) -> FrozenEncoder | None:
        """Return the autoencoder, where there is one that needs x alone."""
        return self.autoencoder.frozen_encoder()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean squared error of the prediction at a random noise level per row, eq. 14."""
        x_0 = self.autoencoder.of_batch(batch)
        timesteps = torch.randint(self.num_train_timesteps, x_0.shape[:1], device=x_0.device)
        noise = torch.randn_like(x_0)
        noisy = self.diffuse(x_0, noise, timesteps)
        output = self.predict(noisy, timesteps, self.conditioner(batch.conditions)).float()
        error = (output[:, : x_0.shape[1]] - self.target(x_0, noise, timesteps)).square().flatten(1).mean(1)
        losses = {"loss": error.mean()}
        if self.config.loss_weighting == "min_snr":
            losses = {"loss": (self.min_snr_weight(timesteps) * error).mean(), "mse": error.mean()}
        if self.learns_variance:  # eq. 16 of Nichol & Dhariwal; the bound trains the variance alone, as there
            output = torch.cat([output[:, : x_0.shape[1]].detach(), output[:, x_0.shape[1] :]], dim=1)
            vlb = self.num_train_timesteps * bound_term(self, x_0, noisy, output, timesteps).mean() / x_0[0].numel()
            losses |= {"loss": losses["loss"] + self.config.vlb_weight * vlb, "vlb": vlb}
        return losses

    def diffuse(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t from x_0 in one go, eq. 4. x_0, noise: (n, c, *sides); timesteps: (n,) int64."""
        signal_scale, noise_scale = self._scales(timesteps, x_0)
        return signal_scale * x_0 + noise_scale * noise

    def add_noise(self, x: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return `diffuse` of x and noise (n, *shape): encoded to latents before, and decoded after."""
        space = self.autoencoder
        return space.decode(self.diffuse(space.encode(x), space.reshape_noise(noise), timesteps))

    def target(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the network should predict, (n, c, *sides)."""
        match self.config.scheduler.prediction_type:
            case "epsilon":
                return noise
            case "sample":
                return x_0
        return self.diffuse(noise, -x_0, timesteps)  # v = sqrt(a) noise - sqrt(1 - a) x_0

    def predict(
        self, noisy: Tensor, timesteps: Tensor, given: Given, nothing: Given | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        """Return the network's output for x_t (n, c, *sides) at timesteps (n,): (n, c, *sides), or (n, 2c, *sides) with a
        learned variance, as the share of log beta_t against eq. 7's in [-1, 1], behind. A guidance scale other than 1 moves
        it away from the prediction for `nothing`, what is given of no conditions, or towards it."""
        times = timesteps.float()  # as they are, for any T: so do diffusers' pipelines
        if nothing is None:
            output: Tensor = self.network(noisy, times, given)
            return output
        return guided(self.network, noisy, times, given, nothing, guidance_scale)

    def predict_x0(self, x_t: Tensor, timesteps: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the guess of x_0 (n, *shape) from x_t (n, *shape) at timesteps (n,), as `add_noise` makes it."""
        space, conditions = self.autoencoder, self.conditions_of(len(x_t), conditions)
        noisy = space.encode(x_t, conditions)
        output = self.predict(noisy, timesteps, self.conditioner(conditions))
        return space.decode(self.original(noisy, output[:, : noisy.shape[1]], timesteps), conditions)

    def min_snr_weight(self, timesteps: Tensor) -> Tensor:
        """Return weights (n,) that make every prediction type's loss min(SNR, gamma) times the error in x_0."""
        snr = self.snr[timesteps]
        in_x0 = {"epsilon": snr, "sample": torch.ones_like(snr), "v_prediction": snr + 1}
        return snr.clamp(max=self.config.min_snr_gamma) / in_x0[self.config.scheduler.prediction_type]

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        return self.snr[timesteps]

    # Sampling (algorithm 2, or any registered scheduler)

    def sample(
        self,
        n: int,
        *,
        conditions: Conditions | None = None,
        generator: Generators = None,
        scheduler: SchedulerName | None = None,
        num_inference_steps: PositiveInt | None = None,
        eta: Fraction | None = None,
        guidance_scale: NonNegative | None = None,
        guidance_interval: Interval | None = None,
        callback: Callable[[DenoisingStep], None] | None = None,
    ) -> Tensor:
        """Draw n elements.

        Args:
            scheduler: a registered name; left out: the config's `sampling.scheduler`.
            num_inference_steps: 1 to num_train_timesteps.
            eta: the share of ancestral noise, for ddim.
            guidance_scale: for a model with conditions; 1 is the conditions alone, more exaggerates them.
            guidance_interval: the levels t / T in [0, 1] at which guidance_scale counts; outside, it is 1.
            callback: is given every `DenoisingStep`.
        """
        conditions = self.conditions_of(n, conditions)
        options = Options(scheduler, num_inference_steps, eta, guidance_scale, guidance_interval)
        step = None
        for step in self._denoise(n, conditions, generator, options):
            if callback is not None:
                callback(self._decoded(step, conditions))
        assert step is not None
        drawn = self.autoencoder.decode(step.sample, conditions)
        return drawn if self.modality.bounds is None else drawn.clamp(*self.modality.bounds)

    def unused_options(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Return guidance where there are no conditions, and ancestral noise where the sampler has none, each with the
        reason."""
        unused = unused_guidance(self.conditions, options, self.config.sampling.guidance_scale)
        if options.get("eta") is not None:
            name = options.get("scheduler") or self.config.sampling.scheduler
            if not has_eta(name):
                unused["eta"] = NO_ETA.format(name)
        return unused

    def denoise(
        self,
        n: int,
        *,
        conditions: Conditions | None = None,
        generator: Generators = None,
        scheduler: SchedulerName | None = None,
        num_inference_steps: PositiveInt | None = None,
        eta: Fraction | None = None,
        guidance_scale: NonNegative | None = None,
        guidance_interval: Interval | None = None,
    ) -> Iterator[DenoisingStep]:
        """Yield the reverse process a step at a time, arguments as in `sample`; latents are decoded, x_t as well as x_0."""
        conditions = self.conditions_of(n, conditions)
        options = Options(scheduler, num_inference_steps, eta, guidance_scale, guidance_interval)
        for step in self._denoise(n, conditions, generator, options):
            yield self._decoded(step, conditions)

    @torch.inference_mode()
    def _decoded(self, step: DenoisingStep, conditions: Conditions) -> DenoisingStep:
        decode = self.autoencoder.decode
        sample, original = decode(step.sample, conditions), decode(step.pred_original_sample, conditions)
        return replace(step, sample=sample, pred_original_sample=original)

    def _denoise(self, n: int, conditions: Conditions, generator: Generators, options: Options) -> Iterator[DenoisingStep]:
        # What is the same at every step: the sampler and its levels, the conditions, the options of its `step`.
        sampling = self.config.sampling
        sampler = self.sampler(options.scheduler)
        steps = options.num_inference_steps or sampling.num_inference_steps
        levels = visit(sampler, steps, self.scheduler.alphas_cumprod, self.device)
        scale = sampling.guidance_scale if options.guidance_scale is None else options.guidance_scale
        interval = options.guidance_interval or sampling.guidance_interval
        with torch.inference_mode():
            given = self.conditioner(conditions)
            guides = bool(self.conditions) and scale != 1
            nothing = self.conditioner(Conditions.nothing(self.conditions, n, self.device)) if guides else None
        eta = sampling.eta if options.eta is None else options.eta
        # Where a guess of x_0 is clipped, the noise is the one that goes with it: else DDIM leaves the way under guidance.
        known = {"generator": generator, "eta": eta, "use_clipped_model_output": True}
        step_options = accepted(type(sampler).step, known)
        # The others of diffusers' would drop it, some taking the first three channels for the image.
        takes_variance = self.learns_variance and isinstance(sampler, load_scheduler("ddpm"))
        sample = randn((n, *self.network_shape), generator, self.device) * sampler.init_noise_sigma
        for index, (timestep, number) in enumerate(levels):
            with torch.inference_mode():
                # 1. predict noise, x_0 or v, with guidance
                model_input = sampler.scale_model_input(sample, timestep)
                guidance = guidance_at(scale, interval, (number + 1) / self.num_train_timesteps)
                output = self.predict(model_input, timestep.expand(n), given, nothing, guidance)
                prediction = output[:, : sample.shape[1]]
                # 2. the x_0 that follows from it, clipped
                original = self.original(model_input, prediction, number)
                # 3. what the sampler takes: v in place of x_0, a learned variance behind the prediction
                if self.config.scheduler.prediction_type == "sample":
                    signal, noise = self._scales(number, sample)
                    prediction = (signal * model_input - prediction) / noise
                if takes_variance:
                    prediction = torch.cat([prediction, output[:, sample.shape[1] :]], dim=1)
                # 4. x at the next level
                sample = sampler.step(prediction, timestep, sample, **step_options).prev_sample
            yield DenoisingStep(index, number, sample, original)

    def _scales(self, timestep: float | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(a_t) and sqrt(1 - a_t) at levels (n,), to be multiplied with x (n, ...); or at a sampler's timestep,
        which may lie between two levels."""
        if isinstance(timestep, Tensor):
            each = (-1, *[1] * (like.ndim - 1))
            return self.signal_scale[timestep].view(each), self.noise_scale[timestep].view(each)
        level = min(max(round(timestep), 0), self.num_train_timesteps - 1)
        return self.signal_scale[level], self.noise_scale[level]

    def original(self, noisy: Tensor, prediction: Tensor, timestep: float | Tensor) -> Tensor:
        """Return the x_0 that a prediction (n, c, *sides) for x_t implies, clipped where there are bounds."""
        signal, noise = self._scales(timestep, noisy)
        match self.config.scheduler.prediction_type:
            case "epsilon":
                prediction = (noisy - noise * prediction) / signal
            case "v_prediction":
                prediction = signal * noisy - noise * prediction
        return prediction if self.autoencoder.bounds is None else prediction.clamp(*self.autoencoder.bounds)

    def sampler(self, name: str | None = None) -> Any:
        """Return a fresh scheduler (many keep state) on this model's noise schedule."""
        name = name or self.config.sampling.scheduler
        if name not in self._samplers:
            self._samplers[name] = build_sampler(name, self.config.scheduler, self.scheduler, self.snr)
        return copy.copy(self._samplers[name])  # what changes in a drawing, `set_timesteps` makes anew

    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        """Return an upper bound (n,) of the bits that a number of x needs, eq. 5: of its probability where its modality has
        levels, as 8-bit images have, else of its density in the column's own units. It takes num_train_timesteps
        evaluations."""
        return bits_per_dimension(self, batch, generator)

    # Folders

    def save_networks(self, path: Path) -> None:
        """Write a `DDPMPipeline` folder where plain diffusers would draw the same with it, else its parts that there are."""
        self.network.save(path / self._network_folder)
        schedule = plain_schedule(self.config.scheduler, self.scheduler)
        schedule.save_pretrained(path / "scheduler")
        if self._is_plain():
            write_index(path, type(schedule))
        if self.embeds:
            save_tensors(self.conditioner.state_dict(), path / CONDITIONER)
        self.autoencoder.save(path)

    def load_networks(self, path: Path) -> None:
        own = path / self._network_folder
        self.network.load(own if own.is_dir() else path)  # diffusers' UNet2DModel has no folder around it
        if self.embeds:
            load_strictly(self.conditioner, path / CONDITIONER)
        self.autoencoder.load(path)

    @property
    def _network_folder(self) -> str:
        assert self.config.network is not None
        return UNET if self.config.network.name == UNET else "network"

    def _is_plain(self) -> bool:
        """Whether a DDPMPipeline draws what this model does: 8-bit pixels, by a U-Net that is told the time alone."""
        pixels = self.modality.levels == 256 and self.modality.bounds == (-1, 1)
        one_by_one = self._network_folder == UNET and getattr(self.config.network, "patch_size", 1) == 1
        return pixels and one_by_one and not self.conditions and self.config.autoencoder is None

    @classmethod
    def config_from_foreign(cls, path: Path) -> DDPMConfig:
        """Return the Config of a `DDPMPipeline`, `DDIMPipeline` or `UNet2DModel` folder that diffusers saved."""
        return config_of(path)
