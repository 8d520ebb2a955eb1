"""Losses of the adversarial game as functions of logits, and the penalties that keep the discriminator smooth.

Notation: C(x) the discriminator's logit, D(x) = sigmoid(C(x)) the probability that x is real, x_r real x, x_f = G(z)
fake ones. All losses are minimised; softplus(-a) = -log sigmoid(a).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from genhub_gan.config import LossName

Critic = Callable[[Tensor], Tensor]
"""Function of x (n, *shape) that returns logits (n,)."""


def discriminator_loss(name: LossName, real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss, a scalar, for logits C(x_r) and C(x_f), each (n,)."""
    match name:
        case "minimax" | "non_saturating":  # Goodfellow et al. 2014, eq. 1: -(E log D(x_r) + E log(1 - D(x_f)))
            return softplus(-real).mean() + softplus(fake).mean()
        case "hinge":  # Lim & Ye 2017
            return relu(1 - real).mean() + relu(1 + fake).mean()
        case "wasserstein":  # Arjovsky et al. 2017, eq. 2: -(E C(x_r) - E C(x_f))
            return fake.mean() - real.mean()
        case "relativistic":  # Huang et al. 2024, eq. 2 with f(t) = -log(1 + exp(-t)): real should look more real than fake
            return softplus(fake - real).mean()


def generator_loss(name: LossName, real: Tensor, fake: Tensor) -> Tensor:
    """Return the generator's loss, a scalar, for logits C(x_f), and C(x_r) where the loss is relativistic; each (n,)."""
    match name:
        case "minimax":  # Goodfellow et al. 2014, eq. 1: E log(1 - D(x_f)), whose gradient vanishes where D is sure
            return -softplus(fake).mean()
        case "non_saturating":  # section 3: -E log D(x_f), the same fixed point with a gradient that does not
            return softplus(-fake).mean()
        case "hinge" | "wasserstein":
            return -fake.mean()
        case "relativistic":
            return softplus(real - fake).mean()


def squared_gradient(critic: Critic, x: Tensor) -> Tensor:
    """Return |dC/dx|^2 (n,) at x (n, *shape), summed over its numbers; differentiable in the critic's weights."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def zero_centred(critic: Critic, x: Tensor) -> Tensor:
    """Return E |dC/dx|^2: R1 at real x, R2 at fake ones (Mescheder et al. 2018, eq. 9 and 10, without gamma / 2)."""
    return squared_gradient(critic, x).mean()


def one_centred(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """Return E (|dC/dx| - 1)^2 at random points between real and fake x (Gulrajani et al. 2017, eq. 3, without
    lambda)."""
    share = torch.rand(len(real), *(1 for _ in real.shape[1:]), device=real.device)
    norm = squared_gradient(critic, torch.lerp(fake, real, share)).add(1e-12).sqrt()  # the root of 0 has no gradient
    return (norm - 1).square().mean()
