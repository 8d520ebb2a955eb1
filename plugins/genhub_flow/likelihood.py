"""Log-likelihood of a flow by the change of variables (Chen et al. 2018, arXiv:1806.07366; Grathwohl et al. 2019,
arXiv:1810.01367): along a path of dx/ds = v, log p changes by minus the divergence of v."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.functional import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from genhub import Batch, Generators, randn

if TYPE_CHECKING:
    from genhub_flow.flow import Flow

EXACT = 16
"""Most numbers of x for which the divergence is exact, at an evaluation each; above it is Hutchinson's estimate."""
STEPS = 20
"""Steps of the Runge-Kutta method of order 4, of four evaluations each: shorter near data, where a velocity changes most."""

Velocity = Callable[[Tensor, float], Tensor]


def bits_per_dimension(model: Flow, batch: Batch, generator: Generators = None) -> Tensor:
    """Return (n,) bits a number of x, of the very ODE that `sample` solves, without guidance.

    Where x is continuous: of its density in the column's own units, exact but for the solver's error, if x has at most 16
    numbers. If it has more, the divergence is estimated by one random vector of signs a row, for which log p is right on
    average. Where the modality has levels, as images have: an upper bound, of a number drawn uniformly around each level."""
    probe = randn(tuple(batch.x.shape), generator, model.device).sign()
    spread = torch.special.ndtr(randn(tuple(batch.x.shape), generator, model.device)) - 0.5  # uniform
    with torch.inference_mode(False), torch.no_grad():  # where there are derivatives
        x, conditions = batch.x.clone(), model.conditions_of(len(batch), batch.conditions).each(torch.clone)
        width = 0.0
        if model.modality.levels is not None:
            assert model.modality.bounds is not None
            low, high = model.modality.bounds
            width = (high - low) / (model.modality.levels - 1)
            x = x + width * spread.clone()
        given, numbers = model.conditioner(conditions), x[0].numel()
        probes = unit_vectors(x) if numbers <= EXACT else [probe.clone()]
        nats = -log_prob(lambda noisy, s: model.velocity(noisy, noisy.new_full((len(x),), s), given), x, probes)
    nats = nats - numbers * math.log(width) if width else nats + model.modality.log_scale
    return nats / (math.log(2) * numbers)


def log_prob(velocity: Velocity, x: Tensor, probes: Iterable[Tensor], steps: int = STEPS) -> Tensor:
    """Return log p(x) (n,) in nats: log N(x_1; 0, I) plus the integral of the divergence from x to x_1, its noise."""
    probes, change = list(probes), x.new_zeros(len(x))
    ends = [(step / steps) ** 2 for step in range(steps + 1)]
    for s, following in pairwise(ends):
        size = following - s
        first, a = with_divergence(velocity, x, s, probes)
        second, b = with_divergence(velocity, x + size / 2 * first, s + size / 2, probes)
        third, c = with_divergence(velocity, x + size / 2 * second, s + size / 2, probes)
        last, d = with_divergence(velocity, x + size * third, s + size, probes)
        x = x + size / 6 * (first + 2 * second + 2 * third + last)
        change = change + size / 6 * (a + 2 * b + 2 * c + d)
    normal = -0.5 * (x.square() + math.log(2 * math.pi)).flatten(1).sum(1)
    return normal + change


def with_divergence(velocity: Velocity, x: Tensor, s: float, probes: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the velocity at x (n, *shape), and the sum (n,) over probes e (n, *shape) of e^T J e, with J its Jacobian: the
    divergence if they are the unit vectors, an estimate of it if they are one vector of random signs."""
    total = x.new_zeros(len(x))
    for probe in probes:
        with sdpa_kernel(SDPBackend.MATH):  # the only attention that has a second derivative
            found, change = jvp(lambda x: velocity(x, s), x, probe)  # type: ignore[no-untyped-call]
        total = total + (probe * change).flatten(1).sum(1)
    return found, total


def unit_vectors(x: Tensor) -> list[Tensor]:
    """Return a vector (n, *shape) for each of the numbers of x."""
    units = torch.eye(x[0].numel(), device=x.device)
    return [unit.view(1, *x.shape[1:]).expand_as(x) for unit in units]
