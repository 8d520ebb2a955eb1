"""The space that the network works in: x itself, or an autoencoder's latents (Rombach et al. 2022, arXiv:2112.10752).

Both are seen the same way, so that neither the loss nor a sampler asks which of them it has. Latents differ in what they
have no need of: bounds to clip to.
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
    Conditions,
    ContainedModel,
    FrozenEncoder,
    InputError,
    Modality,
    Model,
    RecipeError,
    check_contained,
    load,
    load_strictly,
    save_tensors,
)
from genhub_ddpm.config import DDPMConfig, StoredAutoencoder
from genhub_ddpm.likelihood import discretized_gaussian, log_density

WINDOW = 100
"""Number of training batches over which the latents' mean and scale are measured."""


def read_autoencoder(config: DDPMConfig) -> tuple[Elements | Latents, DDPMConfig]:
    """Return the autoencoder that a Config names or describes, and the Config with its description in place of its name.

    Raises:
        RecipeError: it is not there, can't encode and decode, is for other data, or the network can't have its latents.
    """
    if config.autoencoder is None:
        assert config.data is not None  # as of every model that is built
        return Elements(config.data.target), config
    if isinstance(config.autoencoder, StoredAutoencoder):
        return Latents(_checked(config.autoencoder.build(), config), config.autoencoder), config
    try:
        model: Any = _checked(load(config.autoencoder), config)
        model.trained_on = None  # a run that goes on builds it from its Config, and must save the same
        with torch.no_grad():
            shape = tuple(model.eval().encode(torch.zeros(1, *model.shape)).shape[1:])
        described = StoredAutoencoder.of(model, latent_shape=shape)
        checked = type(config).model_validate(config.model_dump() | {"autoencoder": described})
        return Latents(model, described, config.autoencoder), checked
    except InputError as error:
        raise RecipeError(f"model.autoencoder: {error}") from error
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"model.{message} (model.autoencoder: {config.autoencoder})") from error


def _checked(model: Model, config: DDPMConfig) -> Model:
    if not isinstance(model, Autoencoder):
        name = model.config.name or type(model).__name__
        raise InputError(f"'{name}' is no autoencoder (it has no encode and decode); vae is one")
    assert config.data is not None
    check_contained(model, config.data)
    return model


class Elements(nn.Module):
    """Space of the elements themselves: the identity, in an autoencoder's place."""

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.modality = modality
        self.bounds = modality.bounds
        """Range of a clean x; None: it has none."""

    def of_batch(self, batch: Batch) -> Tensor:
        return batch.x

    def frozen_encoder(self) -> None:
        """Return None, as nothing is computed of x."""

    def encode(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        return x

    def decode(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        return x

    def reshape_noise(self, noise: Tensor) -> Tensor:
        return noise

    def log_prob(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Return the log-probability in nats of x under N(mean, std^2), eq. 13 of Ho et al., or its log-density where it has
        no levels: (n, *shape)."""
        if self.modality.levels is None or self.bounds is None:
            return log_density(x, mean, std)
        return discretized_gaussian(x, mean, std, self.modality.levels, self.bounds)

    def save(self, path: Path) -> None:
        """Write nothing."""

    def load(self, path: Path) -> None:
        """Read nothing."""


class Latents(ContainedModel):
    """Space of the latents of a trained autoencoder, frozen, with their scale.

    The network gets latents moved to mean 0 in each channel and divided by one standard deviation (the paper's appendix G),
    measured over the first `WINDOW` training batches.
    """

    bounds = None

    def __init__(self, model: Model, described: StoredAutoencoder, trained_as: str = "") -> None:
        super().__init__(model, trained_as)
        self.described = described
        self.latent_shape = described.latent_shape
        channels = (self.latent_shape[0], *[1] * len(self.latent_shape[1:]))
        self.mean = nn.Buffer(torch.zeros(channels))
        self.variance = nn.Buffer(torch.ones(channels))
        self.batches = nn.Buffer(torch.zeros((), dtype=torch.int64))  # that mean and variance have seen

    @property
    def scale(self) -> Tensor:
        """The latents' standard deviation, over all channels; the inverse of the paper's scaling factor."""
        return self.variance.mean().clamp(min=1e-12).sqrt()

    def of_batch(self, batch: Batch) -> Tensor:
        """Return a training batch's scaled latents, computed now or kept from before."""
        kept = batch.cached.get("latents")
        return self.encode(batch.x, batch.conditions) if kept is None else self.scaled(self._shaped(kept))

    def frozen_encoder(self) -> FrozenEncoder | None:
        """Return the autoencoder; None where it is given conditions, on which latents depend then."""
        return None if self.given else FrozenEncoder(self.unscaled, self.model, self.described.model_dump_json())

    def encode(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the scaled latents (n, *latent_shape) of x (n, *shape), given its conditions."""
        return self.scaled(self.unscaled(x, conditions))

    @torch.no_grad()
    def unscaled(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the latents of x as the autoencoder has them, of a vae the posterior's mean."""
        return self._shaped(self.model.encode(x, self.own_conditions(conditions)).float())

    @torch.no_grad()
    def scaled(self, latents: Tensor) -> Tensor:
        """Return the autoencoder's latents as the network gets them. In training, the first batches are measured, too."""
        if self.training:
            self.measure(latents)
        return (latents - self.mean) / self.scale

    def decode(self, latents: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return x (n, *shape) of scaled latents, given its conditions."""
        own = latents * self.scale + self.mean
        x: Tensor = self.model.decode(own.flatten(1) if self.described.flat else own, self.own_conditions(conditions))
        return x

    def _shaped(self, latents: Tensor) -> Tensor:
        return latents.view(len(latents), *self.latent_shape)

    def reshape_noise(self, noise: Tensor) -> Tensor:
        """Return noise of the latents' shape made from an x's, (n, *shape): the first of its numbers."""
        flat, size = noise.flatten(1), math.prod(self.latent_shape)
        return self._shaped(flat[:, torch.arange(size, device=noise.device) % flat.shape[1]])

    def measure(self, latents: Tensor) -> None:
        """Merge a batch's moments into the buffers (Chan et al. 1979); after WINDOW batches nothing changes any more, and
        no step has to ask the device for it."""
        weight = torch.where(self.batches < WINDOW, 1 / (self.batches + 1), 0.0)
        variance, mean = torch.var_mean(latents, (0, *range(2, latents.ndim)), correction=0)
        shift = mean.view_as(self.mean) - self.mean
        between = weight * (1 - weight) * shift.square()
        self.variance.lerp_(variance.view_as(self.variance), weight).add_(between)
        self.mean.add_(weight * shift)
        self.batches.add_(1)

    def log_prob(self, latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Return the log-density in nats under N(mean, std^2), (n, *latent_shape): latents have no levels."""
        return log_density(latents, mean, std)

    def save(self, path: Path) -> None:
        """Write the autoencoder as a model folder of its own, autoencoder/, and its latents' moments beside it."""
        super().save(path)
        save_tensors(self._moments().state_dict(), path / "latents.safetensors")

    def load(self, path: Path) -> None:
        super().load(path)
        load_strictly(self._moments(), path / "latents.safetensors")

    def _moments(self) -> nn.Module:
        """Return a module of the buffers alone, under the names they have here."""
        moments = nn.Module()
        for name in ("mean", "variance", "batches"):  # plain tensors, once they were moved to another device
            setattr(moments, name, nn.Buffer(getattr(self, name)))
        return moments
