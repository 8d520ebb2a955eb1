"""Autoencoders, the vanilla and the variational one."""

from genhub_vae.autoencoder import Autoencoder
from genhub_vae.vae import VAE

__all__ = ["VAE", "Autoencoder"]
