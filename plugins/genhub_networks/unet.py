"""U-Net for images: diffusers' UNet2DModel, and its UNet2DConditionModel where there are tokens to attend to."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genhub import (
    Conditioner,
    Given,
    Means,
    Network,
    NetworkConfig,
    PositiveInt,
    RecipeError,
    folded,
    load_strictly,
    save_tensors,
    unfolded,
)
from genhub_networks.shapes import check_sides, nearest_multiple

DownBlock = Literal["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""Name that diffusers gives the file of a network's weights."""
ONLY_WITH_TOKENS = {
    "downsample_type": "conv",
    "upsample_type": "conv",
    "attn_norm_num_groups": None,
    "time_embedding_type": "positional",
}
"""The one value of keys that UNet2DConditionModel lacks, or by which it means something else."""


class UNetConfig(NetworkConfig):
    """Keys of the U-Net, under diffusers' names; their defaults suit a small network."""

    name: str = "unet"
    takes: ClassVar = frozenset({"label", "vector", "sequence", "spatial"})
    default_for: ClassVar = frozenset({2})

    patch_size: PositiveInt = 1
    """Side of a patch; the pixels of each are folded into channels before the first level, and unfolded behind the last: 2
    spares the dearest level."""
    block_out_channels: tuple[PositiveInt, ...] = Field(default=(32, 64), min_length=1)
    """Channels at each level; each level but the last halves height and width."""
    layers_per_block: PositiveInt = 1
    norm_num_groups: PositiveInt = 8
    down_block_types: tuple[DownBlock, ...] | None = None
    """Left out: attention at the last level alone, or none without add_attention."""
    up_block_types: tuple[UpBlock, ...] | None = None
    add_attention: bool = True
    """Attention in the middle, and at the last level where the block types are left out."""
    attention_head_dim: PositiveInt | None = 8
    dropout: float = Field(default=0.0, ge=0, lt=1)
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    norm_eps: float = Field(default=1e-5, gt=0)
    time_embedding_type: Literal["positional", "fourier"] = "positional"
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    center_input_sample: bool = False
    mid_block_scale_factor: float = 1.0
    downsample_padding: int = 1
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    attn_norm_num_groups: PositiveInt | None = None

    @model_validator(mode="after")
    def _arithmetic(self) -> UNetConfig:
        groups = self.norm_num_groups
        for width in self.block_out_channels:
            if width % 2:
                raise ValueError(f"block_out_channels: must be even, {width} is not")
            if width % groups:
                near = nearest_multiple(width, groups)
                raise ValueError(f"block_out_channels: {width} does not divide by norm_num_groups {groups}; {near} does")
            if (
                self.add_attention
                and self.attention_head_dim
                and width % self.attention_head_dim
                and width == self.block_out_channels[-1]
            ):
                raise ValueError(f"attention_head_dim: {self.attention_head_dim} does not divide {width} channels")
        for name in ("down_block_types", "up_block_types"):
            types, levels = getattr(self, name), len(self.block_out_channels)
            if types is not None and len(types) != levels:
                raise ValueError(f"{name}: {len(types)} given for {levels} levels of block_out_channels")
        return self

    @classmethod
    def suited(cls, shape: tuple[int, ...], means: Means) -> dict[str, Any]:
        sides, levels = shape[1:], 1
        while levels < 4 and all(side % 2**levels == 0 for side in sides) and (min(sides) > 4 * 2**levels or levels == 1):
            levels += 1
        large = math.prod(sides) > 256
        first = 64 if means.accelerator else 16 if large else 32  # which see x's full size, and are dear
        channels = [first * min(2**level, 4) for level in range(levels)]
        size = {"layers_per_block": 2 if means.accelerator else 1, "attention_head_dim": 16}
        if not large or levels == 1:
            return {"block_out_channels": channels} | size
        patch = 1 if means.accelerator else 2  # on a CPU as good after as long, and drawn from 1.7 times as fast
        return {"patch_size": patch, "block_out_channels": channels[patch - 1 :]} | size

    @property
    def width(self) -> int:
        return 4 * self.block_out_channels[0]  # of diffusers' embedding of the time, to which the vector is added

    def check(self, shape: tuple[int, ...]) -> None:
        check_sides(self.name, shape, (2,))
        divisor = self.patch_size * 2 ** (len(self.block_out_channels) - 1)
        patches = f" of patches of {self.patch_size}" * (self.patch_size > 1)
        for side in shape[1:]:
            if side % divisor:
                near = nearest_multiple(side, divisor)
                raise ValueError(
                    f"block_out_channels: {len(self.block_out_channels)} levels{patches} need sides divisible by {divisor}, "
                    f"these are {shape[1]}x{shape[2]}: set the column's size to {near} (data.columns), or use fewer levels"
                )

    def options(self) -> dict[str, Any]:
        """Return the arguments of UNet2DModel that these keys are."""
        plain = len(self.block_out_channels) - (1 if self.add_attention else 0)
        down = self.down_block_types or ("DownBlock2D",) * plain + ("AttnDownBlock2D",) * self.add_attention
        up = self.up_block_types or ("AttnUpBlock2D",) * self.add_attention + ("UpBlock2D",) * plain
        return self.model_dump(exclude={"name", "patch_size"}) | {"down_block_types": down, "up_block_types": up}

    def options_with_tokens(self) -> dict[str, Any]:
        """Return the arguments of UNet2DConditionModel: wherever there would be attention of the image to itself, it attends
        to the tokens, too.

        Raises:
            RecipeError: it has no such layers.
        """
        options, size = self.options(), self.attention_head_dim
        for key in ("down_block_types", "up_block_types"):
            if skipping := [name for name in options[key] if "Skip" in name]:
                wrong, right = skipping[0], skipping[0].replace("Skip", "")
                raise RecipeError(f"model.network.{key}: {wrong} can't be given a sequence of tokens; {right} can")
            options[key] = tuple(name.replace("Attn", "CrossAttn") for name in options[key])
        middle = "UNetMidBlock2DCrossAttn" if self.add_attention else "UNetMidBlock2D"
        if not any("Attn" in name for name in (*options["down_block_types"], *options["up_block_types"], middle)):
            raise RecipeError("model.network.add_attention: a sequence of tokens can only be attended to; set it to true")
        for key, only in ONLY_WITH_TOKENS.items():
            if options[key] != only:
                raise RecipeError(
                    f"model.network.{key}: {options[key]} is not for a network that is given tokens; leave it out"
                )
        heads = [max(1, width // (size or width)) for width in self.block_out_channels]  # diffusers misnames them
        own = {key: value for key, value in options.items() if key not in ("add_attention", *ONLY_WITH_TOKENS)}
        return own | {"mid_block_type": middle, "attention_head_dim": tuple(heads), "cross_attention_dim": self.width}


class UNet(Network):
    """diffusers' U-Net as a child, `unet`: unconditional, or conditional on a label alone, it is exactly UNet2DModel."""

    Config = UNetConfig

    def __init__(
        self, config: UNetConfig, shape: tuple[int, ...], conditioner: Conditioner, out_channels: int | None = None
    ) -> None:
        super().__init__()
        import diffusers  # slow to import

        self.patch = config.patch_size
        channels, height, width = shape[0], *(side // self.patch for side in shape[1:])
        attends = "sequence" in conditioner.gives
        network: Any = diffusers.UNet2DConditionModel if attends else diffusers.UNet2DModel
        options = config.options_with_tokens() if attends else config.options()
        if conditioner.num_classes is not None:
            options["num_class_embeds"] = conditioner.num_classes + 1  # the last one: a row without its label
        if "vector" in conditioner.gives:
            options["class_embed_type"] = "identity"
        self.unet: Any = network(
            sample_size=height if height == width else (height, width),
            in_channels=(channels + conditioner.spatial_channels) * self.patch**2,
            out_channels=(out_channels or channels) * self.patch**2,
            **options,
        )
        self.fourier = config.time_embedding_type == "fourier"
        if not self.fourier:
            self.unet.time_proj = Times(self.unet.time_proj)
            if attends:
                self.unet.get_time_embed = partial(_embedded, self.unet.time_proj)

    def forward(self, x: Tensor, t: Tensor | None, given: Given) -> Tensor:
        if given.spatial is not None:
            x = torch.cat([x, given.spatial], 1)
        times = x.new_ones(len(x)) if t is None else t
        if times.ndim == 2:
            times = times[:, 0] if times.shape[1] == 1 else self._several(times)
        tokens = {}
        if given.sequence is not None:
            tokens = {"encoder_hidden_states": given.sequence, "encoder_attention_mask": given.mask}
        label = given.label if given.vector is None else given.vector
        output: Tensor = self.unet(folded(x, self.patch), times, class_labels=label, return_dict=False, **tokens)[0]
        return unfolded(output, self.patch)

    def _several(self, times: Tensor) -> Tensor:
        """Return (k, n) times, which `Times` embeds.

        Raises:
            RecipeError: it embeds one alone.
        """
        if self.fourier:
            raise RecipeError("model.network.time_embedding_type: fourier embeds one time, not several; positional does")
        return times.T

    def save(self, path: Path) -> None:
        """Write the folder that diffusers opens, config.json and its weights: what its own `save_pretrained` writes, which
        imports as much as torch's distributed tensors to do so."""
        self.unet.save_config(path)
        save_tensors(self.unet.state_dict(), path / WEIGHTS, format="pt")

    def load(self, path: Path) -> None:
        """Read a folder that `save`, or any version of diffusers, wrote, strictly."""
        load_strictly(self.unet, path / WEIGHTS, rename=todays_name)


class Times(nn.Module):
    """diffusers' features of times (n,) as they are; of (k, n), each time has every k-th frequency. It has no weights."""

    def __init__(self, one: Any) -> None:
        super().__init__()
        self.one = one

    def forward(self, times: Tensor) -> Tensor:
        if times.ndim == 1:
            features: Tensor = self.one(times)
            return features
        each = torch.stack([self.one(time) for time in times])  # (k, n, size): cosines and sines, a half each
        place = torch.arange(each.shape[2], device=times.device)
        return each[place % (len(place) // 2) % len(times), :, place].T


def _embedded(times: Times, sample: Tensor, timestep: Tensor) -> Tensor:
    """Stand in for UNet2DConditionModel.get_time_embed, which takes one time alone."""
    features: Tensor = times(timestep).to(sample.dtype)
    return features


def todays_name(key: str) -> str:
    """Return a weight's name in today's UNet2DModel; attention's were others before diffusers 0.12."""
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        key = re.sub(rf"(attentions\.\d+)\.{old}\.", rf"\1.{new}.", key)
    return key
