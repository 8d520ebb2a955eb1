"""Networks of both autoencoders, for images of any (c, h, w)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genhub import load_strictly


def sizes(sample_shape: tuple[int, int, int], times: int) -> list[tuple[int, int]]:
    """Return (height, width) of the image and after each halving; odd sides round up."""
    found = [sample_shape[1:]]
    for _ in range(times):
        height, width = found[-1]
        found.append((-(-height // 2), -(-width // 2)))
    return found


class Encoder(nn.Module):
    """Network of convolutions of stride 2, then a linear layer: from (n, c, h, w) to (n, outputs)."""

    def __init__(self, sample_shape: tuple[int, int, int], channels: Sequence[int], outputs: int) -> None:
        super().__init__()
        pairs = itertools.pairwise([sample_shape[0], *channels])
        self.convolutions = nn.ModuleList([nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairs])
        height, width = sizes(sample_shape, len(channels))[-1]
        self.linear = nn.Linear(channels[-1] * height * width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        for convolution in self.convolutions:
            images = functional.silu(convolution(images))
        outputs: Tensor = self.linear(images.flatten(1))
        return outputs


class Decoder(nn.Module):
    """Network back from (n, latent_dim) to (n, c, h, w). Enlarging and convolving leaves no checkerboard, and fits any
    size."""

    def __init__(self, sample_shape: tuple[int, int, int], channels: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        *self.larger, self.smallest = sizes(sample_shape, len(channels))
        self.linear = nn.Linear(latent_dim, channels[-1] * self.smallest[0] * self.smallest[1])
        pairs = itertools.pairwise([channels[0], *channels])
        self.convolutions = nn.ModuleList([nn.Conv2d(after, before, 3, padding=1) for before, after in pairs])
        self.last = nn.Conv2d(channels[0], sample_shape[0], 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        images = functional.silu(self.linear(latents)).view(len(latents), -1, *self.smallest)
        for size, convolution in zip(reversed(self.larger), reversed(self.convolutions), strict=True):
            images = functional.silu(convolution(functional.interpolate(images, size, mode="nearest")))
        outputs: Tensor = self.last(images)
        return outputs


# diffusers' AutoencoderKL, in the same two parts


def kl_networks(sample_shape: tuple[int, int, int], options: Mapping[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Return the encoder, (n, c, h, w) to (n, 2 latent_channels, h', w'), and the decoder of a new `AutoencoderKL`."""
    kl = _autoencoder_kl(sample_shape, options)
    return nn.Sequential(kl.encoder, kl.quant_conv), nn.Sequential(kl.post_quant_conv, kl.decoder)


def save_kl(encoder: Any, decoder: Any, sample_shape: tuple[int, int, int], options: Mapping[str, Any], path: Path) -> None:
    """Write the folder that `AutoencoderKL.from_pretrained` opens."""
    _put_together(encoder, decoder, sample_shape, options).save_pretrained(path)


def load_kl(encoder: Any, decoder: Any, sample_shape: tuple[int, int, int], options: Mapping[str, Any], path: Path) -> None:
    """
    Raises:
        CheckpointError: the folder's weights don't fit.
    """
    kl = _put_together(encoder, decoder, sample_shape, options)
    load_strictly(kl, path / "diffusion_pytorch_model.safetensors")


def _put_together(encoder: Any, decoder: Any, sample_shape: tuple[int, int, int], options: Mapping[str, Any]) -> Any:
    with torch.device("meta"):  # a shell: every weight it has is the networks' own
        kl = _autoencoder_kl(sample_shape, options)
    kl.encoder, kl.quant_conv = encoder
    kl.post_quant_conv, kl.decoder = decoder
    return kl


def _autoencoder_kl(sample_shape: tuple[int, int, int], options: Mapping[str, Any]) -> Any:
    from diffusers import AutoencoderKL

    network: Any = AutoencoderKL
    levels = len(options["block_out_channels"])
    return network(
        in_channels=sample_shape[0],
        out_channels=sample_shape[0],
        sample_size=max(sample_shape[1:]),
        scaling_factor=1.0,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **options,
    )
