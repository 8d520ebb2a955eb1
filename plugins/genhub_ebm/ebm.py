"""An energy-based model: p(x) = exp(-E(x)) / Z, with E any network and nobody knowing Z. Contrastive divergence lowers E at
real x and raises it where chains of Langevin dynamics have gone (Du & Mordatch 2019, arXiv:1903.08689).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genhub import (
    Batch,
    Conditions,
    Generators,
    Given,
    NonNegative,
    Phase,
    guided,
    randn,
)
from genhub_ebm.config import EBMConfig, Positive, Steps
from genhub_ebm.field import FieldModel
from genhub_ebm.gradients import gradient
from genhub_ebm.replay import Replay


class EBM(FieldModel):
    """An energy that is low at real x and high elsewhere; chains that roll down it with noise draw."""

    Config = EBMConfig
    config: EBMConfig

    def __init__(self, config: EBMConfig) -> None:
        super().__init__(config, out_channels=1)
        self.replay = Replay(self.shape, self.conditions, config.replay_size)

    def phases(self) -> list[Phase]:
        return [Phase("energy", self.loss, trains=self.trained)]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return f(x+) - f(x-) + energy_weight (f(x+)^2 + f(x-)^2) of real x+ and drawn x-, where f is the part of E that is
        learnt: means over the batch. Chains go on from where the last steps left them.

        Logged apart: `real` and `drawn`, the mean energies. Their difference stays near 0; where it runs away, so does E.
        """
        chosen, drawn, conditions = self.replay.draw(
            self.clip(torch.randn_like(batch.x)), batch.conditions, self.config.restart
        )
        given = self.conditioner(conditions)
        drawn = self.chain(drawn, given.each(torch.detach), self.config.chain_steps, torch.randn_like)
        if self.training:
            self.replay.keep(chosen, drawn, conditions)
        noisy = self.clip(batch.x + self.config.data_noise * torch.randn_like(batch.x))
        real, fake = self.learnt(noisy, self.conditioner(batch.conditions)), self.learnt(drawn, given)
        contrast = real.mean() - fake.mean()
        squares = real.square().mean() + fake.square().mean()
        return {"loss": contrast + self.config.energy_weight * squares, "real": real.mean(), "drawn": fake.mean()}

    def learnt(self, x: Tensor, given: Given, nothing: Given | None = None, guidance_scale: float = 1.0) -> Tensor:
        """Return f(x), (n,) float32 in any precision: the mean of what the network has for each place of x."""
        x = x.flatten(1) if self.config.flatten else x
        return guided(self.network, x, None, given, nothing or given, guidance_scale).float().flatten(1).mean(1)

    def energies(self, x: Tensor, given: Given, nothing: Given | None = None, guidance_scale: float = 1.0) -> Tensor:
        """Return E(x), (n,): f(x), and where x has no bounds |x|^2 / 2, without which chains would wander off for good."""
        learnt = self.learnt(x, given, nothing, guidance_scale)
        return learnt if self.modality.bounds else learnt + 0.5 * x.square().flatten(1).sum(1)

    def chain(
        self, x: Tensor, given: Given, num_steps: int, noise: Callable[[Tensor], Tensor], step_size: float | None = None,
        noise_std: float | None = None, nothing: Given | None = None, guidance_scale: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Return where Langevin dynamics leads from x (n, *shape): x' = x - step_size dE/dx + noise_std noise.

        Args:
            noise: function that draws standard normal noise like x.
        """
        langevin = self.config.langevin
        size = langevin.step_size if step_size is None else step_size
        std = langevin.noise_std if noise_std is None else noise_std
        std = math.sqrt(2 * size) if std is None else std
        for _ in range(num_steps):
            slope = gradient(lambda x: self.energies(x, given, nothing, guidance_scale), x)
            x = self.clip(x - size * slope + std * noise(x))
        return x

    def clip(self, x: Tensor) -> Tensor:
        return x.clamp(*self.modality.bounds) if self.modality.bounds else x

    def sample(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None,
        num_inference_steps: Steps | None = None, step_size: Positive | None = None,
        noise_std: NonNegative | None = None, guidance_scale: NonNegative | None = None,
    ) -> Tensor:  # fmt: skip
        """Let chains roll from noise.

        Args:
            num_inference_steps: steps of Langevin dynamics.
            step_size: of a step down the energy.
            noise_std: standard deviation of a step's noise; left out: the config's, or sqrt(2 step_size).
            guidance_scale: for a model with conditions; 1 is the conditions alone.
        """
        sampling = self.config.sampling
        scale = sampling.guidance_scale if guidance_scale is None else guidance_scale
        with torch.inference_mode(False), torch.no_grad():  # the energy has to be differentiated by x
            given = self.conditioner(self.conditions_of(n, conditions).each(torch.clone))
            nothing = self.conditioner(Conditions.nothing(self.conditions, n, self.device))
            start = self.clip(randn((n, *self.shape), generator, self.device))
            return self.chain(
                start, given, num_inference_steps or sampling.num_inference_steps,
                lambda x: randn(tuple(x.shape), generator, x.device), step_size, noise_std, nothing,
                scale if self.conditions else 1.0,
            )  # fmt: skip

    # The capability `Energy`

    def energy(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return (n,) E(x), which is -log p(x) but for a constant."""
        return self.energies(x, self.conditioner(self.conditions_of(len(x), conditions)))
