"""The variational bound of a DDPM (Ho et al. 2020, eq. 5 and 13): how many bits the model needs for an image, at most."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genhub import Batch, Generators, randn

if TYPE_CHECKING:
    from genhub_ddpm.ddpm import DDPM


@torch.no_grad()
def variational_bound(model: DDPM, batch: Batch, generator: Generators = None) -> Tensor:
    """The terms L_0, L_1, ..., L_T of eq. 5 in nats: (T + 1, n), each summed over an image's pixels.

    Levels are counted from 0 here, as in the code: row 0 is the discrete decoder -log p(x_0 | x_1), eq. 13; row t for
    0 < t < T is KL(q(x_t-1 | x_t, x_0) || p(x_t-1 | x_t)) at level t; row T is KL(q(x_T | x_0) || N(0, I)). One network
    evaluation a level, noise drawn once a level.
    """
    images, labels = batch["images"], batch["labels"] if model.config.conditional else None
    scheduler, last = model.scheduler, model.num_train_timesteps
    terms = []
    for level in range(last):
        timesteps = torch.full((len(images),), level, device=images.device)
        noisy = model.add_noise(images, randn(tuple(images.shape), generator, images.device), timesteps)
        guess = model.original(noisy, model.predict(noisy, timesteps, labels), level)
        mean, variance = posterior(model, guess, noisy, level)
        if level == 0:
            terms.append(-discretized_gaussian(images, mean, variance.sqrt()).sum((1, 2, 3)))
            continue
        true_mean, true_variance = posterior(model, images, noisy, level, small=True)
        terms.append(gaussian_kl(true_mean, true_variance, mean, variance).sum((1, 2, 3)))
    signal = scheduler.alphas_cumprod[-1].to(images).double()
    prior = gaussian_kl(signal.sqrt() * images.double(), 1 - signal, torch.zeros((), dtype=torch.float64), signal**0)
    return torch.stack([*terms, prior.sum((1, 2, 3)).float()])


def posterior(model: DDPM, images: Tensor, noisy: Tensor, level: int, small: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_t-1 | x_t, x_0), eq. 6-7. With the model's guess for x_0 it is p(x_t-1 | x_t), whose
    variance is beta_t where the schedule says fixed_large, unless `small`.

    At level 0, where eq. 7's variance is 0, both have that of level 1, as in the authors' code.
    """
    schedule = model.scheduler.alphas_cumprod.to(device=images.device, dtype=torch.float64)
    a, previous = schedule[level], schedule[level - 1] if level else torch.ones_like(schedule[0])
    beta = 1 - a / previous
    mean = previous.sqrt() * beta / (1 - a) * images + (1 - beta).sqrt() * (1 - previous) / (1 - a) * noisy
    if model.config.scheduler.variance_type == "fixed_large" and not small:
        variance = beta if level else _small_variance(schedule, 1)
    else:
        variance = _small_variance(schedule, max(level, 1))
    return mean, variance


def _small_variance(schedule: Tensor, level: int) -> Tensor:
    """Eq. 7."""
    a, previous = schedule[level], schedule[level - 1]
    return (1 - previous) / (1 - a) * (1 - a / previous)


def gaussian_kl(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(other_mean, other_variance)) in nats, a number a dimension."""
    ratio = variance / other_variance
    return 0.5 * (ratio - 1 - ratio.log() + (mean - other_mean) ** 2 / other_variance)


def discretized_gaussian(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-probability in nats of 8-bit images in [-1, 1] under N(mean, std^2), eq. 13: the mass between a value's two
    neighbours' midpoints, the outermost values taking all that is beyond them."""
    centred, half_bin = images - mean, 1 / 255
    above, below = _log_cdf((centred + half_bin) / std), _log_cdf((centred - half_bin) / std)
    inside = above + torch.log1p(-torch.exp((below - above).clamp(max=-1e-12)))
    upper = _log_cdf(-(centred - half_bin) / std)
    # In the upper tail both cdfs are 1 to the last digit: there the mirrored difference keeps its digits.
    mirrored = upper + torch.log1p(-torch.exp((_log_cdf(-(centred + half_bin) / std) - upper).clamp(max=-1e-12)))
    inside = torch.where(centred > 0, mirrored, inside)
    return torch.where(images < -0.999, above, torch.where(images > 0.999, upper, inside))


def _log_cdf(x: Tensor) -> Tensor:
    logs: Tensor = torch.special.log_ndtr(x)
    return logs


def bits_per_dimension(model: DDPM, batch: Batch, generator: Generators = None) -> Tensor:
    """(n,) the whole bound, in bits a pixel and channel."""
    nats = variational_bound(model, batch, generator).sum(0)
    return nats / (math.log(2) * batch["images"][0].numel())
