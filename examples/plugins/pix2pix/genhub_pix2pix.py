"""Image to image on pairs (pix2pix: Isola, Zhu, Zhou & Efros 2017, arXiv:1611.07004): a U-Net turns the source into the
target, and a discriminator of patches, which sees both, tells drawn targets from real ones.

Notation: s the source, any columns whose values have the target's sides once resized; x the target, z the noise, G(s, z)
what is drawn, C(s, x) a logit a patch. The paper's noise is dropout; here it is one more plane, so that what is drawn is a
function of its generator. The paper's batch normalisation is left out: batches of one are no batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, softplus

from genhub import (
    Batch,
    Conditioner,
    Conditions,
    GenerativeModel,
    Generators,
    Modality,
    ModelConfig,
    Phase,
    PositiveInt,
    randn,
)  # fmt: skip

TAKES = frozenset({"spatial"})
"""Parts of `Given` that the networks take: images. Other columns are refused by the Conditioner."""
SLOPE = 0.2


class Pix2PixConfig(ModelConfig):
    conditions: tuple[str, ...] = Field(min_length=1, max_length=100, examples=[["source"]])
    """Columns of images that are turned into the target; a derived one, {from: image, size: 4}, makes pairs of any."""
    generator_channels: tuple[PositiveInt, ...] = Field(default=(32, 64, 64), min_length=1)
    """Channels at each level of the U-Net, the image's own size first; each halves the sides, which may be odd."""
    discriminator_channels: tuple[PositiveInt, ...] = Field(default=(32, 64), min_length=1)
    """The same of the discriminator: the more levels, the larger a patch that it judges as a whole."""
    l1_weight: Annotated[float, Field(ge=0)] = 100.0
    """lambda of eq. 4, the weight of |x - G(s, z)|: it decides what a pixel should be where the source says so."""

    @model_validator(mode="after")
    def _fits(self) -> Pix2PixConfig:
        if self.shape is not None and len(self.shape) != 3:
            raise ValueError(f"data: pix2pix draws images, of 2 sides, not {len(self.shape) - 1}")
        return self


def convolution(before: int, after: int, halves: bool) -> nn.Module:
    return nn.Conv2d(before, after, 3, stride=2 if halves else 1, padding=1)


class UNetGenerator(nn.Module):
    """G(s, z): down to the smallest level and back, where each level also sees what there was on the way down."""

    def __init__(self, conditions: Mapping[str, Modality], shape: tuple[int, ...], channels: Sequence[int]) -> None:
        super().__init__()
        self.conditioner = Conditioner(conditions, shape, channels[0], TAKES)
        steps = list(pairwise([self.conditioner.spatial_channels + 1, *channels]))
        self.down = nn.ModuleList(convolution(a, b, level > 0) for level, (a, b) in enumerate(steps))
        self.up = nn.ModuleList(convolution(b + a, a, False) for a, b in reversed(steps[1:]))
        self.last = convolution(channels[0], shape[0], False)

    def forward(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """Return x (n, c, h, w) for noise (n, 1, h, w)."""
        x, skips = torch.cat([noise, self.conditioner(conditions).spatial], 1), []
        for layer in self.down:
            x = leaky_relu(layer(x), SLOPE)
            skips.append(x)
        for layer, skip in zip(self.up, skips[-2::-1], strict=True):
            x = leaky_relu(layer(torch.cat([interpolate(x, skip.shape[2:], mode="nearest"), skip], 1)), SLOPE)
        made: Tensor = self.last(x)
        return made


class PatchDiscriminator(nn.Module):
    """C(s, x): a logit for each patch, (n, 1, h', w') (section 3.2.2)."""

    def __init__(self, conditions: Mapping[str, Modality], shape: tuple[int, ...], channels: Sequence[int]) -> None:
        super().__init__()
        self.conditioner = Conditioner(conditions, shape, channels[0], TAKES)
        steps = pairwise([self.conditioner.spatial_channels + shape[0], *channels])
        self.layers = nn.ModuleList(convolution(a, b, level > 0) for level, (a, b) in enumerate(steps))
        self.last = convolution(channels[-1], 1, False)

    def forward(self, x: Tensor, conditions: Conditions) -> Tensor:
        x = torch.cat([x, self.conditioner(conditions).spatial], 1)
        for layer in self.layers:
            x = leaky_relu(layer(x), SLOPE)
        logits: Tensor = self.last(x).float()
        return logits


class Pix2Pix(GenerativeModel):
    """Draws the image that belongs to the ones it is given."""

    Config = Pix2PixConfig
    config: Pix2PixConfig

    def __init__(self, config: Pix2PixConfig) -> None:
        super().__init__(config)
        self.generator = UNetGenerator(self.conditions, self.shape, config.generator_channels)
        self.discriminator = PatchDiscriminator(self.conditions, self.shape, config.discriminator_channels)

    def phases(self) -> list[Phase]:
        return [
            Phase("discriminator", self.discriminator_loss, trains=("discriminator",), ema=False),
            Phase("generator", self.generator_loss, trains=("generator",)),
        ]

    def discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log D(s, x) - log(1 - D(s, G(s, z))), a mean over patches (eq. 1)."""
        fakes = self.fakes(batch).detach()
        real, fake = self.discriminator(batch.x, batch.conditions), self.discriminator(fakes, batch.conditions)
        return {"loss": softplus(-real).mean() + softplus(fake).mean(), "real": real.mean(), "fake": fake.mean()}

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log D(s, G(s, z)) + lambda |x - G(s, z)|, each a mean (eq. 4)."""
        fakes = self.fakes(batch)
        adversarial = softplus(-self.discriminator(fakes, batch.conditions)).mean()
        l1 = (batch.x - fakes.float()).abs().mean()
        return {"loss": adversarial + self.config.l1_weight * l1, "adversarial": adversarial, "l1": l1}

    def fakes(self, batch: Batch) -> Tensor:
        fakes: Tensor = self.generator(torch.randn_like(batch.x[:, :1]), batch.conditions)
        return fakes

    def sample(self, n: int, *, conditions: Conditions | None = None, generator: Generators = None) -> Tensor:
        """Draw the targets of n sources; of a source that is not given, whatever such a one has learnt to be."""
        given = self.conditions_of(n, conditions)
        images: Tensor = self.generator(randn((n, 1, *self.shape[1:]), generator, self.device), given).float()
        return images.clamp(*self.modality.bounds) if self.modality.bounds else images
