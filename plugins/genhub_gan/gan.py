"""Generative adversarial networks (Goodfellow et al. 2014, arXiv:1406.2661): a generator of x, and a discriminator that
tells it from real ones, each trained against the other."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from genhub import Batch, Conditions, GenerativeModel, Generators, Phase, RecipeError, randn
from genhub_gan.augment import AdaptiveAugment
from genhub_gan.config import GANConfig, Threshold
from genhub_gan.losses import discriminator_loss, generator_loss, one_centred, zero_centred
from genhub_gan.networks import Discriminator, Generator


class AdversarialModel(GenerativeModel):
    """Base of both GANs: the game and its sampler, given whatever `conditions` name. Each network has a Conditioner of its
    own."""

    Config: ClassVar[type[GANConfig]] = GANConfig
    config: GANConfig

    def __init__(self, config: GANConfig) -> None:
        super().__init__(config)
        given, shape, g, d = self.conditions, self.shape, config.generator, config.discriminator
        self.generator = Generator(given, shape, config.latent_dim, g, config.conditioning)
        self.discriminator = Discriminator(given, shape, d, config.conditioning)
        self.augment = AdaptiveAugment(config.augment) if config.augment else None
        if self.augment and self.discriminator.conditioner.spatial_channels:
            raise RecipeError(
                "model.augment: moves x and not the images beside it that the discriminator is given; leave it out, or "
                "take them out of model.conditions"
            )

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
        where the discriminator can't tell, 1 where it always can. "augment_p" is the probability of a change, of what it is
        shown.
        """
        given = batch.conditions
        x, fakes = self.shown(batch.x), self.shown(self.fakes(batch.x, given).detach())
        real, fake = self.discriminator(x, given).float(), self.discriminator(fakes, given).float()
        loss = discriminator_loss(self.config.loss, real, fake)
        losses = {"loss": loss, "real": real.mean(), "fake": fake.mean(), "told_apart": (real > fake).float().mean()}
        if self.augment:
            losses["augment_p"] = self.augment.p.clone()
            if self.training:
                self.augment.see(real, fake)
        if not self.is_lazy and self.config.used_penalty != "none":
            penalty = self.penalties(x, fakes, given)
            losses |= penalty | {"adversarial": loss, "loss": loss + penalty["loss"]}
        return losses

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the generator's loss, for being taken for real.

        "spread" is the standard deviation of generated numbers over that of real ones, at best about 1; a generator that
        draws the same x whatever the noise has 0.
        """
        x, given = batch.x, batch.conditions
        fakes = self.fakes(x, given)
        fake = self.discriminator(self.shown(fakes), given).float()
        real = self.discriminator(self.shown(x), given).float() if self.config.loss == "relativistic" else fake
        spread = fakes.detach().float().std(0).mean() / x.std(0).mean().clamp(min=1e-6)
        return {"loss": generator_loss(self.config.loss, real, fake), "fake": fake.mean(), "spread": spread}

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """Return the lazy penalty: every `penalty_interval` steps, and that many times as heavy."""
        x, given = batch.x, batch.conditions
        penalty = self.penalties(self.shown(x), self.shown(self.fakes(x, given)), given)
        return penalty | {"loss": self.config.penalty_interval * penalty["loss"]}

    def penalties(self, x: Tensor, fakes: Tensor, given: Conditions) -> dict[str, Tensor]:
        """Return the weighted penalty as "loss", and its parts, in float32 whatever the precision around it."""

        def critic(points: Tensor) -> Tensor:
            logits: Tensor = self.discriminator.forward(points, given)  # as it is: compiled, it has no second derivative
            return logits

        weight = self.config.used_weight
        with torch.autocast(x.device.type, enabled=False):
            x, fakes = x.float(), fakes.detach().float()
            match self.config.used_penalty:
                case "gp":
                    gp = one_centred(critic, x, fakes)
                    return {"loss": weight * gp, "gp": gp}
                case "r1_r2":
                    r1, r2 = zero_centred(critic, x), zero_centred(critic, fakes)
                    return {"loss": weight / 2 * (r1 + r2), "r1": r1, "r2": r2}
            r1 = zero_centred(critic, x)
            return {"loss": weight / 2 * r1, "r1": r1}

    def shown(self, x: Tensor) -> Tensor:
        """Return x (n, *shape) as the discriminator sees it: augmented, where the config says so."""
        if self.augment is None:
            return x
        changed: Tensor = self.augment(x)
        return changed

    def after_update(self, step: int) -> None:
        if self.augment:
            self.augment.adapt(step)

    def fakes(self, x: Tensor, given: Conditions) -> Tensor:
        """Return as many generated x (n, *shape) as there are real ones, with the same conditions."""
        noise = torch.randn(len(x), self.config.latent_dim, device=x.device)
        fakes: Tensor = self.generator(noise, given)
        return fakes

    # Sampling

    def sample(
        self,
        n: int,
        *,
        conditions: Conditions | None = None,
        generator: Generators = None,
        truncation: Threshold | None = None,
    ) -> Tensor:
        """Draw n elements.

        Args:
            truncation: draw z from a normal cut off at +-truncation (Brock et al. 2019): below 2 or so, they are more
                typical and less varied. Left out: not cut off.
        """
        given = self.conditions_of(n, conditions)
        noise = randn((n, self.config.latent_dim), generator, self.device)
        if truncation is not None:
            noise = truncated(noise, truncation)
        x: Tensor = self.generator(noise, given).float()
        bounds = self.modality.bounds
        return x.clamp(*bounds) if bounds else x


def truncated(noise: Tensor, threshold: float) -> Tensor:
    """Return N(0, 1) noise with each number moved to the same quantile of the normal cut off at +-threshold."""
    noise = noise.double()
    bound = torch.special.ndtr(torch.tensor(threshold, dtype=torch.float64, device=noise.device))
    share = torch.lerp(1 - bound, bound, torch.special.ndtr(noise))
    moved: Tensor = torch.special.ndtri(share)
    return moved.clamp(-threshold, threshold).float()


class GAN(AdversarialModel):
    """A GAN of two residual networks, which need not be given anything."""
