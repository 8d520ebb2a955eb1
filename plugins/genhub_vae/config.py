"""The options of both autoencoders, checked before anything is built, and without importing diffusers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from genhub import Means, ModelConfig, ModelData, NonNegative, PositiveInt, Section

Steps = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


OF_SIDES, OF_VECTORS = (32, 64), (128, 128)
"""Channels where a recipe names none: of images and all else that has sides, and of vectors."""
MOST_SIDES = 3


class AdversarialConfig(Section):
    """Keys of a discriminator that makes what is decoded sharp (VQGAN's, Esser et al. 2021)."""

    start_step: Steps = 0
    """First step with it: before, the autoencoder learns what is where."""
    weight: NonNegative = 0.5
    """Pull of looking real, as a share of the reconstruction's: their gradients' lengths at the decoder's output."""
    perceptual_weight: NonNegative = 0.5
    """Pull of looking like the original in the discriminator's features (Larsen et al. 2016), as such a share."""
    channels: tuple[PositiveInt, ...] = Field(default=(32, 64, 128), min_length=1)
    """Channels of its convolutions, each of which halves every side: two judge patches of 15 a side, three of 31."""

    def check(self, shape: tuple[int, ...]) -> None:
        """
        Raises:
            ValueError: nothing is left to halve.
        """
        try:
            check_halvings(len(self.channels), shape)
        except ValueError as error:
            raise ValueError(f"adversarial.{error}") from None


class AutoencoderConfig(ModelConfig):
    channels: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    """Channels of the encoder's convolutions, each of which halves every side (odd ones round up); the decoder goes the same
    way back. Of vectors, widths of hidden layers. Left out: 32, 64; of vectors 128, 128."""
    latent_dim: PositiveInt = 16
    """Numbers an element becomes."""
    latent_window: PositiveInt = 100
    """Over how many training batches, about, the Gaussian that `sample` draws from is fitted to the latents."""
    adversarial: AdversarialConfig | None = None
    """A discriminator beside it, against blur; {}: with its default settings. Left out: none."""

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        return suited_latents(data, means)

    @model_validator(mode="after")
    def _fits(self) -> AutoencoderConfig:
        if self.shape is not None:
            check_halvings(len(self.widths), self.shape)
            if self.adversarial:
                self.adversarial.check(self.shape)
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        return used_channels(self.channels, self.shape)


class KLConfig(Section):
    """Keys of diffusers' `AutoencoderKL` besides channels and latent channels, under its own names."""

    layers_per_block: PositiveInt = 1
    norm_num_groups: PositiveInt = 8
    mid_block_add_attention: bool = False
    """Attention in the middle of encoder and decoder."""

    def check(self, channels: tuple[int, ...], shape: tuple[int, ...] | None) -> None:
        """
        Raises:
            ValueError: channels that the groups don't divide, sides that can't be halved evenly, or x that is no image.
        """
        for width in channels:
            if width % self.norm_num_groups:
                near = max(1, round(width / self.norm_num_groups)) * self.norm_num_groups
                raise ValueError(
                    f"channels: {width} does not divide by kl.norm_num_groups {self.norm_num_groups}; {near} does"
                )
        if shape is None:
            return
        size = "x".join(map(str, shape[1:]))
        if len(shape) != 3:
            raise ValueError(f"network: kl is for images, of 2 sides, not {len(shape) - 1}; network: conv is for any")
        divisor = 2 ** (len(channels) - 1)
        for side in shape[1:]:
            if side % divisor:
                raise ValueError(
                    f"channels: {len(channels)} levels of network kl need sides divisible by {divisor}, the images are "
                    f"{size}: set the column's size to {max(divisor, round(side / divisor) * divisor)}, use fewer "
                    f"levels, or network: conv"
                )


class VAEConfig(ModelConfig):
    network: Literal["conv", "kl"] = "conv"
    """conv: a small network of x's number of sides, any size, the latent is a vector. kl: diffusers' `AutoencoderKL` for
    images, given nothing; the latents are (latent_dim, h, w), and the folder vae/ of a checkpoint opens with diffusers."""
    channels: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    """conv: channels of the encoder's convolutions, each of which halves every side (odd ones round up); of vectors, widths
    of hidden layers. kl: channels at each level; each level but the last halves height and width. Left out: 32, 64; of
    vectors 128, 128."""
    latent_dim: PositiveInt = 16
    """conv: how many numbers z has; kl: how many channels."""
    kl: KLConfig = KLConfig()
    """More keys for network: kl."""
    likelihood: Literal["gaussian", "bernoulli", "discretized_logistic"] = "gaussian"
    """Likelihood p(x|z). gaussian: one learned variance; bernoulli: for images that are nearly black and white;
    discretized_logistic: probabilities of values that have levels, as 8-bit images do, with one learned scale (Salimans et
    al. 2017)."""
    beta: NonNegative = 1.0
    """Weight of the KL term: 1 is the bound itself, more is a beta-VAE (Higgins et al. 2017)."""
    kl_warmup_steps: Steps = 0
    """The KL term's weight rises in a straight line from 0 to beta over so many training batches."""
    free_bits: NonNegative = 0.0
    """Nats (as in Kingma et al. 2016, lambda) that each latent dimension may spend for nothing: the loss counts at least
    this much for each, so that none gains by falling to the prior."""
    adversarial: AdversarialConfig | None = None
    """A discriminator beside it, against blur; {}: with its default settings. Left out: none."""

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        # Given a class, few numbers are soon worth less than z costs: it would fall to the prior, and stay there.
        slowly = {"model.kl_warmup_steps": 1000} if len(data.target.shape) == 1 else {}
        return suited_latents(data, means) | slowly

    def mistakes(self) -> dict[str, str]:
        if self.network == "kl" or self.kl == KLConfig():
            return {}
        return {"kl": "changes nothing without network: kl; leave it out"}

    @property
    def widths(self) -> tuple[int, ...]:
        return used_channels(self.channels, self.shape)

    @model_validator(mode="after")
    def _fits(self) -> VAEConfig:
        if self.network == "kl":
            self.kl.check(self.widths, self.shape)
            if self.conditions:
                raise ValueError("conditions: network kl is given none; network: conv takes any")
        elif self.shape is not None:
            check_halvings(len(self.widths), self.shape)
        if self.adversarial and self.shape is not None:
            self.adversarial.check(self.shape)
        if self.modality is not None and self.modality.levels is None and self.likelihood != "gaussian":
            raise ValueError(
                f"likelihood: {self.likelihood} is for values with levels, such as 8-bit images have, and a "
                f"{self.modality.modality} has none: gaussian does without"
            )
        return self


def suited_channels(data: ModelData, means: Means) -> dict[str, Any]:
    """Return the keys that encoders and decoders of all three families have: the first channels see x's full size, and are
    dear."""
    shape = data.target.shape
    if len(shape) == 1:
        return {"model.channels": [256, 256] if means.accelerator else [128, 128]}
    small, width = math.prod(shape[1:]) <= 256, 4 if means.accelerator else 1
    channels = [32 * width, 64 * width] if small else [16 * width, 64 * width]
    levels = min(2 if max(shape[1:]) <= 32 else 3, max(1, (max(shape[1:]) - 1).bit_length()))
    return {"model.channels": [*channels, 64 * width][:levels]}


def suited_latents(data: ModelData, means: Means) -> dict[str, Any]:
    """Return the keys of an autoencoder whose latents are vectors."""
    numbers = math.prod(data.target.shape)
    latents = 2 if numbers <= 4 else 4 if numbers <= 16 else 8 if numbers <= 256 else 32
    summed = {"trainer.max_grad_norm": None}  # over all numbers of an element: their gradients are large, and no mistake
    return suited_channels(data, means) | {"model.latent_dim": latents} | summed


def used_channels(channels: tuple[int, ...] | None, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    if channels is not None:
        return channels
    return OF_VECTORS if shape is not None and len(shape) == 1 else OF_SIDES


def check_halvings(times: int, shape: tuple[int, ...]) -> None:
    """
    Raises:
        ValueError: nothing is left to halve, or there are more sides than torch has convolutions for.
    """
    if not 0 <= len(shape) - 1 <= MOST_SIDES:
        raise ValueError(
            f"data: its networks draw vectors and what has channels and 1 to {MOST_SIDES} sides, not elements of "
            f"{'x'.join(map(str, shape)) or 'one number'}"
        )
    size, most = "x".join(map(str, shape[1:])), max(1, (max(shape[1:], default=1) - 1).bit_length())
    if len(shape) > 1 and times > most:
        raise ValueError(f"channels: {times} halvings given, but sides of {size} are 1 after {most}: leave some out")
