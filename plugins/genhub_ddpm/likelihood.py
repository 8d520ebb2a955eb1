"""Variational bound of a DDPM (Ho et al. 2020, eq. 5 and 13): the most bits that the model needs for x."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genhub import Batch, Generators, InputError, randn

if TYPE_CHECKING:
    from genhub_ddpm.ddpm import DDPM


@torch.no_grad()
def variational_bound(model: DDPM, batch: Batch, generator: Generators = None) -> Tensor:
    """Return the terms of eq. 5 in nats: (T + 1, n), each summed over a row's numbers, in a batch's units.

    Levels are counted from 0, as in the code. Row t < T is `bound_term` at level t, with noise drawn once a level; row T
    is KL(q(x_T | x_0) || N(0, I)). One network evaluation a level.
    """
    conditions = model.conditions_of(len(batch), batch.conditions)
    x_0, given = model.autoencoder.encode(batch.x, conditions), model.conditioner(conditions)
    terms = []
    for level in range(model.num_train_timesteps):
        timesteps = torch.full((len(x_0),), level, device=x_0.device)
        noisy = model.diffuse(x_0, randn(tuple(x_0.shape), generator, x_0.device), timesteps)
        terms.append(bound_term(model, x_0, noisy, model.predict(noisy, timesteps, given).float(), timesteps))
    signal, noise = model.signal_scale[-1], model.noise_scale[-1]
    prior = gaussian_kl(signal * x_0, 2 * noise.log(), torch.zeros_like(signal), torch.zeros_like(signal))
    return torch.stack([*terms, prior.flatten(1).sum(1)])


def bound_term(model: DDPM, x_0: Tensor, noisy: Tensor, output: Tensor, timesteps: Tensor) -> Tensor:
    """Return the nats (n,) of each row: KL(q(x_t-1 | x_t, x_0) || p(x_t-1 | x_t)), or -log p(x_0 | x_1), eq. 13, at t = 0.

    x_0, noisy: x_0 and x_t (n, c, *sides); output: the network's, for x_t; timesteps: (n,).
    """
    guess = model.original(noisy, output[:, : x_0.shape[1]], timesteps)
    each = (-1, *[1] * (x_0.ndim - 1))
    of_x0, of_xt, small, large = (row[timesteps].view(each) for row in model.posterior_table)
    mean = of_x0 * guess + of_xt * noisy
    share = {"fixed_small": torch.zeros_like(small), "fixed_large": torch.ones_like(small)}.get(
        model.config.scheduler.variance_type, (output[:, x_0.shape[1] :] + 1) / 2
    )
    log_variance = share * large + (1 - share) * small
    kl = gaussian_kl(of_x0 * x_0 + of_xt * noisy, small, mean, log_variance)
    decoder = -model.autoencoder.log_prob(x_0, mean, (0.5 * log_variance).exp())
    return torch.where(timesteps.view(each) == 0, decoder, kl).flatten(1).sum(1)


def posterior_table(a: Tensor) -> Tensor:
    """Return a table (4, T) of q(x_t-1 | x_t, x_0), eq. 6-7, from the cumulative alphas (T,): its mean's shares of x_0 and
    x_t, the log of its variance, and the log of beta_t. At level 0, where eq. 7 is 0, both have level 1's, as the authors
    do."""
    previous = torch.cat([torch.ones_like(a[:1]), a[:-1]])
    beta = 1 - a / previous
    small = (1 - previous) / (1 - a) * beta
    small[0] = small[1]
    large = torch.cat([small[:1], beta[1:]])
    of_x0, of_xt = previous.sqrt() * beta / (1 - a), (1 - beta).sqrt() * (1 - previous) / (1 - a)
    return torch.stack([of_x0, of_xt, small.log(), large.log()])


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(other_mean, other_variance)) in nats, a number a dimension."""
    ratio = log_variance - other_log_variance
    return 0.5 * (ratio.exp() - 1 - ratio + (mean - other_mean) ** 2 / other_log_variance.exp())


def log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the log-density in nats of x under N(mean, std^2), a number a dimension."""
    return -0.5 * (((x - mean) / std).square() + math.log(2 * math.pi)) - std.log()


def discretized_gaussian(
    x: Tensor, mean: Tensor, std: Tensor, levels: int = 256, bounds: tuple[float, float] = (-1.0, 1.0)
) -> Tensor:
    """Return the log-probability in nats of x, of so many equally spaced levels between bounds, under N(mean, std^2),
    eq. 13: the mass between a value's two neighbours' midpoints, the outermost values taking all that is beyond them."""
    low, high = bounds
    centred, half_bin = x - mean, (high - low) / (levels - 1) / 2
    above, below = _log_cdf((centred + half_bin) / std), _log_cdf((centred - half_bin) / std)
    inside = above + torch.log1p(-torch.exp((below - above).clamp(max=-1e-6)))
    upper = _log_cdf(-(centred - half_bin) / std)
    # In the upper tail both cdfs are 1 to the last digit: there the mirrored difference keeps its digits.
    mirrored = upper + torch.log1p(-torch.exp((_log_cdf(-(centred + half_bin) / std) - upper).clamp(max=-1e-6)))
    inside = torch.where(centred > 0, mirrored, inside)
    return torch.where(x < low + half_bin, above, torch.where(x > high - half_bin, upper, inside))


def _log_cdf(x: Tensor) -> Tensor:
    logs: Tensor = torch.special.log_ndtr(x)
    return logs


def bits_per_dimension(model: DDPM, batch: Batch, generator: Generators = None) -> Tensor:
    """Return the whole bound (n,), in bits a number of x; where x is continuous, of its density in the column's own units.

    Raises:
        InputError: the model's bound is of latents.
    """
    if model.config.autoencoder is not None:
        raise InputError("bits per dimension: a latent DDPM bounds the density of latents, which says nothing about x")
    nats = variational_bound(model, batch, generator).sum(0)
    if model.modality.levels is None:
        nats = nats + model.modality.log_scale
    return nats / (math.log(2) * batch.x[0].numel())
