"""Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel 2020, arXiv:2006.11239), on diffusers' U-Net and schedules.

A checkpoint is a `DDPMPipeline` folder: plain diffusers opens it, and what plain diffusers saved can be trained on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genhub import (
    Batch,
    DenoisingStep,
    FrozenEncoder,
    GenerativeModel,
    Generators,
    Phase,
    PositiveInt,
    SchedulerName,
    load_scheduler,
    load_strictly,
    randn,
)
from genhub_ddpm.config import NO_ETA, DDPMConfig, Scale, Share, accepted, has_eta
from genhub_ddpm.foreign import config_of, todays_name
from genhub_ddpm.latent import read_autoencoder
from genhub_ddpm.likelihood import bits_per_dimension, bound_term, posterior_table
from genhub_ddpm.samplers import build_sampler, plain_schedule, visit


class DDPM(GenerativeModel):
    """A U-Net that learns to undo the noise of a fixed forward process.

    Notation: x_0 the images (their latents, where an autoencoder is named: latent.py), a_t = alphas_cumprod[t],
    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise (eq. 4).
    """

    Config = DDPMConfig
    config: DDPMConfig

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__(config)
        self.conditions = ("labels",) if config.conditional else ()
        self.no_label = config.num_classes or 0  # a conditional U-Net's last class: an image without its label
        self.learns_variance = config.scheduler.variance_type == "learned_range"
        self.autoencoder, self.config = read_autoencoder(config)
        self.unet_shape = self.config.unet_shape or self.sample_shape
        channels = self.unet_shape[0] * (2 if self.learns_variance else 1)
        self.unet = config.unet.build(self.unet_shape, channels, self.no_label + 1 if config.conditional else None)
        clip_sample = config.scheduler.clip_sample and self.autoencoder.limit < math.inf
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
        return [Phase("denoise", self.loss, trains=("unet",))]

    def frozen_encoder(self) -> FrozenEncoder | None:
        """Return the autoencoder, where there is one."""
        return self.autoencoder.frozen_encoder()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean squared error of the prediction at a random noise level per image, eq. 14."""
        x_0 = self.autoencoder.of_batch(batch)
        timesteps = torch.randint(self.num_train_timesteps, x_0.shape[:1], device=x_0.device)
        noise = torch.randn_like(x_0)
        labels = None
        if self.config.conditional:
            dropped = torch.rand(len(x_0), device=x_0.device) < self.config.label_dropout
            labels = batch["labels"].masked_fill(dropped, self.no_label)
        noisy = self.diffuse(x_0, noise, timesteps)
        output = self.predict(noisy, timesteps, labels).float()
        error = (output[:, : x_0.shape[1]] - self.target(x_0, noise, timesteps)).square().mean((1, 2, 3))
        losses = {"loss": error.mean()}
        if self.config.loss_weighting == "min_snr":
            losses = {"loss": (self.min_snr_weight(timesteps) * error).mean(), "mse": error.mean()}
        if self.learns_variance:  # eq. 16 of Nichol & Dhariwal; the bound trains the variance alone, as there
            output = torch.cat([output[:, : x_0.shape[1]].detach(), output[:, x_0.shape[1] :]], dim=1)
            vlb = self.num_train_timesteps * bound_term(self, x_0, noisy, output, timesteps).mean() / x_0[0].numel()
            losses |= {"loss": losses["loss"] + self.config.vlb_weight * vlb, "vlb": vlb}
        return losses

    def diffuse(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t from x_0 in one go, eq. 4. x_0, noise: (n, c, h, w); timesteps: (n,) int64."""
        signal_scale, noise_scale = self._scales(timesteps)
        return signal_scale * x_0 + noise_scale * noise

    def add_noise(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return `diffuse` of images and noise (n, c, h, w) as images: encoded to latents before, and decoded after."""
        space = self.autoencoder
        return space.decode(self.diffuse(space.encode(images), space.reshape_noise(noise), timesteps))

    def target(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the U-Net should predict, (n, c, h, w)."""
        match self.config.scheduler.prediction_type:
            case "epsilon":
                return noise
            case "sample":
                return images
        return self.diffuse(noise, -images, timesteps)  # v = sqrt(a) noise - sqrt(1 - a) x_0

    def predict(self, noisy: Tensor, timesteps: Tensor, labels: Tensor | None = None, guidance_scale: float = 1.0) -> Tensor:
        """Return the U-Net's output for x_t (n, c, h, w), with labels (n,): (n, c, h, w), or (n, 2c, h, w) with a learned
        variance, as the share of log beta_t against eq. 7's in [-1, 1], behind. A guidance scale other than 1 moves it away
        from the prediction without labels, or towards it (Ho & Salimans 2022, eq. 6), in one call of twice the batch."""
        if labels is None or guidance_scale == 1:
            prediction: Tensor = self.unet(noisy, timesteps, labels, return_dict=False)[0]
            return prediction
        pair = torch.cat([labels, torch.full_like(labels, self.no_label)])
        with_label, without = self.unet(torch.cat([noisy, noisy]), timesteps, pair, return_dict=False)[0].chunk(2)
        guided = torch.lerp(without, with_label, guidance_scale)
        guided[:, noisy.shape[1] :] = with_label[:, noisy.shape[1] :]  # a learned variance is the label's own
        return guided

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
        labels: Tensor | None = None,
        generator: Generators = None,
        scheduler: SchedulerName | None = None,
        num_inference_steps: PositiveInt | None = None,
        eta: Share | None = None,
        guidance_scale: Scale | None = None,
        callback: Callable[[DenoisingStep], None] | None = None,
    ) -> Tensor:
        """Draw n images.

        Args:
            scheduler: a registered name; left out: the config's `sampling.scheduler`.
            num_inference_steps: 1 to num_train_timesteps.
            eta: the share of ancestral noise, for ddim.
            guidance_scale: for a conditional model; 1 is the condition alone, more exaggerates it.
            callback: is given every `DenoisingStep`.
        """
        step = None
        for step in self._denoise(n, labels, generator, scheduler, num_inference_steps, eta, guidance_scale):
            if callback is not None:
                callback(self._decoded(step))
        assert step is not None
        return self.autoencoder.decode(step.sample).clamp(-1, 1)

    def unused_options(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Return guidance where there are no labels, and ancestral noise where the sampler has none, each with the
        reason."""
        unused = {}
        if options.get("guidance_scale") is not None and not self.config.conditional:
            unused["guidance_scale"] = "this model draws without labels; it is for one trained with model.conditional: true"
        if options.get("eta") is not None:
            name = options.get("scheduler") or self.config.sampling.scheduler
            if not has_eta(name):
                unused["eta"] = NO_ETA.format(name)
        return unused

    def denoise(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        generator: Generators = None,
        scheduler: SchedulerName | None = None,
        num_inference_steps: PositiveInt | None = None,
        eta: Share | None = None,
        guidance_scale: Scale | None = None,
    ) -> Iterator[DenoisingStep]:
        """Yield the reverse process a step at a time, arguments as in `sample`; latents are decoded, x_t as well as x_0."""
        for step in self._denoise(n, labels, generator, scheduler, num_inference_steps, eta, guidance_scale):
            yield self._decoded(step)

    @torch.inference_mode()
    def _decoded(self, step: DenoisingStep) -> DenoisingStep:
        sample, original = self.autoencoder.decode(step.sample), self.autoencoder.decode(step.pred_original_sample)
        return replace(step, sample=sample, pred_original_sample=original)

    def _denoise(
        self,
        n: int,
        labels: Tensor | None,
        generator: Generators,
        scheduler: SchedulerName | None,
        num_inference_steps: int | None,
        eta: float | None,
        guidance_scale: float | None,
    ) -> Iterator[DenoisingStep]:
        # What is the same at every step: the sampler and its levels, the label, the options of its `step`.
        sampler = self.sampler(scheduler)
        steps = num_inference_steps or self.config.sampling.num_inference_steps
        if self.config.conditional:
            labels = self.check_labels(labels)
        scale = self.config.sampling.guidance_scale if guidance_scale is None else guidance_scale
        levels = visit(sampler, steps, self.scheduler.alphas_cumprod, self.device)
        eta = self.config.sampling.eta if eta is None else eta
        # Where a guess of x_0 is clipped, the noise is the one that goes with it: else DDIM leaves the way under guidance.
        options = accepted(type(sampler).step, {"generator": generator, "eta": eta, "use_clipped_model_output": True})
        # The others of diffusers' would drop it, some taking the first three channels for the image.
        takes_variance = self.learns_variance and isinstance(sampler, load_scheduler("ddpm"))
        sample = randn((n, *self.unet_shape), generator, self.device) * sampler.init_noise_sigma
        for index, (timestep, number) in enumerate(levels):
            with torch.inference_mode():
                # 1. predict noise, x_0 or v, with guidance
                model_input = sampler.scale_model_input(sample, timestep)
                output = self.predict(model_input, timestep, labels, scale)
                prediction = output[:, : sample.shape[1]]
                # 2. the x_0 that follows from it, clipped
                original = self.original(model_input, prediction, number)
                # 3. what the sampler takes: v in place of x_0, a learned variance behind the prediction
                if self.config.scheduler.prediction_type == "sample":
                    signal, noise = self._scales(number)
                    prediction = (signal * model_input - prediction) / noise
                if takes_variance:
                    prediction = torch.cat([prediction, output[:, sample.shape[1] :]], dim=1)
                # 4. x at the next level
                sample = sampler.step(prediction, timestep, sample, **options).prev_sample
            yield DenoisingStep(index, number, sample, original)

    def _scales(self, timestep: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(a_t) and sqrt(1 - a_t) at levels (n,), or at a sampler's timestep, which may lie between two
        levels."""
        if isinstance(timestep, Tensor):
            return self.signal_scale[timestep].view(-1, 1, 1, 1), self.noise_scale[timestep].view(-1, 1, 1, 1)
        level = min(max(round(timestep), 0), self.num_train_timesteps - 1)
        return self.signal_scale[level], self.noise_scale[level]

    def original(self, noisy: Tensor, prediction: Tensor, timestep: float | Tensor) -> Tensor:
        """Return the x_0 that a prediction (n, c, h, w) for x_t implies; images are clipped to [-1, 1]."""
        signal, noise = self._scales(timestep)
        match self.config.scheduler.prediction_type:
            case "epsilon":
                prediction = (noisy - noise * prediction) / signal
            case "v_prediction":
                prediction = signal * noisy - noise * prediction
        return prediction.clamp(-self.autoencoder.limit, self.autoencoder.limit)

    def sampler(self, name: str | None = None) -> Any:
        """Return a fresh scheduler (many keep state) on this model's noise schedule."""
        name = name or self.config.sampling.scheduler
        if name not in self._samplers:
            self._samplers[name] = build_sampler(name, self.config.scheduler, self.scheduler, self.snr)
        return copy.copy(self._samplers[name])  # what changes in a drawing, `set_timesteps` makes anew

    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        """Return an upper bound (n,) of the bits that a pixel and channel needs, eq. 5; it takes num_train_timesteps
        evaluations.

        batch: "images" (n, c, h, w) of 8-bit values in [-1, 1], and "labels" for a conditional model.
        """
        return bits_per_dimension(self, batch, generator)

    # Folders

    def save_networks(self, path: Path) -> None:
        from diffusers import DDPMPipeline

        pipeline: Any = DDPMPipeline
        pipeline(unet=self.unet, scheduler=plain_schedule(self.config.scheduler, self.scheduler)).save_pretrained(path)
        self.autoencoder.save(path)

    def load_networks(self, path: Path) -> None:
        unet = path / "unet" if (path / "unet").is_dir() else path
        load_strictly(self.unet, unet / "diffusion_pytorch_model.safetensors", rename=todays_name)
        self.autoencoder.load(path)

    @classmethod
    def config_from_foreign(cls, path: Path) -> DDPMConfig:
        """Return the Config of a `DDPMPipeline`, `DDIMPipeline` or `UNet2DModel` folder that diffusers saved."""
        return config_of(path)
