"""A normalizing flow of affine couplings (Real NVP: Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803): an invertible
map from images to Gaussian noise, whose density is exact, trained by maximum likelihood alone.

Notation: u the pixels in [0, 1], y = logit(ALPHA + (1 - 2 ALPHA) u), z = flow(y) with prior N(0, I), so that
log p(y) = log N(z) + log |det dz/dy| (eq. 2). The couplings' networks are fully connected, as in NICE (Dinh et al. 2015):
that suits small images, which need neither the paper's convolutions nor its several scales.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genhub import Batch, Conditions, GenerativeModel, Generators, ModelConfig, Phase, PositiveInt, randn

ALPHA = 0.05
"""Keeps the logit away from its infinities (section 4.1; taken from both ends here)."""
MAX_LOG_SCALE = 2.0
"""A coupling stretches by exp(-2) to exp(2)."""

Temperature = Annotated[float, Field(gt=0)]


class RealNVPConfig(ModelConfig):
    num_couplings: Annotated[int, Field(strict=True, ge=2)] = 8
    """Layers; each changes half of the pixels, given the other half."""
    hidden_features: PositiveInt = 128
    """Width of the two hidden layers of a coupling's network."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """For few images, which a flow learns by heart: its bits per dimension then fall for these alone."""
    levels: Annotated[int, Field(strict=True, ge=2, le=256)] = 256
    """Number of values that a pixel really has. In training each becomes a bin that is filled evenly: discrete values have
    no density, and a flow would give them an endless one. digits has 17; 8-bit bins would leave 15 of 16 empty."""

    @model_validator(mode="after")
    def _fits(self) -> RealNVPConfig:
        if self.conditions:
            raise ValueError("conditions: realnvp is given nothing; leave them out")
        if self.modality is not None and (len(self.modality.shape) != 3 or self.modality.levels is None):
            raise ValueError(f"data: realnvp draws images of discrete values, not a {self.modality.modality}")
        return self


class Coupling(nn.Module):
    """y' = b y + (1 - b) (y exp(s(b y)) + t(b y)) for a mask b, eq. 9, and back."""

    mask: Tensor

    def __init__(self, mask: Tensor, hidden_features: int, dropout: float) -> None:
        super().__init__()
        self.mask = nn.Buffer(mask, persistent=False)  # a constant
        size = mask.numel()
        last = nn.Linear(hidden_features, 2 * size)
        nn.init.zeros_(last.weight)  # starts as the identity
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(
            nn.Linear(size, hidden_features), nn.SiLU(), nn.Dropout(dropout),
            nn.Linear(hidden_features, hidden_features), nn.SiLU(), nn.Dropout(dropout), last,
        )  # fmt: skip

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d) to (n, d), and (n,) the log of the determinant, eq. 6."""
        log_scale, shift = self.scale_and_shift(y)
        return y * log_scale.exp() + shift, log_scale.sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        log_scale, shift = self.scale_and_shift(y)  # the masked half, all they see, is the same on both sides
        return (y - shift) * (-log_scale).exp()

    def scale_and_shift(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """s and t, float32 in any precision of training; 0 where the mask is 1."""
        log_scale, shift = self.network(self.mask * y).float().chunk(2, dim=1)
        free = 1 - self.mask
        return free * MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE), free * shift


class Flow(nn.Module):
    """Couplings in a row, each pair with a mask and its opposite."""

    def __init__(self, shape: tuple[int, ...], config: RealNVPConfig) -> None:
        super().__init__()
        channel, row, column = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
        # A checkerboard, stripes both ways and a coarser checkerboard: every pixel meets every other as a condition.
        patterns = [row + column, row, column, row // 2 + column // 2]
        masks = [(patterns[i // 2 % 4] + channel + i) % 2 for i in range(config.num_couplings)]
        self.couplings = nn.ModuleList(
            [Coupling(mask.flatten().float(), config.hidden_features, config.dropout) for mask in masks]
        )

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """y (n, d) to z (n, d), and (n,) log |det dz/dy|."""
        log_determinant = y.new_zeros(len(y))
        for coupling in self.couplings:
            y, more = coupling(y)
            log_determinant = log_determinant + more
        return y, log_determinant

    def inverse(self, z: Tensor) -> Tensor:
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, Coupling)
            z = coupling.inverse(z)
        return z


class RealNVP(GenerativeModel):
    """Noise to images and back by the same layers; says exactly how probable an image is."""

    Config = RealNVPConfig
    config: RealNVPConfig

    def __init__(self, config: RealNVPConfig) -> None:
        super().__init__(config)
        self.flow = Flow(self.shape, config)

    def phases(self) -> list[Phase]:
        return [Phase("likelihood", self.loss, trains=("flow",))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """-log2 p(x) per pixel and channel, of images with `levels` values: log2(levels) is what knowing nothing costs."""
        images = batch.x
        return {"loss": self.bits(images, torch.rand_like(images) - 0.5, self.config.levels).mean()}

    def bits(self, images: Tensor, noise: Tensor, levels: int) -> Tensor:
        """(n,) bits per dimension of images with so many values, spread over their bins by noise in [-0.5, 0.5]."""
        own = self.config.levels
        width = (own - 1) / (own * (levels - 1))  # of a bin, where u in [0, 1] is `own` bins side by side
        u = self.to_unit(images) + width * noise
        p = ALPHA + (1 - 2 * ALPHA) * u.flatten(1)
        z, log_determinant = self.flow(torch.logit(p))
        log_determinant = log_determinant + (math.log(1 - 2 * ALPHA) - p.log() - torch.log1p(-p)).sum(1)  # dy/du
        log_density = log_determinant - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
        bits: Tensor = -log_density / (math.log(2) * z.shape[1]) - math.log2(width)
        return bits

    def to_unit(self, images: Tensor) -> Tensor:
        """[-1, 1] to u, where -1 is the middle of the first of `levels` bins and 1 that of the last."""
        levels = self.config.levels
        return ((images + 1) / 2 * (levels - 1) + 0.5) / levels

    def from_unit(self, u: Tensor) -> Tensor:
        levels = self.config.levels
        return (u * levels - 0.5) / (levels - 1) * 2 - 1

    def sample(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None, temperature: Temperature = 1.0
    ) -> Tensor:
        """Draw z from the prior and undo the flow.

        Args:
            temperature: the prior's standard deviation; less than 1 gives likelier images that differ less.
        """
        z = temperature * randn((n, *self.shape), generator, self.device)
        u = (torch.sigmoid(self.flow.inverse(z.flatten(1))) - ALPHA) / (1 - 2 * ALPHA)
        return self.from_unit(u).view(n, *self.shape).clamp(-1, 1)

    # The capability `Likelihood`

    @torch.no_grad()
    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        """(n,) bits a pixel and channel, of images with the modality's values, 256 for 8 bits. The density is exact; as a
        probability of these, it is an upper bound in expectation over the noise that fills their bins (Theis et al. 2016,
        eq. 6)."""
        images, levels = batch.x, self.modality.levels
        assert levels is not None
        noise = torch.special.ndtr(randn(tuple(images.shape), generator, images.device)) - 0.5  # uniform
        return self.bits(images, noise, levels)
