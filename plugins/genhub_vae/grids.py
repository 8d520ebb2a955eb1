"""Networks of the VQ-VAE: from x (n, *shape) to a grid of vectors (n, d, *grid), and back. As `networks` has them for one
vector, of any number of sides, given what a model is given. What a vector is on the grid are (d, length) numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from genhub import Conditioner, Conditions, Modality
from genhub_vae.networks import TAKES, WIDTH, convolution, enlarged, sizes

RESIDUALS = 2
"""Residual blocks at the grid, as many as in the paper."""


class Residual(nn.Module):
    """Two convolutions, of 3 a side and of 1, added to what comes in (section 4.1)."""

    def __init__(self, sides: int, channels: int) -> None:
        super().__init__()
        self.first = convolution(sides, channels, channels)
        self.second = convolution(sides, channels, channels, size=1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.second(functional.silu(self.first(functional.silu(x))))
        return output


class GridEncoder(nn.Module):
    """Network of convolutions of stride 2, then residual blocks: from (n, *shape) to z_e (n, d, *grid)."""

    def __init__(
        self,
        conditions: Mapping[str, Modality],
        shape: tuple[int, ...],
        channels: Sequence[int],
        latent_shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.conditioner = Conditioner(conditions, shape, WIDTH, TAKES)
        self.latent_shape, sides, last = latent_shape, len(shape) - 1, channels[-1]
        pairs = itertools.pairwise([shape[0] + self.conditioner.spatial_channels, *channels])
        self.convolutions = nn.ModuleList([convolution(sides, before, after, stride=2) for before, after in pairs])
        self.from_vector = nn.Linear(WIDTH, channels[0]) if "vector" in self.conditioner.gives else None
        self.residuals = nn.Sequential(*(Residual(sides, last) for _ in range(RESIDUALS)))
        self.last = convolution(sides, last, math.prod(latent_shape) // math.prod(sizes(shape, len(channels))[-1]))

    def forward(self, x: Tensor, conditions: Conditions) -> Tensor:
        given = self.conditioner(conditions)
        if given.spatial is not None:
            x = torch.cat([x, given.spatial.to(x.dtype)], 1)
        for index, layer in enumerate(self.convolutions):
            x = layer(functional.silu(x)) if index else layer(x)
            if self.from_vector is not None and not index:
                x = x + _everywhere(self.from_vector(given.vector), x)
        latents: Tensor = self.last(functional.silu(self.residuals(x)))
        return latents.view(len(x), *self.latent_shape)


class GridDecoder(nn.Module):
    """Network back from z_q (n, d, *grid) to (n, *shape): residual blocks, then each size enlarged and convolved. A vector
    that it is given is added at the grid; what has x's sides lies beside each level, at that level's size."""

    def __init__(
        self,
        conditions: Mapping[str, Modality],
        shape: tuple[int, ...],
        channels: Sequence[int],
        latent_shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.conditioner = Conditioner(conditions, shape, WIDTH, TAKES)
        sides, planes = len(shape) - 1, self.conditioner.spatial_channels
        *self.larger, self.smallest = sizes(shape, len(channels))
        self.first = convolution(sides, math.prod(latent_shape) // math.prod(self.smallest), channels[-1])
        self.from_vector = nn.Linear(WIDTH, channels[-1]) if "vector" in self.conditioner.gives else None
        self.residuals = nn.Sequential(*(Residual(sides, channels[-1]) for _ in range(RESIDUALS)))
        pairs = itertools.pairwise([channels[0], *channels])
        self.convolutions = nn.ModuleList([convolution(sides, after + planes, before) for before, after in pairs])
        self.last = convolution(sides, channels[0], shape[0])

    def forward(self, vectors: Tensor, conditions: Conditions) -> Tensor:
        given = self.conditioner(conditions)
        x = self.first(vectors.reshape(len(vectors), -1, *self.smallest))
        if self.from_vector is not None:
            x = x + _everywhere(self.from_vector(given.vector), x)
        x = functional.silu(self.residuals(x))
        outputs: Tensor = self.last(enlarged(x, given.spatial, self.larger, self.convolutions))
        return outputs


def _everywhere(vector: Tensor, x: Tensor) -> Tensor:
    """Return (n, channels) as (n, channels, 1, ...), to be added at each place of x."""
    return vector.view(*vector.shape, *(1 for _ in x.shape[2:]))
