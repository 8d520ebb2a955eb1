"""A flow of affine couplings (Real NVP: Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803): an invertible map from x to
Gaussian noise, whose density is exact, trained by maximum likelihood alone.

Notation: y is x, or, where x has levels, logit(ALPHA + (1 - 2 ALPHA) u) of u in [0, 1]; z = flow(y) with prior N(0, I), so
that log p(y) = log N(z) + log |det dz/dy| (eq. 2). The couplings' networks are fully connected, as in NICE (Dinh et al.
2015): that suits vectors and small images, which need neither the paper's convolutions nor its several scales.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from genhub import Batch, Conditioner, Conditions, GenerativeModel, Generators, Phase, randn
from genhub_nf.bins import Bins
from genhub_nf.config import RealNVPConfig

ALPHA = 0.05
"""Keeps the logit away from its infinities (section 4.1; taken from both ends here)."""
MAX_LOG_SCALE = 2.0
"""A coupling stretches by exp(-2) to exp(2)."""

Temperature = Annotated[float, Field(gt=0)]


class Coupling(nn.Module):
    """y' = b y + (1 - b) (y exp(s(b y)) + t(b y)) for a mask b, eq. 9, and back; s and t are also given a vector."""

    mask: Tensor

    def __init__(self, mask: Tensor, config: RealNVPConfig, is_given: bool) -> None:
        super().__init__()
        self.mask = nn.Buffer(mask, persistent=False)  # a constant
        size, hidden = mask.numel(), config.hidden_features
        self.enter = nn.Linear(size, hidden)
        self.given = nn.Linear(hidden, hidden, bias=False) if is_given else None
        self.middle, self.leave = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * size)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.zeros_(self.leave.weight)  # starts as the identity
        nn.init.zeros_(self.leave.bias)

    def forward(self, y: Tensor, vector: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (n, d) for (n, d), and (n,) the log of the determinant, eq. 6."""
        log_scale, shift = self.scale_and_shift(y, vector)
        return y * log_scale.exp() + shift, log_scale.sum(1)

    def inverse(self, y: Tensor, vector: Tensor | None) -> Tensor:
        log_scale, shift = self.scale_and_shift(y, vector)  # the masked half, all they see, is the same on both sides
        return (y - shift) * (-log_scale).exp()

    def scale_and_shift(self, y: Tensor, vector: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return s and t, float32 in any precision of training; 0 where the mask is 1."""
        hidden = self.enter(self.mask * y)
        if self.given is not None:
            hidden = hidden + self.given(vector)
        hidden = self.dropout(nn.functional.silu(hidden))
        hidden = self.dropout(nn.functional.silu(self.middle(hidden)))
        log_scale, shift = self.leave(hidden).float().chunk(2, dim=1)
        free = 1 - self.mask
        return free * MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE), free * shift


class Couplings(nn.Module):
    """Couplings in a row, each pair with a mask and its opposite."""

    def __init__(self, shape: tuple[int, ...], config: RealNVPConfig, is_given: bool) -> None:
        super().__init__()
        known = patterns(shape)
        masks = [(known[number // 2 % len(known)] + number) % 2 for number in range(config.num_couplings)]
        self.layers = nn.ModuleList(Coupling(mask.flatten().float(), config, is_given) for mask in masks)

    def forward(self, y: Tensor, vector: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z (n, d) for y (n, d), and (n,) log |det dz/dy|."""
        log_determinant = y.new_zeros(len(y))
        for layer in self.layers:
            y, more = layer(y, vector)
            log_determinant = log_determinant + more
        return y, log_determinant

    def inverse(self, z: Tensor, vector: Tensor | None = None) -> Tensor:
        for layer in reversed(self.layers):
            assert isinstance(layer, Coupling)
            z = layer.inverse(z, vector)
        return z


def patterns(shape: tuple[int, ...]) -> list[Tensor]:
    """Return patterns of whole numbers, each of `shape`, whose odd places are masked: by the binary digits of a place in a
    vector, so that each number meets each other as a condition; on several sides checkerboards of growing squares, and
    stripes. Channels are in turn."""
    channel, *places = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    if not places:
        channel, places = torch.zeros_like(channel), [channel]
    halvings = max(1, (max(shape) - 1).bit_length())
    fine, *coarse = [sum(place // 2**times for place in places) for times in range(halvings)]
    stripes = places if len(places) > 1 else []
    return [pattern + channel for pattern in (fine, *stripes, *coarse)]


class RealNVP(GenerativeModel):
    """Noise to x and back by the same layers; says exactly how probable x is."""

    Config = RealNVPConfig
    config: RealNVPConfig

    def __init__(self, config: RealNVPConfig) -> None:
        super().__init__(config)
        flat = (math.prod(self.shape),)  # as the couplings see x: an image is given as a vector, too
        self.conditioner = Conditioner(self.conditions, flat, config.hidden_features, takes=frozenset({"vector"}))
        self.flow = Couplings(self.shape, config, is_given=bool(self.conditions))
        self.bins = Bins(self.modality, config.levels)

    def phases(self) -> list[Phase]:
        return [Phase("likelihood", self.loss, trains=("flow", "conditioner") if self.conditions else ("flow",))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log2 p(x) a number of x: log2(levels) is what knowing nothing of x with levels costs."""
        log_density = self.log_density(self.bins.filled(batch.x), batch.conditions)
        return {"loss": self.bins.trained_bits(log_density, batch.x[0].numel()).mean()}

    def log_density(self, x: Tensor, conditions: Conditions) -> Tensor:
        """Return (n,) log p(x) in nats, a density of a batch's values; of x with levels, anywhere in their bins."""
        y, log_stretch = self.opened(x.flatten(1))
        z, log_determinant = self.flow(y, self.conditioner(conditions).vector)
        log_density: Tensor = log_determinant + log_stretch - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
        return log_density

    def opened(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y (n, d), which may be any number, for x (n, d), and (n,) log |dy/dx|."""
        levels = self.bins.levels
        if levels is None:
            return x, x.new_zeros(len(x))
        share = (1 - 2 * ALPHA) / (levels * self.bins.width(levels))  # dp/dx
        p = ALPHA + (1 - 2 * ALPHA) * self.bins.to_unit(x)
        return torch.logit(p), (math.log(share) - p.log() - torch.log1p(-p)).sum(1)

    def closed(self, y: Tensor) -> Tensor:
        """Return the inverse of `opened`."""
        if self.bins.levels is None:
            return y
        return self.bins.from_unit((torch.sigmoid(y) - ALPHA) / (1 - 2 * ALPHA))

    def sample(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None, temperature: Temperature = 1.0
    ) -> Tensor:
        """Draw z from the prior and undo the flow.

        Args:
            temperature: the prior's standard deviation; less than 1 gives likelier elements that differ less.
        """
        vector = self.conditioner(self.conditions_of(n, conditions)).vector
        z = temperature * randn((n, *self.shape), generator, self.device)
        x = self.closed(self.flow.inverse(z.flatten(1), vector)).view(n, *self.shape)
        return x.clamp(*self.modality.bounds) if self.modality.bounds else x

    # The capabilities `Likelihood` and `Energy`

    @torch.no_grad()
    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        """Return (n,) bits a number of x. The density is exact; as a probability of values with levels it is an upper bound
        in expectation over the noise that fills their bins."""
        log_density = self.log_density(self.bins.filled_by(batch.x, generator), batch.conditions)
        return self.bins.bits(log_density, batch.x[0].numel())

    def energy(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return (n,) -log p(x) in nats, of a batch's values."""
        return -self.log_density(x, self.conditions_of(len(x), conditions))
