"""Residual network for vectors: points of the plane, rows of a table, latents."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from genhub import Conditioner, Given, Means, Network, NetworkConfig, PositiveInt
from genhub_networks.shapes import check_sides
from genhub_networks.times import TimeEmbedding

FEW_NUMBERS = 8
"""Numbers of a vector up to which a small network shows it well, its edges by sines and cosines."""


class MLPConfig(NetworkConfig):
    name: str = "mlp"
    takes: ClassVar = frozenset({"vector"})
    default_for: ClassVar = frozenset({0})

    hidden: PositiveInt = 64
    """Width of the layers."""
    depth: PositiveInt = 3
    """Number of residual blocks."""
    frequencies: int = Field(default=4, strict=True, ge=0, le=16)
    """Number of sines and cosines that it sees of each number, of 1, 2, 4, ... times that: edges, as of a checkerboard, need
    them."""

    @classmethod
    def suited(cls, shape: tuple[int, ...], means: Means) -> dict[str, Any]:
        edges = {} if shape[0] <= FEW_NUMBERS else {"frequencies": 0}
        return {"hidden": 256 if means.accelerator or shape[0] > FEW_NUMBERS else 128, "depth": 3} | edges

    @property
    def width(self) -> int:
        return self.hidden

    def check(self, shape: tuple[int, ...]) -> None:
        check_sides(self.name, shape, (0,))


class MLP(Network):
    """Residual blocks, each shifted and scaled by the time and by what is given."""

    Config = MLPConfig

    def __init__(
        self, config: MLPConfig, shape: tuple[int, ...], conditioner: Conditioner, out_channels: int | None = None
    ) -> None:
        super().__init__()
        size = shape[0]
        self.frequencies = config.frequencies
        self.enter = nn.Linear(size * (1 + 2 * config.frequencies), config.hidden)
        self.time = TimeEmbedding(config.hidden, features=64)
        self.blocks = nn.ModuleList(Block(config.hidden) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.hidden)
        self.leave = nn.Linear(config.hidden, out_channels or size)

    def forward(self, x: Tensor, t: Tensor | None, given: Given) -> Tensor:
        state = nn.functional.silu(self.time(t, x, given.vector))
        rates = 2.0 ** torch.arange(self.frequencies, device=x.device)
        angles = (x[:, :, None] * rates).flatten(1)
        hidden = self.enter(torch.cat([x, angles.sin().to(x.dtype), angles.cos().to(x.dtype)], 1))
        for block in self.blocks:
            hidden = block(hidden, state)
        output: Tensor = self.leave(nn.functional.silu(self.norm(hidden)))
        return output


class Block(nn.Module):
    """Two layers around a shift and scale, added to what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Return (n, width) for x (n, width) and the state (n, width) of time and conditions."""
        shift, scale = self.modulate(state).chunk(2, 1)
        hidden = self.first(self.norm(x) * (1 + scale) + shift)
        output: Tensor = x + self.second(nn.functional.silu(hidden))
        return output
