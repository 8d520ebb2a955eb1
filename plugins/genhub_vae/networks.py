"""Networks of both autoencoders, of any number of sides: vectors, signals, images, volumes; given what a model is given.

Convolutions have as many sides as x; with none they are linear layers, and nothing is halved or doubled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genhub import Conditioner, Conditions, Modality, load_strictly, save_tensors

TAKES = frozenset({"vector", "spatial"})
WIDTH = 64
"""Length of the vector that a network is given of labels, numbers and vectors."""
NOTHING = Conditions()
WEIGHTS = "diffusion_pytorch_model.safetensors"
"""Name that diffusers gives the file of a network's weights."""


def convolution(sides: int, before: int, after: int, stride: int = 1, size: int = 3) -> nn.Module:
    """Return a new convolution of 3 a side, or of 1; of no sides, a linear layer."""
    if not sides:
        return nn.Linear(before, after)
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[sides - 1](before, after, size, stride=stride, padding=size // 2)


def sizes(shape: tuple[int, ...], times: int) -> list[tuple[int, ...]]:
    """Return the sides of x and after each halving; odd ones round up."""
    found = [shape[1:]]
    for _ in range(times):
        found.append(tuple(-(-side // 2) for side in found[-1]))
    return found


def resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return (n, c, *sides) with each of its sides' nearest values, (n, c, *size)."""
    return functional.interpolate(x, size, mode="nearest") if size else x


def enlarged(x: Tensor, spatial: Tensor | None, larger: Sequence[tuple[int, ...]], convolutions: nn.ModuleList) -> Tensor:
    """Return x (n, channels, *smallest) as (n, channels[0], *sides): at each size, from the smallest of `larger` up, it is
    enlarged and convolved. What has x's sides lies beside it, at that size."""
    for size, layer in zip(reversed(larger), reversed(convolutions), strict=True):
        x = resized(x, size)
        if spatial is not None:
            x = torch.cat([x, resized(spatial.to(x.dtype), size)], 1)
        x = functional.silu(layer(x))
    return x


class Encoder(nn.Module):
    """Network of convolutions of stride 2, then a linear layer: from (n, *shape) to (n, outputs). What it is given of x's
    sides lies beside x; a vector is added to the first convolution, as if it lay beside each pixel."""

    def __init__(
        self, conditions: Mapping[str, Modality], shape: tuple[int, ...], channels: Sequence[int], outputs: int
    ) -> None:
        super().__init__()
        self.conditioner = Conditioner(conditions, shape, WIDTH, TAKES)
        sides = len(shape) - 1
        pairs = itertools.pairwise([shape[0] + self.conditioner.spatial_channels, *channels])
        self.convolutions = nn.ModuleList([convolution(sides, before, after, stride=2) for before, after in pairs])
        self.linear = nn.Linear(channels[-1] * math.prod(sizes(shape, len(channels))[-1]), outputs)
        self.from_vector = nn.Linear(WIDTH, channels[0]) if "vector" in self.conditioner.gives else None

    def forward(self, x: Tensor, conditions: Conditions = NOTHING) -> Tensor:
        given = self.conditioner(conditions)
        if given.spatial is not None:
            x = torch.cat([x, given.spatial.to(x.dtype)], 1)
        for index, layer in enumerate(self.convolutions):
            x = layer(x)
            if self.from_vector is not None and not index:
                added = self.from_vector(given.vector)
                x = x + added.view(*added.shape, *(1 for _ in x.shape[2:]))
            x = functional.silu(x)
        outputs: Tensor = self.linear(x.flatten(1))
        return outputs


class Decoder(nn.Module):
    """Network back from (n, latent_dim) to (n, *shape). Enlarging and convolving leaves no checkerboard, and fits any size.
    A vector that it is given lies beside the latents; what has x's sides lies beside each level, at that level's size."""

    def __init__(
        self, conditions: Mapping[str, Modality], shape: tuple[int, ...], channels: Sequence[int], latent_dim: int
    ) -> None:
        super().__init__()
        self.conditioner = Conditioner(conditions, shape, WIDTH, TAKES)
        sides, planes = len(shape) - 1, self.conditioner.spatial_channels
        *self.larger, self.smallest = sizes(shape, len(channels))
        numbers = latent_dim + (WIDTH if "vector" in self.conditioner.gives else 0)
        self.linear = nn.Linear(numbers, channels[-1] * math.prod(self.smallest))
        pairs = itertools.pairwise([channels[0], *channels])
        self.convolutions = nn.ModuleList([convolution(sides, after + planes, before) for before, after in pairs])
        self.last = convolution(sides, channels[0], shape[0])

    def forward(self, latents: Tensor, conditions: Conditions = NOTHING) -> Tensor:
        given = self.conditioner(conditions)
        if given.vector is not None:
            latents = torch.cat([latents, given.vector.to(latents.dtype)], 1)
        x = functional.silu(self.linear(latents)).view(len(latents), -1, *self.smallest)
        outputs: Tensor = self.last(enlarged(x, given.spatial, self.larger, self.convolutions))
        return outputs


# diffusers' AutoencoderKL, in the same two parts


class InTurn(nn.Sequential):
    """Networks one after another, of a model that is given nothing."""

    def forward(self, x: Tensor, conditions: Conditions = NOTHING) -> Tensor:
        for network in self:
            x = network(x)
        return x


def kl_networks(shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Return the encoder, (n, c, h, w) to (n, 2 latent_channels, h', w'), and the decoder of a new `AutoencoderKL`."""
    kl = _autoencoder_kl(shape, options)
    return InTurn(kl.encoder, kl.quant_conv), InTurn(kl.post_quant_conv, kl.decoder)


def save_kl(encoder: Any, decoder: Any, shape: tuple[int, ...], options: Mapping[str, Any], path: Path) -> None:
    """Write the folder that `AutoencoderKL.from_pretrained` opens: what its `save_pretrained` writes, at less cost."""
    kl = _put_together(encoder, decoder, shape, options)
    kl.save_config(path)
    save_tensors(kl.state_dict(), path / WEIGHTS, format="pt")


def load_kl(encoder: Any, decoder: Any, shape: tuple[int, ...], options: Mapping[str, Any], path: Path) -> None:
    """
    Raises:
        CheckpointError: the folder's weights don't fit.
    """
    kl = _put_together(encoder, decoder, shape, options)
    load_strictly(kl, path / WEIGHTS)


def _put_together(encoder: Any, decoder: Any, shape: tuple[int, ...], options: Mapping[str, Any]) -> Any:
    with torch.device("meta"):  # a shell: every weight it has is the networks' own
        kl = _autoencoder_kl(shape, options)
    kl.encoder, kl.quant_conv = encoder
    kl.post_quant_conv, kl.decoder = decoder
    return kl


def _autoencoder_kl(shape: tuple[int, ...], options: Mapping[str, Any]) -> Any:
    from diffusers import AutoencoderKL

    network: Any = AutoencoderKL
    levels = len(options["block_out_channels"])
    return network(
        in_channels=shape[0],
        out_channels=shape[0],
        sample_size=max(shape[1:]),
        scaling_factor=1.0,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **options,
    )
