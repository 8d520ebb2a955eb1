"""Generative adversarial networks (Goodfellow et al. 2014, arXiv:1406.2661): a generator of images, and a discriminator
that tells them from real ones, each trained against the other."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from genhub import Batch, GenerativeModel, Generators, Phase, randn
from genhub_gan.config import GANConfig, Threshold
from genhub_gan.losses import discriminator_loss, generator_loss, one_centred, zero_centred
from genhub_gan.networks import Discriminator, Generator


class AdversarialModel(GenerativeModel):
    """The game and its sampler, for whatever networks a model builds; with labels where `conditions` name them."""

    Config = GANConfig
    config: GANConfig

    def __init__(self, config: GANConfig) -> None:
        super().__init__(config)
        self.generator, self.discriminator = self.build()

    @abstractmethod
    def build(self) -> tuple[Generator, Discriminator]:
        """Return the two networks, for `self.config`."""

    # Training (algorithm 1)

    def phases(self) -> list[Phase]:
        config = self.config
        phases = [
            Phase("discriminator", self.discriminator_loss, trains=("discriminator",), ema=False),
            Phase("generator", self.generator_loss, trains=("generator",), interval=config.n_critic),
        ]
        if self.is_lazy:
            penalty = Phase("penalty", self.penalty, ("discriminator",), interval=config.penalty_interval, ema=False)
            phases.insert(1, penalty)
        return phases

    @property
    def is_lazy(self) -> bool:
        """Whether the penalty is a phase of its own."""
        return self.config.penalty_interval > 1 and self.config.used_penalty != "none"

    def discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the discriminator's loss, for telling x_r from x_f = G(z), with its penalty unless that is lazy.

        "real" and "fake" are mean logits C(x_r) and C(x_f); "told_apart" is the share of pairs with C(x_r) > C(x_f): 0.5
        where the discriminator can't tell, 1 where it always can.
        """
        images, labels = batch["images"], self.labels_of(batch)
        fakes = self.fakes(images, labels).detach()
        real, fake = self.discriminator(images, labels).float(), self.discriminator(fakes, labels).float()
        loss = discriminator_loss(self.config.loss, real, fake)
        losses = {"loss": loss, "real": real.mean(), "fake": fake.mean(), "told_apart": (real > fake).float().mean()}
        if not self.is_lazy and self.config.used_penalty != "none":
            penalty = self.penalties(images, fakes, labels)
            losses |= penalty | {"adversarial": loss, "loss": loss + penalty["loss"]}
        return losses

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the generator's loss, for being taken for real.

        "spread" is the standard deviation of generated pixels over that of real ones, at best about 1; a generator that
        draws the same image whatever the noise has 0.
        """
        images, labels = batch["images"], self.labels_of(batch)
        fakes = self.fakes(images, labels)
        fake = self.discriminator(fakes, labels).float()
        real = self.discriminator(images, labels).float() if self.config.loss == "relativistic" else fake
        spread = fakes.detach().float().std(0).mean() / images.std(0).mean().clamp(min=1e-6)
        return {"loss": generator_loss(self.config.loss, real, fake), "fake": fake.mean(), "spread": spread}

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """Return the lazy penalty: every `penalty_interval` steps, and that many times as heavy."""
        images, labels = batch["images"], self.labels_of(batch)
        penalty = self.penalties(images, self.fakes(images, labels), labels)
        return penalty | {"loss": self.config.penalty_interval * penalty["loss"]}

    def penalties(self, images: Tensor, fakes: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """Return the weighted penalty as "loss", and its parts, in float32 whatever the precision around it."""

        def critic(points: Tensor) -> Tensor:
            logits: Tensor = self.discriminator.forward(points, labels)  # as it is: compiled, it has no second derivative
            return logits

        weight = self.config.used_weight
        with torch.autocast(images.device.type, enabled=False):
            images, fakes = images.float(), fakes.detach().float()
            match self.config.used_penalty:
                case "gp":
                    gp = one_centred(critic, images, fakes)
                    return {"loss": weight * gp, "gp": gp}
                case "r1_r2":
                    r1, r2 = zero_centred(critic, images), zero_centred(critic, fakes)
                    return {"loss": weight / 2 * (r1 + r2), "r1": r1, "r2": r2}
            r1 = zero_centred(critic, images)
            return {"loss": weight / 2 * r1, "r1": r1}

    def fakes(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return as many generated images (n, c, h, w) as there are real ones, with the same labels."""
        noise = torch.randn(len(images), self.config.latent_dim, device=images.device)
        fakes: Tensor = self.generator(noise, labels)
        return fakes

    def labels_of(self, batch: Batch) -> Tensor | None:
        return batch["labels"] if "labels" in self.conditions else None

    # Sampling

    def sample(
        self, n: int, *, labels: Tensor | None = None, generator: Generators = None, truncation: Threshold | None = None
    ) -> Tensor:
        """Draw n images.

        Args:
            truncation: draw z from a normal cut off at +-truncation (Brock et al. 2019): below 2 or so, images are more
                typical and less varied. Left out: not cut off.
        """
        labels = self.check_labels(labels) if "labels" in self.conditions else None
        noise = randn((n, self.config.latent_dim), generator, self.device)
        if truncation is not None:
            noise = truncated(noise, truncation)
        images: Tensor = self.generator(noise, labels)
        return images.float().clamp(-1, 1)


def truncated(noise: Tensor, threshold: float) -> Tensor:
    """Return N(0, 1) noise with each number moved to the same quantile of the normal cut off at +-threshold."""
    noise = noise.double()
    bound = torch.special.ndtr(torch.tensor(threshold, dtype=torch.float64, device=noise.device))
    share = torch.lerp(1 - bound, bound, torch.special.ndtr(noise))
    moved: Tensor = torch.special.ndtri(share)
    return moved.clamp(-threshold, threshold).float()


class GAN(AdversarialModel):
    """An unconditional GAN; labels in the data are ignored."""

    def build(self) -> tuple[Generator, Discriminator]:
        config, shape = self.config, self.sample_shape
        g, d = config.generator, config.discriminator
        generator = Generator(shape, config.latent_dim, g.widths(shape), g.blocks_per_level)
        return generator, Discriminator(shape, d.widths(shape), d.blocks_per_level)
