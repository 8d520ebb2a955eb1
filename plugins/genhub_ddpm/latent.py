"""The space that the U-Net works in: images, or an autoencoder's latents (Rombach et al. 2022, arXiv:2112.10752).

Both are seen the same way, so that neither the loss nor a sampler asks which of them it has. Latents differ in what they
have no need of: a fixed range to clip to.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from genhub import (
    Autoencoder,
    Batch,
    CheckpointError,
    FrozenEncoder,
    InputError,
    Model,
    RecipeError,
    load,
    load_strictly,
    save_tensors,
)
from genhub_ddpm.config import DDPMConfig, StoredAutoencoder
from genhub_ddpm.likelihood import discretized_gaussian

WINDOW = 100
"""Number of training batches over which the latents' mean and scale are measured."""


def read_autoencoder(config: DDPMConfig) -> tuple[Pixels | Latents, DDPMConfig]:
    """Return the autoencoder that a Config names or describes, and the Config with its description in place of its name.

    Raises:
        InputError: it is not there, can't encode and decode, is for other images, or the U-Net can't have its latents.
    """
    if config.autoencoder is None:
        return Pixels(), config
    if isinstance(config.autoencoder, StoredAutoencoder):
        return Latents(_checked(config.autoencoder.build(), config), config.autoencoder), config
    try:
        model: Any = _checked(load(config.autoencoder), config)
        model.trained_on = None  # a run that goes on builds it from its Config, and must save the same
        with torch.no_grad():
            shape = tuple(model.eval().encode(torch.zeros(1, *model.sample_shape)).shape[1:])
        described = StoredAutoencoder.of(model, latent_shape=shape)
        checked = DDPMConfig.model_validate(config.model_dump() | {"autoencoder": described})
        return Latents(model, described, config.autoencoder), checked
    except InputError as error:
        raise RecipeError(f"model.autoencoder: {error}") from error
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"model.{message} (model.autoencoder: {config.autoencoder})") from error


def _checked(model: Model, config: DDPMConfig) -> Model:
    name = model.config.name or type(model).__name__
    if not isinstance(model, Autoencoder):
        raise InputError(f"'{name}' is no autoencoder (it has no encode and decode); vae is one")
    if model.sample_shape != config.sample_shape:
        ours, theirs = ("x".join(map(str, shape or ())) for shape in (config.sample_shape, model.sample_shape))
        raise InputError(f"this '{name}' is for images of {theirs}, not {ours}; train one on the same data")
    return model


class Pixels(nn.Module):
    """Space of the images themselves: the identity, in an autoencoder's place."""

    limit = 1.0
    """Largest absolute value in a clean image."""

    def of_batch(self, batch: Batch) -> Tensor:
        return batch["images"]

    def frozen_encoder(self) -> None:
        """Return None, as nothing is computed of an image."""

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, images: Tensor) -> Tensor:
        return images

    def reshape_noise(self, noise: Tensor) -> Tensor:
        return noise

    def log_prob(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Return the log-probability in nats of 8-bit images under N(mean, std^2), eq. 13 of Ho et al.: (n, c, h, w)."""
        return discretized_gaussian(images, mean, std)

    def save(self, path: Path) -> None:
        """Write nothing."""

    def load(self, path: Path) -> None:
        """Read nothing."""


class Latents(nn.Module):
    """Space of the latents of a trained autoencoder, frozen, with their scale.

    The U-Net gets latents moved to mean 0 in each channel and divided by one standard deviation (the paper's appendix G),
    measured over the first `WINDOW` training batches; a vector of d numbers is d channels of 1x1.
    """

    limit = math.inf

    def __init__(self, model: Model, described: StoredAutoencoder, trained_as: str = "") -> None:
        super().__init__()
        self.model: Any = model.eval().requires_grad_(False)
        self.described = described
        self.latent_shape = described.latent_shape
        self.trained_as = trained_as
        self.mean = nn.Buffer(torch.zeros(self.latent_shape[0], 1, 1))
        self.variance = nn.Buffer(torch.ones(self.latent_shape[0], 1, 1))
        self.batches = nn.Buffer(torch.zeros((), dtype=torch.int64))  # that mean and variance have seen

    def train(self, mode: bool = True) -> Latents:
        """Keep the autoencoder in eval mode, whatever the model around it does."""
        super().train(mode)
        self.model.eval()
        return self

    @property
    def scale(self) -> Tensor:
        """The latents' standard deviation, over all channels; the inverse of the paper's scaling factor."""
        return self.variance.mean().clamp(min=1e-12).sqrt()

    def of_batch(self, batch: Batch) -> Tensor:
        """Return a training batch's scaled latents, computed now or kept from before."""
        return self.scaled(batch["latents"]) if "latents" in batch else self.encode(batch["images"])

    def frozen_encoder(self) -> FrozenEncoder:
        return FrozenEncoder(self.unscaled, self.model, self.described.model_dump_json())

    def encode(self, images: Tensor) -> Tensor:
        """Return the scaled latents (n, c', h', w') of images (n, c, h, w) in [-1, 1]."""
        return self.scaled(self.unscaled(images))

    @torch.no_grad()
    def unscaled(self, images: Tensor) -> Tensor:
        """Return the latents of images (n, c, h, w) in [-1, 1] as the autoencoder has them, of a vae the posterior's
        mean."""
        latents: Tensor = self.model.encode(images).float().view(len(images), len(self.mean), *self._sides)
        return latents

    @torch.no_grad()
    def scaled(self, latents: Tensor) -> Tensor:
        """Return the autoencoder's latents as the U-Net gets them. In training, the first batches are measured, too."""
        if self.training:
            self.measure(latents)
        return (latents - self.mean) / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images (n, c, h, w) in [-1, 1] of scaled latents."""
        images: Tensor = self.model.decode((latents * self.scale + self.mean).view(-1, *self.latent_shape))
        return images

    def reshape_noise(self, noise: Tensor) -> Tensor:
        """Return noise of the latents' shape made from an image's, (n, c, h, w): the first of its numbers."""
        flat, shape = noise.flatten(1), (len(self.mean), *self._sides)
        return flat[:, torch.arange(math.prod(shape), device=noise.device) % flat.shape[1]].view(-1, *shape)

    def measure(self, latents: Tensor) -> None:
        """Merge a batch's moments into the buffers (Chan et al. 1979); after WINDOW batches nothing changes any more, and
        no step has to ask the device for it."""
        weight = torch.where(self.batches < WINDOW, 1 / (self.batches + 1), 0.0)
        variance, mean = torch.var_mean(latents, (0, 2, 3), correction=0)
        shift = mean.view_as(self.mean) - self.mean
        between = weight * (1 - weight) * shift.square()
        self.variance.lerp_(variance.view_as(self.variance), weight).add_(between)
        self.mean.add_(weight * shift)
        self.batches.add_(1)

    def log_prob(self, latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Return the log-density in nats under N(mean, std^2), (n, c', h', w'): latents have no 8-bit values."""
        return -0.5 * (((latents - mean) / std).square() + math.log(2 * math.pi)) - std.log()

    def save(self, path: Path) -> None:
        """Write the autoencoder as a model folder of its own, autoencoder/, and its latents' moments beside it."""
        self.model.save_pretrained(path / "autoencoder")
        save_tensors(self._moments().state_dict(), path / "latents.safetensors")

    def load(self, path: Path) -> None:
        """
        Raises:
            CheckpointError: the weights don't fit, or the recipe names another autoencoder.
        """
        before = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.model.load_networks(path / "autoencoder")
        changed = any(not torch.equal(value, before[key]) for key, value in self.model.state_dict().items())
        if self.trained_as and changed:
            raise CheckpointError(
                f"{path}: trained on another autoencoder than {self.trained_as}; leave model.autoencoder out"
            )
        load_strictly(self._moments(), path / "latents.safetensors")

    @property
    def _sides(self) -> tuple[int, ...]:
        return self.latent_shape[1:] or (1, 1)

    def _moments(self) -> nn.Module:
        """Return a module of the buffers alone, under the names they have here."""
        moments = nn.Module()
        for name in ("mean", "variance", "batches"):  # plain tensors, once they were moved to another device
            setattr(moments, name, nn.Buffer(getattr(self, name)))
        return moments
