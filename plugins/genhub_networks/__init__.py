"""Networks that any family can use: for images, signals, volumes and vectors."""

from genhub_networks.dit import DiT
from genhub_networks.mlp import MLP
from genhub_networks.unet import UNet
from genhub_networks.unet1d import UNet1d

__all__ = ["MLP", "DiT", "UNet", "UNet1d"]
