"""Diffusion transformer (Peebles & Xie 2023, arXiv:2212.09748) over patches of signals, images or volumes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genhub import Conditioner, Given, Means, Network, NetworkConfig, PositiveInt, patch_for
from genhub_networks.shapes import check_sides, nearest_multiple
from genhub_networks.times import MAX_PERIOD, TimeEmbedding


class DiTConfig(NetworkConfig):
    """Keys of the transformer; their defaults make a small one. DiT-S/2 is hidden_size 384, depth 12, num_heads 6."""

    name: str = "dit"
    takes: ClassVar = frozenset({"vector", "sequence", "spatial"})
    default_for: ClassVar = frozenset({3})

    patch_size: PositiveInt | tuple[PositiveInt, ...] = 2
    """Side of a patch, or its sides; each divides x's."""
    hidden_size: PositiveInt = 128
    """Width of the tokens."""
    depth: PositiveInt = 4
    """Number of blocks."""
    num_heads: PositiveInt = 4
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Width of a block's MLP, in those of the tokens."""

    @model_validator(mode="after")
    def _arithmetic(self) -> DiTConfig:
        if self.hidden_size < 6:
            raise ValueError("hidden_size: must be at least 6, for the places of patches along three sides")
        if self.hidden_size % self.num_heads:
            near = nearest_multiple(self.hidden_size, self.num_heads)
            raise ValueError(f"hidden_size: {self.hidden_size} does not divide by num_heads {self.num_heads}; {near} does")
        return self

    @classmethod
    def suited(cls, shape: tuple[int, ...], means: Means) -> dict[str, Any]:
        patch = patch_for(shape[1:], 256 if means.accelerator else 64)
        size = {"hidden_size": 384, "depth": 12, "num_heads": 6} if means.accelerator else {"hidden_size": 128, "depth": 6}
        return {"patch_size": patch} | size

    @property
    def width(self) -> int:
        return self.hidden_size

    def patch(self, sides: int) -> tuple[int, ...]:
        return (self.patch_size,) * sides if isinstance(self.patch_size, int) else self.patch_size

    def check(self, shape: tuple[int, ...]) -> None:
        check_sides(self.name, shape, (1, 2, 3))
        sides, patch = shape[1:], self.patch(len(shape) - 1)
        if len(patch) != len(sides):
            raise ValueError(f"patch_size: {len(patch)} sides given, for data of {len(sides)}")
        for side, step in zip(sides, patch, strict=True):
            if side % step:
                divisors = [number for number in range(1, side + 1) if side % number == 0]
                near = min(divisors, key=lambda number: (abs(number - step), number))
                raise ValueError(f"patch_size: {step} does not divide the side {side}; {near} does")


class DiT(Network):
    """Transformer whose blocks are scaled, shifted and gated by the time and by what is given (adaLN-Zero, section 3.2)."""

    Config = DiTConfig

    def __init__(
        self, config: DiTConfig, shape: tuple[int, ...], conditioner: Conditioner, out_channels: int | None = None
    ) -> None:
        super().__init__()
        channels, *sides = shape
        width = config.hidden_size
        self.patch = config.patch(len(sides))
        grid = tuple(side // step for side, step in zip(sides, self.patch, strict=True))
        numbers = math.prod(self.patch)
        self.enter = nn.Linear((channels + conditioner.spatial_channels) * numbers, width)
        self.positions = nn.Buffer(positions(grid, width), persistent=False)
        self.time = TimeEmbedding(width)
        hidden, attends = round(width * config.mlp_ratio), "sequence" in conditioner.gives
        self.blocks = nn.ModuleList(Block(width, config.num_heads, hidden, attends) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulate = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, (out_channels or channels) * numbers)
        self._start()

    def _start(self) -> None:
        """Draw the weights as the paper does: every block starts as the identity, and the output as zero."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
                if name == "leave" or name.endswith(("modulate", "cross.leave")):
                    nn.init.zeros_(module.weight)
                elif name.startswith("time."):
                    nn.init.normal_(module.weight, std=0.02)
                else:
                    nn.init.xavier_uniform_(module.weight)

    def forward(self, x: Tensor, t: Tensor | None, given: Given) -> Tensor:
        sides = x.shape[2:]
        state = nn.functional.silu(self.time(t, x, given.vector))
        if given.spatial is not None:
            x = torch.cat([x, given.spatial], 1)
        tokens = self.enter(to_patches(x, self.patch)) + self.positions
        bias = None
        if given.sequence is not None and given.mask is not None:  # not -inf: a row may have no token at all
            bias = torch.zeros_like(given.mask, dtype=tokens.dtype).masked_fill(~given.mask, -1e4)[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, state, given.sequence, bias)
        shift, scale = self.modulate(state)[:, None].chunk(2, 2)
        return from_patches(self.leave(self.norm(tokens) * (1 + scale) + shift), self.patch, sides)


class Block(nn.Module):
    """Attention of the patches to one another, then to the tokens given (PixArt's way, arXiv:2310.00426), then an MLP."""

    def __init__(self, width: int, heads: int, hidden: int, attends: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.attention = Attention(width, heads)
        self.cross = Attention(width, heads) if attends else None
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulate = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, state: Tensor, sequence: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return patches (n, length, width), for the state (n, width) of time and conditions, and for tokens given."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulate(state)[:, None].chunk(6, 2)
        inner = self.norms[0](x) * (1 + scale) + shift
        x = x + gate * self.attention(inner, inner)
        if self.cross is not None:
            x = x + self.cross(x, sequence, bias)
        output: Tensor = x + gate_mlp * self.mlp(self.norms[1](x) * (1 + scale_mlp) + shift_mlp)
        return output


class Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, width)

    def forward(self, x: Tensor, to: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (n, length, width) for x, which attends to tokens `to` (n, others, width).

        Args:
            bias: (n, 1, 1, others) to add to the scores.
        """
        parts = (self.query(x), *self.key_value(to).chunk(2, 2))
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        bias = None if bias is None else bias.to(query.dtype)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        output: Tensor = self.leave(attended.transpose(1, 2).flatten(2))
        return output


def to_patches(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Return (n, number of patches, channels x a patch's numbers) of x (n, channels, *sides)."""
    count, pairs = len(patch), [(side // step, step) for side, step in zip(x.shape[2:], patch, strict=True)]
    x = x.reshape(*x.shape[:2], *(number for pair in pairs for number in pair))  # (n, c, g1, p1, g2, p2, ...)
    grid, inner = [2 + 2 * index for index in range(count)], [3 + 2 * index for index in range(count)]
    return x.permute(0, *grid, 1, *inner).flatten(1, count).flatten(2)


def from_patches(patches: Tensor, patch: tuple[int, ...], sides: tuple[int, ...]) -> Tensor:
    """Return x (n, channels, *sides): the inverse of `to_patches`."""
    count = len(patch)
    grid = [side // step for side, step in zip(sides, patch, strict=True)]
    x = patches.reshape(len(patches), *grid, -1, *patch)  # (n, g1, g2, ..., c, p1, p2, ...)
    order = [axis for index in range(count) for axis in (1 + index, 2 + count + index)]
    return x.permute(0, 1 + count, *order).reshape(len(x), -1, *sides)


def positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Return (number of patches, width) sines and cosines of the patches' places, an equal share of the width a side."""
    half = width // (2 * len(grid))
    rates = torch.exp(-math.log(MAX_PERIOD) / half * torch.arange(half))
    places = torch.cartesian_prod(*(torch.arange(side) for side in grid)).view(-1, len(grid))
    angles = places[:, :, None] * rates
    features = torch.cat([angles.sin(), angles.cos()], 2).flatten(1)
    return nn.functional.pad(features, (0, width - features.shape[1]))
