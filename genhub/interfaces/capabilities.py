"""Capabilities that views, metrics and other models may ask of a model, whatever its class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from genhub.ground.randomness import Generators
from genhub.interfaces.model import Batch


@runtime_checkable
class Autoencoder(Protocol):
    """A model that turns images into latents and back."""

    def encode(self, images: Tensor) -> Tensor:
        """Return the latents (n, ...) of images (n, c, h, w) in [-1, 1]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images (n, c, h, w) in [-1, 1] of latents."""


@dataclass(frozen=True)
class DenoisingStep:
    """One step of a reverse process."""

    index: int
    """Number of the step, from 0."""
    timestep: float
    """Noise level that the step started from; num_train_timesteps - 1 or so is pure noise, 0 nearly clean."""
    sample: Tensor
    """The images after the step, (n, c, h, w)."""
    pred_original_sample: Tensor
    """The model's guess of the clean images at this step, (n, c, h, w)."""


@runtime_checkable
class Denoiser(Protocol):
    """A model with a forward process that adds noise, and a way back that shows every step."""

    num_train_timesteps: int

    def add_noise(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t for images x_0 (n, c, h, w) and timesteps (n,) int64 in [0, num_train_timesteps)."""

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """Return the ratio of signal to noise power at timesteps (n,)."""

    def denoise(
        self, n: int, *, labels: Tensor | None = None, generator: Generators = None, **options: Any
    ) -> Iterator[DenoisingStep]:
        """Draw n images, a step at a time; `options` are those of `sample`."""


@runtime_checkable
class Likelihood(Protocol):
    """A model that can say how probable an image is."""

    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        """Return (n,) bits per dimension of 8-bit images, or an upper bound of them."""
