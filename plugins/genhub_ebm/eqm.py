"""Equilibrium matching (Wang & Du 2025, arXiv:2510.02300): a field that leads from noise to data and is zero there, without
a time; following it down draws.

Notation: gamma in [0, 1] is the share of data, x_gamma = gamma x + (1 - gamma) noise. The field f is taught (noise - x)
c(gamma), the gradient of an energy that is low at data, and never told gamma.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genhub import (
    Batch,
    Conditions,
    Generators,
    Given,
    InputError,
    NonNegative,
    Phase,
    guided,
    randn,
)
from genhub_ebm.config import EqMConfig, Momentum, Positive, Steps
from genhub_ebm.field import FieldModel
from genhub_ebm.gradients import gradient


class EqM(FieldModel):
    """Learns the gradient of an energy whose equilibria are the data; gradient descent on it draws."""

    Config = EqMConfig
    config: EqMConfig

    def phases(self) -> list[Phase]:
        return [Phase("equilibrium", self.loss, trains=self.trained)]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return E |f(x_gamma) - (noise - x) c(gamma)|^2 over gamma uniform in [0, 1]: a mean over numbers."""
        gamma = torch.rand(len(batch), *[1] * (batch.x.ndim - 1), device=batch.x.device)
        noise = torch.randn_like(batch.x)
        mixed = torch.lerp(noise, batch.x, gamma)
        target = (noise - batch.x) * self.decay(gamma)
        given = self.conditioner(batch.conditions)
        return {"loss": (self.field(mixed, given, given, 1.0, learns=torch.is_grad_enabled()) - target).square().mean()}

    def decay(self, gamma: Tensor) -> Tensor:
        """Return c(gamma): 1 up to `decay_start`, then in a straight line to 0 at 1: the truncated decay."""
        return ((1 - gamma) / (1 - self.config.decay_start)).clamp(max=1)

    def field(self, x: Tensor, given: Given, nothing: Given, guidance_scale: float, learns: bool = False) -> Tensor:
        """Return f(x), like x (n, *shape), float32 in any precision of training.

        Args:
            learns: whether the result is to be differentiated by the weights.
        """
        if self.config.energy == "none":
            return guided(self.network, x, None, given, nothing, guidance_scale).float()
        return gradient(lambda x: self._dot(x, given, nothing, guidance_scale), x, learns)

    def _dot(self, x: Tensor, given: Given, nothing: Given, guidance_scale: float) -> Tensor:
        """Return (n,) x . f(x)."""
        found = guided(
            self.network.forward, x, None, given, nothing, guidance_scale
        )  # compiled, it has no second derivative
        return (x * found.float()).flatten(1).sum(1)

    def sample(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None,
        num_inference_steps: Steps | None = None, step_size: Positive | None = None, momentum: Momentum | None = None,
        guidance_scale: NonNegative | None = None,
    ) -> Tensor:  # fmt: skip
        """Follow the field down from noise.

        Args:
            num_inference_steps: an evaluation of the network each.
            step_size: length of a step; about 1 in all leads from noise to data.
            momentum: Nesterov's, 0 for plain gradient descent.
            guidance_scale: for a model with conditions; 1 is the conditions alone.
        """
        sampling = self.config.sampling
        size = sampling.step_size if step_size is None else step_size
        share = sampling.momentum if momentum is None else momentum
        scale = sampling.guidance_scale if guidance_scale is None else guidance_scale
        with torch.inference_mode(False), torch.no_grad():  # an energy has to be differentiated by x
            given = self.conditioner(self.conditions_of(n, conditions).each(torch.clone))
            nothing = self.conditioner(Conditions.nothing(self.conditions, n, self.device))
            x = before = randn((n, *self.shape), generator, self.device)
            for _ in range(num_inference_steps or sampling.num_inference_steps):
                ahead = x + share * (x - before)
                before, x = x, ahead - size * self.field(ahead, given, nothing, scale if self.conditions else 1.0)
        return x.clamp(*self.modality.bounds) if self.modality.bounds else x

    # The capability `Energy`

    def energy(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return (n,) x . f(x).

        Raises:
            InputError: the model learnt a field alone.
        """
        if self.config.energy == "none":
            raise InputError("energy: this model learnt a field that is no energy's; train one with model.energy: dot")
        given = self.conditioner(self.conditions_of(len(x), conditions))
        return self._dot(x, given, given, 1.0)
