"""The variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114), its relatives by option, and its likelihood."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genhub import Batch, Conditions, GenerativeModel, Generators, Phase, PositiveInt, load_strictly, randn, save_tensors
from genhub_vae.adversary import PatchDiscriminator
from genhub_vae.config import VAEConfig
from genhub_vae.likelihoods import LIKELIHOODS
from genhub_vae.networks import Decoder, Encoder, kl_networks, load_kl, save_kl

ACTIVE = 0.01
"""Variance of the posterior mean over the data above which a latent dimension is active (Burda et al. 2016)."""


class VAE(GenerativeModel):
    """A model of an encoder, from x to a distribution of latents, and a decoder, from a latent to one of x.

    Notation: z the latents, prior p(z) = N(0, I), posterior q(z|x) = N(mean, exp(log_variance)) from the encoder, likelihood
    p(x|z) from the decoder. Latents are (n, latent_dim), or (n, latent_dim, h, w) for network: kl. Given conditions y, it is
    q(z|x, y) and p(x|z, y), with the same prior (Sohn et al. 2015).
    """

    Config = VAEConfig
    config: VAEConfig

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config)
        self.encoder: nn.Module
        self.decoder: nn.Module
        if config.network == "kl":
            self.encoder, self.decoder = kl_networks(self.shape, self._kl_options)
        else:
            self.encoder = Encoder(self.conditions, self.shape, config.widths, 2 * config.latent_dim)
            self.decoder = Decoder(self.conditions, self.shape, config.widths, config.latent_dim)
        self.likelihood = LIKELIHOODS[config.likelihood](self.modality)
        self.discriminator = PatchDiscriminator(config.adversarial, self.shape) if config.adversarial else None
        self.batches = nn.Buffer(torch.zeros((), dtype=torch.int64))  # trained on, for the KL term's warm-up

    # Training

    def phases(self) -> list[Phase]:
        phases = [Phase("elbo", self.loss, trains=("encoder", "decoder", "likelihood"))]
        if self.discriminator:
            phases.append(Phase("discriminator", self.discriminator_loss, trains=("discriminator",), ema=False))
        return phases

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return -E_q[log p(x|z)] + beta KL(q(z|x) || p(z)), eq. 10 with one draw of z: nats, summed over an element's
        dimensions, averaged over the batch; with what a discriminator holds against it, once that has begun.

        Logged apart: `reconstruction`, `kl` (whatever beta and free_bits make of it), and `active_units`, the number of
        latent dimensions that say anything about x: when it falls to 0, the posterior has collapsed.
        """
        x, given = batch.x, batch.conditions
        mean, log_variance = self.posterior(x, given)
        output = self.decoder(drawn_from(mean, log_variance), given).float()
        errors = -self.likelihood.log_prob(x, output)
        reconstruction = errors.mean()
        kl = gaussian_kl(mean, log_variance).flatten(1).mean(0)  # (dimensions,)
        beta, total = self.beta(), kl.sum()
        paid = kl.clamp(min=self.config.free_bits).sum() if self.config.free_bits else total
        losses = {
            "loss": reconstruction + beta * paid,
            "reconstruction": reconstruction,
            "kl": total,
            "active_units": (mean.detach().flatten(1).var(0, correction=0) > ACTIVE).sum(),
        }
        if self.discriminator and self.discriminator.has_begun(batch.step):
            held = self.discriminator.held_against(x, self.likelihood.mean(output), errors, output)
            losses |= held | {"loss": losses["loss"] + held["loss"]}
        if isinstance(beta, Tensor):  # it warms up
            losses["beta"] = beta
            if self.training:
                self.batches.add_(1)
        return losses

    def discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the discriminator's loss, for telling x from the mean of p(x|z), z drawn from q(z|x)."""
        assert self.discriminator
        with torch.no_grad():
            latents = drawn_from(*self.posterior(batch.x, batch.conditions))
            decoded = self.likelihood.mean(self.decoder(latents, batch.conditions).float())
        return self.discriminator.loss(batch.x, decoded, batch.step)

    def posterior(self, x: Tensor, given: Conditions) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z|x), float32 in any precision of training."""
        mean, log_variance = self.encoder(x, given).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)  # diffusers' bounds

    def beta(self) -> Tensor | float:
        """Weight of the KL term at this step."""
        if not self.config.kl_warmup_steps:
            return self.config.beta
        return self.config.beta * (self.batches.float() / self.config.kl_warmup_steps).clamp(max=1)

    # Sampling

    def sample(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None, observe: bool = False
    ) -> Tensor:
        """Draw z from the prior and decode it: the mean of p(x|z), a smooth image.

        Args:
            observe: draw x from p(x|z), number by number, as the model strictly says; noisy for wide likelihoods.
        """
        shape = self.latent_shape
        if not observe:
            return self.decode(randn((n, *shape), generator, self.device), conditions)
        size = math.prod(shape)
        noise = randn((n, size + math.prod(self.shape)), generator, self.device)
        output = self.decoder(noise[:, :size].view(n, *shape), self.conditions_of(n, conditions)).float()
        return self.likelihood.draw(output, noise[:, size:].view(n, *self.shape))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        if self.config.network == "conv":
            return (self.config.latent_dim,)
        scale = 2 ** (len(self.config.widths) - 1)
        return (self.config.latent_dim, *(side // scale for side in self.shape[1:]))

    # The capability `Autoencoder`

    def encode(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the posterior's mean (n, *latent_shape) for x (n, *shape)."""
        return self.posterior(x, self.conditions_of(len(x), conditions))[0]

    def decode(self, latents: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the mean of p(x|z), (n, *shape) within the modality's bounds, for latents (n, *latent_shape)."""
        given = self.conditions_of(len(latents), conditions)
        return self.likelihood.mean(self.decoder(latents, given).float())

    # The capability `Likelihood`

    def bits_per_dimension(
        self, batch: Batch, *, generator: Generators = None, importance_samples: PositiveInt = 1
    ) -> Tensor:
        """Return the bits (n,) a number of x, at least as many as -log2 p(x|y): the negative ELBO, or the tighter bound of
        Burda et al. 2016 for more importance samples.

        Of a modality with levels, such as 8-bit images, they are a probability's: a Gaussian gives each value its bin's
        mass. Else they are a density's in the column's own units, and may be below 0. With a Bernoulli likelihood they are
        the bits of the binarised image: a grey image has many more, so don't compare them with other models' figures.
        """
        masses = self.modality.levels is not None
        nats = -self.log_likelihood(batch.x, batch.conditions, generator, importance_samples, masses)
        if not masses:
            nats = nats + self.modality.log_scale
        return nats / (math.log(2) * batch.x[0].numel())

    @torch.no_grad()
    def log_likelihood(
        self, x: Tensor, given: Conditions, generator: Generators = None, importance_samples: int = 1, masses: bool = False
    ) -> Tensor:
        """Return nats (n,), a lower bound of log p(x) in expectation: log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x), z_i ~
        q(z|x), Burda et al. 2016, eq. 8. One sample makes it the ELBO. `masses`: of bins' masses, not densities."""
        mean, log_variance = self.posterior(x, given)
        log_prob = self.likelihood.log_mass if masses else self.likelihood.log_prob
        log_weights = []
        for _ in range(importance_samples):
            noise = randn(tuple(mean.shape), generator, x.device)
            latents = mean + torch.exp(0.5 * log_variance) * noise
            # log p(z) - log q(z|x); the constants cancel
            ratio = 0.5 * (noise.square() + log_variance - latents.square()).flatten(1).sum(1)
            log_weights.append(log_prob(x, self.decoder(latents, given).float()) + ratio)
        return torch.stack(log_weights).logsumexp(0) - math.log(importance_samples)

    # Folders

    def save_networks(self, path: Path) -> None:
        if self.config.network == "conv":
            return save_tensors(self.state_dict(), path / "model.safetensors")
        save_kl(self.encoder, self.decoder, self.shape, self._kl_options, path / "vae")
        save_tensors(self._rest().state_dict(), path / "model.safetensors")

    def load_networks(self, path: Path) -> None:
        if self.config.network == "conv":
            return load_strictly(self, path / "model.safetensors")
        load_kl(self.encoder, self.decoder, self.shape, self._kl_options, path / "vae")
        load_strictly(self._rest(), path / "model.safetensors")

    @property
    def _kl_options(self) -> dict[str, Any]:
        """Return the arguments of diffusers' `AutoencoderKL`."""
        config = self.config
        return {"block_out_channels": config.widths, "latent_channels": config.latent_dim} | config.kl.model_dump()

    def _rest(self) -> nn.Module:
        """Return a module of what the model has besides the networks, under the names it has here."""
        rest = nn.Module()
        rest.likelihood = self.likelihood
        rest.register_module("discriminator", self.discriminator)
        rest.batches = nn.Buffer(self.batches)  # moved, it is a plain tensor
        return rest


def drawn_from(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return a draw of N(mean, exp(log_variance)), by which gradients go back to both (section 2.4)."""
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, a number a dimension (appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
