"""Conditional generative adversarial networks (Mirza & Osindero 2014, arXiv:1411.1784): the GAN's game, played by networks
that both know the label. The projection discriminator is Miyato & Koyama's (2018, arXiv:1802.05637)."""

from __future__ import annotations

from genhub_gan.config import ConditionalGANConfig
from genhub_gan.gan import AdversarialModel
from genhub_gan.networks import Discriminator, Generator


class ConditionalGAN(AdversarialModel):
    """A GAN that draws what a label asks for: fakes are made and judged by the labels of the batch."""

    Config = ConditionalGANConfig
    config: ConditionalGANConfig
    conditions = ("labels",)

    def build(self) -> tuple[Generator, Discriminator]:
        config, shape = self.config, self.sample_shape
        g, d = config.generator, config.discriminator
        labels = config.num_classes or 0, config.conditioning
        generator = Generator(shape, config.latent_dim, g.widths(shape), g.blocks_per_level, *labels)
        return generator, Discriminator(shape, d.widths(shape), d.blocks_per_level, *labels)
