"""The peers' own networks and losses as genhub models, so that peers.py can train the same ones in both loops."""

from __future__ import annotations

import torch
from peers import find_torchvision

from genhub import GenerativeModel, ModelConfig, Phase


class Lucidrains(GenerativeModel):
    """denoising-diffusion-pytorch's U-Net and loss, at its README's smallest setting."""

    class Config(ModelConfig):
        dim: int = 32

    def __init__(self, config):
        super().__init__(config)
        find_torchvision()
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet

        channels, size, _ = self.shape
        unet = Unet(dim=config.dim, dim_mults=(1, 2, 2), channels=channels)
        self.diffusion = GaussianDiffusion(unet, image_size=size, timesteps=1000)

    def phases(self):
        return [Phase("denoise", self.loss, trains=("diffusion",))]

    def loss(self, batch):
        return {"loss": self.diffusion((batch.x + 1) / 2)}

    def sample(self, n, *, conditions=None, generator=None):
        return 2 * self.diffusion.sample(n) - 1


class PythaeVAE(GenerativeModel):
    """pythae's VAE with its default MLPs: 784-512-16-512-784 for 28x28."""

    def __init__(self, config):
        super().__init__(config)
        from pythae.models import VAE, VAEConfig

        self.vae = VAE(VAEConfig(input_dim=tuple(self.shape), latent_dim=16))

    def phases(self):
        return [Phase("elbo", self.loss, trains=("vae",))]

    def loss(self, batch):
        return {"loss": self.vae({"data": (batch.x + 1) / 2}).loss}

    def sample(self, n, *, conditions=None, generator=None):
        return 2 * self.vae.decoder(torch.randn(n, 16)).reconstruction - 1


class TorchGAN(GenerativeModel):
    """torchgan's DCGAN networks and minimax losses."""

    def __init__(self, config):
        super().__init__(config)
        from torchgan.models import DCGANDiscriminator, DCGANGenerator

        self.generator = DCGANGenerator(**GENERATOR)
        self.discriminator = DCGANDiscriminator(**DISCRIMINATOR)

    def phases(self):
        return [Phase("discriminator", self.discriminator_loss, trains=("discriminator",), ema=False),
                Phase("generator", self.generator_loss, trains=("generator",))]  # fmt: skip

    def discriminator_loss(self, batch):
        from torchgan.losses import MinimaxDiscriminatorLoss

        images = batch.x
        fakes = self.generator(torch.randn(len(images), 100)).detach()
        return {"loss": MinimaxDiscriminatorLoss()(self.discriminator(images), self.discriminator(fakes))}

    def generator_loss(self, batch):
        from torchgan.losses import MinimaxGeneratorLoss

        return {"loss": MinimaxGeneratorLoss()(self.discriminator(self.generator(torch.randn(len(batch.x), 100))))}

    def sample(self, n, *, conditions=None, generator=None):
        return self.generator(torch.randn(n, 100))


GENERATOR = {"encoding_dims": 100, "out_size": 32, "out_channels": 1, "step_channels": 16}
DISCRIMINATOR = {"in_size": 32, "in_channels": 1, "step_channels": 16}
