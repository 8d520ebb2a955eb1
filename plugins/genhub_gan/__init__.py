"""Generative adversarial networks."""

from genhub_gan.cgan import ConditionalGAN
from genhub_gan.gan import GAN

__all__ = ["GAN", "ConditionalGAN"]
