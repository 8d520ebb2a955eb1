"""U-Net for signals (n, channels, length)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genhub import Conditioner, Given, Means, Network, NetworkConfig, PositiveInt, folded, unfolded
from genhub_networks.shapes import check_sides, nearest_multiple
from genhub_networks.times import TimeEmbedding

LONG = 512
"""Length above which a signal is folded where a recipe doesn't say how."""


class UNet1dConfig(NetworkConfig):
    name: str = "unet1d"
    takes: ClassVar = frozenset({"vector", "spatial"})
    default_for: ClassVar = frozenset({1})

    patch_size: PositiveInt | None = None
    """Neighbouring values that are folded into channels before the first level, and unfolded behind the last: the work is so
    many times less. Left out: the power of two that makes the length at most 512."""
    block_out_channels: tuple[PositiveInt, ...] = Field(default=(32, 64, 64), min_length=1)
    """Channels at each level; each level but the last halves the length."""
    layers_per_block: PositiveInt = 1
    norm_num_groups: PositiveInt = 8
    add_attention: bool = True
    """Attention in the middle, at the lowest level."""
    attention_head_dim: PositiveInt = 16

    @model_validator(mode="after")
    def _arithmetic(self) -> UNet1dConfig:
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                near = nearest_multiple(channels, self.norm_num_groups)
                groups = f"norm_num_groups {self.norm_num_groups}"
                raise ValueError(f"block_out_channels: {channels} does not divide by {groups}; {near} does")
        last, size = self.block_out_channels[-1], self.attention_head_dim
        if self.add_attention and last % size:
            near = next(number for number in range(size, 0, -1) if last % number == 0)
            raise ValueError(f"attention_head_dim: {size} does not divide {last} channels; {near} does")
        return self

    @classmethod
    def suited(cls, shape: tuple[int, ...], means: Means) -> dict[str, Any]:
        length, patch, levels = shape[1], 1, 3
        while patch < 16 and length > 128 * patch and length % (8 * patch) == 0:
            patch *= 2
        while levels > 1 and length % (patch * 2 ** (levels - 1)):
            levels -= 1
        channels = [128, 192, 256] if means.accelerator else [64, 96, 128]
        return {"patch_size": patch, "block_out_channels": channels[:levels]}

    @property
    def width(self) -> int:
        return 4 * self.block_out_channels[0]

    @property
    def halved(self) -> int:
        """Factor by which the lowest level is shorter than the first."""
        return int(2 ** (len(self.block_out_channels) - 1))

    def patch(self, length: int) -> int:
        """Return the size of a patch for signals of a length."""
        if self.patch_size is not None:
            return self.patch_size
        patch = 1
        while length > LONG * patch and length % (2 * patch * self.halved) == 0:
            patch *= 2
        return patch

    def check(self, shape: tuple[int, ...]) -> None:
        check_sides(self.name, shape, (1,))
        length, divisor = shape[1], self.halved * (self.patch_size or 1)
        if length % divisor:
            near, patches = nearest_multiple(length, divisor), f" of patches of {self.patch_size}" * bool(self.patch_size)
            raise ValueError(
                f"block_out_channels: {len(self.block_out_channels)} levels{patches} need a length divisible by {divisor}, "
                f"this is {length}: set the column's length to {near} (data.columns), or use fewer levels"
            )


class UNet1d(Network):
    """Residual blocks of convolutions, halved in length from level to level and doubled on the way back, each shifted and
    scaled by the time and by what is given (Dhariwal & Nichol 2021, arXiv:2105.05233, in one dimension)."""

    Config = UNet1dConfig

    def __init__(
        self, config: UNet1dConfig, shape: tuple[int, ...], conditioner: Conditioner, out_channels: int | None = None
    ) -> None:
        super().__init__()
        levels, layers, groups, width = (
            config.block_out_channels, config.layers_per_block, config.norm_num_groups, config.width,
        )  # fmt: skip
        self.time = TimeEmbedding(width)
        self.patch = config.patch(shape[1])
        self.enter = nn.Conv1d((shape[0] + conditioner.spatial_channels) * self.patch, levels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()
        skipped, channels = [levels[0]], levels[0]
        for index, wide in enumerate(levels):
            for _ in range(layers):
                self.down.append(Block(channels, wide, width, groups))
                channels = wide
                skipped.append(channels)
            if index < len(levels) - 1:
                self.downsamplers.append(nn.Conv1d(channels, channels, 3, stride=2, padding=1))
                skipped.append(channels)
        self.middle = nn.ModuleList(Block(channels, channels, width, groups) for _ in range(2))
        self.attention = Attention(channels, config.attention_head_dim, groups) if config.add_attention else None
        for index, wide in reversed(list(enumerate(levels))):
            for _ in range(layers + 1):
                self.up.append(Block(channels + skipped.pop(), wide, width, groups))
                channels = wide
            if index:
                self.upsamplers.append(nn.Conv1d(channels, channels, 3, padding=1))
        self.norm = nn.GroupNorm(groups, channels)
        self.leave = nn.Conv1d(channels, (out_channels or shape[0]) * self.patch, 3, padding=1)
        self.layers = layers

    def forward(self, x: Tensor, t: Tensor | None, given: Given) -> Tensor:
        state = nn.functional.silu(self.time(t, x, given.vector))
        if given.spatial is not None:
            x = torch.cat([x, given.spatial], 1)
        x = self.enter(folded(x, self.patch))
        skipped = [x]
        for index, block in enumerate(self.down):
            x = block(x, state)
            skipped.append(x)
            level, rest = divmod(index + 1, self.layers)
            if not rest and level <= len(self.downsamplers):
                x = self.downsamplers[level - 1](x)
                skipped.append(x)
        x = self.middle[0](x, state)
        x = x if self.attention is None else self.attention(x)
        x = self.middle[1](x, state)
        for index, block in enumerate(self.up):
            x = block(torch.cat([x, skipped.pop()], 1), state)
            level, rest = divmod(index + 1, self.layers + 1)
            if not rest and level <= len(self.upsamplers):
                x = self.upsamplers[level - 1](nn.functional.interpolate(x, scale_factor=2.0))
        return unfolded(self.leave(nn.functional.silu(self.norm(x))), self.patch)


class Block(nn.Module):
    """Two convolutions around a shift and scale, added to what comes in."""

    def __init__(self, channels: int, out_channels: int, width: int, groups: int) -> None:
        super().__init__()
        same = channels == out_channels
        self.first_norm = nn.GroupNorm(groups, channels)
        self.first = nn.Conv1d(channels, out_channels, 3, padding=1)
        self.modulate = nn.Linear(width, 2 * out_channels)
        self.second_norm = nn.GroupNorm(groups, out_channels)
        self.second = nn.Conv1d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if same else nn.Conv1d(channels, out_channels, 1)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Return (n, out_channels, length) for x (n, channels, length) and the state (n, width) of time and conditions."""
        shift, scale = self.modulate(state)[:, :, None].chunk(2, 1)
        hidden = self.first(nn.functional.silu(self.first_norm(x)))
        hidden = self.second(nn.functional.silu(self.second_norm(hidden) * (1 + scale) + shift))
        output: Tensor = self.skip(x) + hidden
        return output


class Attention(nn.Module):
    """Attention of a signal's places to one another, added to what comes in."""

    def __init__(self, channels: int, size: int, groups: int) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.GroupNorm(groups, channels)
        self.enter, self.leave = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels, length) for x of that shape."""
        parts = self.enter(self.norm(x)).unflatten(1, (3, -1, self.size)).transpose(3, 4).unbind(1)
        attended = nn.functional.scaled_dot_product_attention(*parts)
        output: Tensor = x + self.leave(attended.transpose(2, 3).flatten(1, 2))
        return output
