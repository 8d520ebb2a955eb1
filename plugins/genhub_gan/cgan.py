"""Conditional generative adversarial networks (Mirza & Osindero 2014, arXiv:1411.1784): the GAN's game, played by networks
that both know a label, a number or an image. The projection discriminator is Miyato & Koyama's (2018, arXiv:1802.05637)."""

from __future__ import annotations

from genhub_gan.config import ConditionalGANConfig
from genhub_gan.gan import AdversarialModel


class ConditionalGAN(AdversarialModel):
    """A GAN that draws what it is asked for: fakes are made and judged by the conditions of the batch."""

    Config = ConditionalGANConfig
    config: ConditionalGANConfig
