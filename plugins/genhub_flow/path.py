"""Straight paths between data and noise (Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003).

Notation: s in [0, 1] is the share of noise, x_s = (1 - s) x + s noise, and the path's velocity is its derivative by s,
noise - x, as in diffusers. The papers' time is 1 - s, their velocity x - noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genhub import Conditioner, GenerativeModel, Generators, load_strictly, randn, save_tensors
from genhub_flow.config import PathConfig, T

UNET = "unet"
"""Name of the network that is diffusers' U-Net, and of its folder in a model folder."""
EDM = (-1.2, 1.2)
"""Mean and deviation of ln sigma in Karras et al. 2022; sigma = s / (1 - s), so of log(s / (1 - s))."""


def mix(x: Tensor, noise: Tensor, s: Tensor) -> Tensor:
    """Return x_s for x, noise (n, *shape) and s (n,)."""
    return torch.lerp(x, noise, along(s, x))


def along(s: Tensor, x: Tensor) -> Tensor:
    """Return s (n,) as (n, 1, ...), to be multiplied with x (n, ...)."""
    return s.view(-1, *[1] * (x.ndim - 1))


class StraightPath(GenerativeModel):
    """A model with one network of x_s and times, which has seen data mixed with noise along straight lines."""

    config: PathConfig
    num_train_timesteps = T

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        network = config.network
        assert network is not None  # the Config names one once it knows the data
        self.conditioner = Conditioner(self.conditions, self.shape, network.width, network.takes)
        self.embeds = bool(self.conditioner.state_dict())  # a label alone is embedded by the U-Net itself
        self.network = network.build(self.shape, self.conditioner)

    @property
    def trained(self) -> tuple[str, ...]:
        """The networks that have weights."""
        return ("network", "conditioner") if self.embeds else ("network",)

    def times(self, n: int) -> Tensor:
        """Return shares of noise s (n,) to train on, drawn by the config's density."""
        if self.config.time_density == "uniform":
            return torch.rand(n, device=self.device)
        location, scale = EDM if self.config.time_density == "edm" else (self.config.time_location, self.config.time_scale)
        return torch.sigmoid(location + scale * torch.randn(n, device=self.device))

    def noise(self, n: int, generator: Generators) -> Tensor:
        """Return where n drawings start, (n, *shape)."""
        return randn((n, *self.shape), generator, self.device)

    def clip(self, x: Tensor) -> Tensor:
        return x if self.modality.bounds is None else x.clamp(*self.modality.bounds)

    # Of the capability `Denoiser`. Its level k counts from 0, nearly clean, to T - 1, pure noise: s = (k + 1) / T.

    def add_noise(self, x: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_s for x (n, *shape) at levels (n,)."""
        return mix(x, noise, (timesteps + 1) / T)

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """Return ((1 - s) / s)^2 at levels (n,); 0 at the last."""
        return (T / (timesteps + 1) - 1).square()

    # Folders: unet/ opens with diffusers' UNet2DModel.from_pretrained

    def save_networks(self, path: Path) -> None:
        self.network.save(path / self._network_folder)
        if self.embeds:
            save_tensors(self.conditioner.state_dict(), path / "conditioner.safetensors")

    def load_networks(self, path: Path) -> None:
        self.network.load(path / self._network_folder)
        if self.embeds:
            load_strictly(self.conditioner, path / "conditioner.safetensors")

    @property
    def _network_folder(self) -> str:
        assert self.config.network is not None
        return UNET if self.config.network.name == UNET else "network"
