"""The options of both autoencoders, checked before anything is built, and without importing diffusers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genhub import ModelConfig, PositiveInt, Section

NonNegative = Annotated[float, Field(ge=0)]
Steps = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class AutoencoderConfig(ModelConfig):
    channels: tuple[PositiveInt, ...] = Field(default=(32, 64), min_length=1)
    """Channels of the encoder's convolutions, each of which halves height and width (odd sides round up); the decoder
    goes the same way back."""
    latent_dim: PositiveInt = 16
    """Numbers an image becomes."""
    latent_window: PositiveInt = 100
    """Over how many training batches, about, the Gaussian that `sample` draws from is fitted to the latents."""

    @model_validator(mode="after")
    def _fits(self) -> AutoencoderConfig:
        if self.sample_shape is not None:
            check_halvings(len(self.channels), self.sample_shape)
        return self


class KLConfig(Section):
    """Keys of diffusers' `AutoencoderKL` besides channels and latent channels, under its own names."""

    layers_per_block: PositiveInt = 1
    norm_num_groups: PositiveInt = 8
    mid_block_add_attention: bool = False
    """Attention in the middle of encoder and decoder."""

    def check(self, channels: tuple[int, ...], sample_shape: tuple[int, int, int] | None) -> None:
        """
        Raises:
            ValueError: channels that the groups don't divide, or sides that can't be halved evenly.
        """
        for width in channels:
            if width % self.norm_num_groups:
                near = max(1, round(width / self.norm_num_groups)) * self.norm_num_groups
                raise ValueError(
                    f"channels: {width} does not divide by kl.norm_num_groups {self.norm_num_groups}; {near} does"
                )
        divisor = 2 ** (len(channels) - 1)
        for side in sample_shape[1:] if sample_shape else ():
            if side % divisor:
                raise ValueError(
                    f"channels: {len(channels)} levels of network kl need sides divisible by {divisor}, the images are "
                    f"{'x'.join(map(str, (sample_shape or ())[1:]))}: set data.image_size to "
                    f"{max(divisor, round(side / divisor) * divisor)}, use fewer levels, or network: conv"
                )


class VAEConfig(ModelConfig):
    network: Literal["conv", "kl"] = "conv"
    """conv: a small convolutional network, any image size, the latent is a vector. kl: diffusers' `AutoencoderKL`, the
    latents are (latent_dim, h, w), and the folder vae/ of a checkpoint is one that diffusers opens."""
    channels: tuple[PositiveInt, ...] = Field(default=(32, 64), min_length=1)
    """conv: channels of the encoder's convolutions, each of which halves height and width (odd sides round up).
    kl: channels at each level; each level but the last halves height and width."""
    latent_dim: PositiveInt = 16
    """conv: how many numbers z has; kl: how many channels."""
    kl: KLConfig = KLConfig()
    """More keys for network: kl."""
    likelihood: Literal["gaussian", "bernoulli", "discretized_logistic"] = "gaussian"
    """Likelihood p(x|z). gaussian: one learned variance; bernoulli: for images that are nearly black and white;
    discretized_logistic: probabilities of 8-bit values, with one learned scale (Salimans et al. 2017)."""
    beta: NonNegative = 1.0
    """Weight of the KL term: 1 is the bound itself, more is a beta-VAE (Higgins et al. 2017)."""
    kl_warmup_steps: Steps = 0
    """The KL term's weight rises in a straight line from 0 to beta over so many training batches."""
    free_bits: NonNegative = 0.0
    """Nats (as in Kingma et al. 2016, lambda) that each latent dimension may spend for nothing: the loss counts at least
    this much for each, so that none gains by falling to the prior."""

    def mistakes(self) -> dict[str, str]:
        if self.network == "kl" or self.kl == KLConfig():
            return {}
        return {"kl": "changes nothing without network: kl; leave it out"}

    @model_validator(mode="after")
    def _fits(self) -> VAEConfig:
        if self.network == "kl":
            self.kl.check(self.channels, self.sample_shape)
        elif self.sample_shape is not None:
            check_halvings(len(self.channels), self.sample_shape)
        return self


def check_halvings(times: int, sample_shape: tuple[int, int, int]) -> None:
    """
    Raises:
        ValueError: nothing is left to halve.
    """
    _, height, width = sample_shape
    most = max(1, (max(height, width) - 1).bit_length())
    if times > most:
        raise ValueError(
            f"channels: {times} halvings given, but {height}x{width} images are 1x1 after {most}: leave some out"
        )
