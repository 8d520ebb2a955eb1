"""The autoencoder: an encoder to a point in the latent space, a decoder back (Hinton & Salakhutdinov 2006)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genhub import Batch, Conditions, GenerativeModel, Generators, Phase, randn
from genhub_vae.adversary import PatchDiscriminator
from genhub_vae.config import AutoencoderConfig
from genhub_vae.networks import Decoder, Encoder


class Autoencoder(GenerativeModel):
    """A model that learns to copy x through a narrow place, and has no prior: nothing makes its latents follow a known
    distribution, so it does not know where to draw one from.

    `sample` makes do with a Gaussian fitted to the training latents. Where that Gaussian has mass and the latents have
    none, the decoder draws what it was never trained on: smears between digits. The VAE is the answer to this.

    Notation: z = encoder(x, y), decoder(z, y) the reconstruction, y what the model is given. The Gaussian is of all latents:
    what is asked for, the decoder alone follows.
    """

    Config = AutoencoderConfig
    config: AutoencoderConfig

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config)
        size = config.latent_dim
        self.encoder = Encoder(self.conditions, self.shape, config.widths, size)
        self.decoder = Decoder(self.conditions, self.shape, config.widths, size)
        self.discriminator = PatchDiscriminator(config.adversarial, self.shape) if config.adversarial else None
        self.latent_mean = nn.Buffer(torch.zeros(size))
        self.latent_covariance = nn.Buffer(torch.eye(size))
        self.batches = nn.Buffer(torch.zeros((), dtype=torch.int64))  # that the Gaussian has seen

    def phases(self) -> list[Phase]:
        phases = [Phase("reconstruct", self.loss, trains=("encoder", "decoder"))]
        if self.discriminator:
            phases.append(Phase("discriminator", self.discriminator_loss, trains=("discriminator",), ema=False))
        return phases

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return |x - decoder(encoder(x))|^2, summed over an element, averaged over the batch; with what a discriminator
        holds against it, once that has begun."""
        latents = self.encoder(batch.x, batch.conditions)
        output = self.decoder(latents, batch.conditions).float()
        squares = (output - batch.x).square()
        error = squares.flatten(1).sum(1)
        if self.training:
            self.fit_gaussian(latents.detach().float())
        losses = {"loss": error.mean(), "mse": squares.mean()}
        if self.discriminator and self.discriminator.has_begun(batch.step):
            held = self.discriminator.held_against(batch.x, self.clipped(output), error, output)
            losses |= held | {"loss": losses["loss"] + held["loss"]}
        return losses

    def discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the discriminator's loss, for telling x from what is decoded."""
        assert self.discriminator
        with torch.no_grad():
            decoded = self.clipped(self.decoder(self.encoder(batch.x, batch.conditions), batch.conditions))
        return self.discriminator.loss(batch.x, decoded, batch.step)

    @torch.no_grad()
    def fit_gaussian(self, latents: Tensor) -> None:
        """Merge a batch's mean and covariance into the buffers (Chan et al. 1979). latents: (b, latent_dim).

        The first `latent_window` batches weigh the same; after that, old ones fade, as the encoder moves on.
        No difference of large squares is taken, and a sum of covariances stays one.
        """
        weight = 1 / (self.batches + 1).clamp(max=self.config.latent_window)
        centred, shift = latents - latents.mean(0), latents.mean(0) - self.latent_mean
        with torch.autocast(latents.device.type, enabled=False):
            covariance = centred.T @ centred / len(latents)
        between = weight * (1 - weight) * torch.outer(shift, shift)
        self.latent_covariance.copy_(torch.lerp(self.latent_covariance, covariance, weight) + between)
        self.latent_mean.add_(weight * shift)
        self.batches.add_(1)

    def sample(self, n: int, *, conditions: Conditions | None = None, generator: Generators = None) -> Tensor:
        """Decode n draws from the Gaussian fitted to the training latents; see the class for why they are poor."""
        values, vectors = torch.linalg.eigh(self.latent_covariance.double().cpu())
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # rounding may leave an eigenvalue just below 0
        noise = randn((n, self.config.latent_dim), generator, self.device)
        return self.decode(self.latent_mean + noise @ root.to(noise), conditions)

    # The capability `Autoencoder`

    def encode(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return z (n, latent_dim) of x (n, *shape)."""
        latents: Tensor = self.encoder(x, self.conditions_of(len(x), conditions))
        return latents

    def decode(self, latents: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the x (n, *shape) of z (n, latent_dim), within its modality's bounds."""
        return self.clipped(self.decoder(latents, self.conditions_of(len(latents), conditions)))

    def clipped(self, x: Tensor) -> Tensor:
        bounds = self.modality.bounds
        return x.clamp(*bounds) if bounds else x
