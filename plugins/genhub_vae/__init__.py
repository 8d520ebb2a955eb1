"""Autoencoders: the vanilla one, the variational one, and the one of codes."""

from genhub_vae.autoencoder import Autoencoder
from genhub_vae.vae import VAE
from genhub_vae.vqvae import VQVAE

__all__ = ["VAE", "VQVAE", "Autoencoder"]
