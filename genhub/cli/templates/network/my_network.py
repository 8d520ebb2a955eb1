"""A gated MLP: one network for x of any shape, images, signals and vectors alike, which any family can use.

It is small so that it can be read, and complete: a DDPM draws digits with it after a minute. Replace it piece by piece.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from genhub import Conditioner, Given, Network, NetworkConfig, PositiveInt


class MyNetworkConfig(NetworkConfig):
    # A recipe's keys under `model.network`, checked by pydantic. A docstring under a key is shown by `genhub plugins info`.
    name: str = "my-network"
    takes: ClassVar = frozenset({"vector"})
    """Parts of `genhub.Given` that it uses. A condition that gives another part is refused, before training."""
    default_for: ClassVar = frozenset()
    """Numbers of sides of x for which a recipe need not name it: {2} for images, {0} for vectors."""

    hidden: PositiveInt = 256
    """Width of the layers."""
    depth: Annotated[int, Field(strict=True, ge=1, le=100)] = 4
    """Number of gated layers."""

    @property
    def width(self) -> int:
        return self.hidden  # of the vector that it is given

    def check(self, shape: tuple[int, ...]) -> None:
        if math.prod(shape) > 100_000:
            raise ValueError(f"name: my-network sees all numbers of x at once, and {math.prod(shape):,} are too many")


class MyNetwork(Network):
    """Layers on the flattened x, each gated by the time and by what is given."""

    Config = MyNetworkConfig

    def __init__(
        self, config: MyNetworkConfig, shape: tuple[int, ...], conditioner: Conditioner, out_channels: int | None = None
    ) -> None:
        """
        Args:
            shape: of x, (channels, *sides); of vectors (d,).
            conditioner: of what it will be given; a network that takes channels beside x asks for its `spatial_channels`.
            out_channels: of the output; None: x's.
        """
        super().__init__()
        self.out_shape = (out_channels or shape[0], *shape[1:])
        self.times = nn.Linear(64, config.hidden)
        self.enter = nn.Linear(math.prod(shape), config.hidden)
        self.layers = nn.ModuleList(nn.Linear(config.hidden, config.hidden) for _ in range(config.depth))
        self.gates = nn.ModuleList(nn.Linear(config.hidden, 2 * config.hidden) for _ in range(config.depth))
        self.leave = nn.Linear(config.hidden, math.prod(self.out_shape))

    def forward(self, x: Tensor, t: Tensor | None, given: Given) -> Tensor:
        state = self.times(waves(x.new_zeros(len(x)) if t is None else t, 64).to(x.dtype))
        if given.vector is not None:
            state = state + given.vector
        state = nn.functional.silu(state)
        hidden = self.enter(x.flatten(1))
        for layer, gate in zip(self.layers, self.gates, strict=True):
            scale, shift = gate(state).chunk(2, 1)
            normed = nn.functional.layer_norm(hidden, hidden.shape[1:])
            hidden = hidden + nn.functional.silu(layer(normed * (1 + scale) + shift))
        output: Tensor = self.leave(hidden).unflatten(1, self.out_shape)
        return output


def waves(t: Tensor, size: int) -> Tensor:
    """Return (n, size) cosines and sines of times in [0, 1000], (n,), or (n, k) for a family that has k of them at once."""
    times = t.reshape(len(t), -1)
    half = size // 2 // times.shape[1]
    rates = torch.exp(-math.log(10_000) / half * torch.arange(half, device=t.device))
    angles = (times.float()[:, :, None] * rates).flatten(1)
    features = torch.cat([angles.cos(), angles.sin()], 1)
    return nn.functional.pad(features, (0, size - features.shape[1]))
