"""Residual blocks of any number of sides, without normalisation: the plain one, and R3GAN's (Huang et al. 2024,
arXiv:2501.05441, section 4).

Convolutions have as many sides as x; with none they are linear layers. Residual branches start at zero (Zhang et al. 2019,
"Fixup", arXiv:1901.09321), so that depth needs no normalisation to train.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from genhub_gan.config import EXPANSION, GROUP_SIZE, ResidualConfig

SLOPE = 0.2


def convolution(sides: int, before: int, after: int, kernel: int = 3, groups: int = 1) -> nn.Module:
    """Return a new convolution that keeps its input's sides; of none, a linear layer."""
    if not sides:
        return nn.Linear(before, after)
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[sides - 1](before, after, kernel, padding=kernel // 2, groups=groups)


class Block(nn.Module):
    """Residual block: x + conv(act(conv(act(x)))), the second convolution zero at first."""

    def __init__(self, sides: int, channels: int) -> None:
        super().__init__()
        self.first = convolution(sides, channels, channels)
        self.second = convolution(sides, channels, channels)
        nn.init.kaiming_normal_(self.first.weight, SLOPE)  # type: ignore[arg-type]
        nn.init.zeros_(self.first.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.second.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.second(leaky_relu(self.first(leaky_relu(x, SLOPE)), SLOPE))
        return x + branch


class InvertedBlock(nn.Module):
    """R3GAN's residual block: an inverted bottleneck, x + narrow(act(mix(act(widen(x))))). `widen` and `narrow` are of 1 a
    side; `mix` is of 3 a side within groups of channels, so that a wide branch is cheap.

    Fix-up initialisation: `narrow` starts at zero, the m - 1 = 2 others smaller by depth^(-1 / (2m - 2)).
    """

    def __init__(self, sides: int, channels: int, depth: int) -> None:
        """
        Args:
            depth: number of blocks of the whole network.
        """
        super().__init__()
        wide = EXPANSION * channels
        self.widen = convolution(sides, channels, wide, 1)
        self.mix = convolution(sides, wide, wide, groups=wide // GROUP_SIZE)
        self.narrow = convolution(sides, wide, channels, 1)
        for layer in (self.widen, self.mix, self.narrow):
            nn.init.kaiming_normal_(layer.weight, SLOPE)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.widen.weight *= depth**-0.25
            self.mix.weight *= depth**-0.25
            self.narrow.weight.zero_()  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.narrow(leaky_relu(self.mix(leaky_relu(self.widen(x), SLOPE)), SLOPE))
        return x + branch


class Basis(nn.Module):
    """R3GAN's first layer of a generator: a learned array (channels, *size), each channel times a number of the noise."""

    def __init__(self, channels: int, size: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, *size))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return (n, channels, *size) for numbers (n, channels)."""
        return numbers.view(*numbers.shape, *(1 for _ in self.weight.shape[1:])) * self.weight


class Reading(nn.Module):
    """R3GAN's last layer of a discriminator, the basis turned round: each channel's sum, weighted by a learned array."""

    def __init__(self, channels: int, size: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, math.prod(size)) / math.sqrt(math.prod(size)))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels) for x (n, channels * sites)."""
        return (x.view(len(x), *self.weight.shape) * self.weight).sum(2)


def levels(sides: int, widths: Sequence[int], config: ResidualConfig) -> nn.ModuleList:
    """Return the blocks of each level of a network, one level for each width."""
    number = config.blocks_per_level

    def block(width: int) -> nn.Module:
        if config.architecture == "r3gan":
            return InvertedBlock(sides, width, depth=number * len(widths))
        return Block(sides, width)

    return nn.ModuleList(nn.Sequential(*(block(width) for _ in range(number))) for width in widths)
