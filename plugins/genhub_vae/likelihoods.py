"""Likelihoods p(x|z) of the numbers of x, given the decoder's output. An output is (n, *shape), and means, for each
likelihood, something else; x is (n, *shape). A modality's `bounds` and `levels` say where it lies: 8-bit images have 256
values, 2 k / 255 - 1, within [-1, 1]."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from genhub import Modality

GAIN = 10.0
"""Number by which a learned log-scale is kept divided: Adam moves a number by the learning rate a step, and a scale must
follow the error as fast as the networks bring it down."""


class PixelLikelihood(nn.Module, ABC):
    """Likelihood of numbers that are independent given z."""

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.bounds, self.levels = modality.bounds, modality.levels
        self.low, self.high = modality.bounds or (-math.inf, math.inf)
        self.half_bin = (self.high - self.low) / (2 * (self.levels - 1)) if self.levels else 0.0
        """Half the distance of two neighbouring values."""

    @abstractmethod
    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Return log p(x|z) (n,) in nats, which training maximises."""

    def log_mass(self, x: Tensor, output: Tensor) -> Tensor:
        """Return the log-probability (n,) in nats of x that has `levels`."""
        return self.log_prob(x, output)

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Return the mean of x, within its bounds."""

    @abstractmethod
    def draw(self, output: Tensor, noise: Tensor) -> Tensor:
        """Draw x ~ p(x|z) from standard normal noise of its shape."""

    def clipped(self, x: Tensor) -> Tensor:
        return x.clamp(*self.bounds) if self.bounds else x

    def open_edges(self, x: Tensor, below: Tensor, inside: Tensor, above: Tensor) -> Tensor:
        """Return the log-mass (n,) of x: the lowest value gets all mass below its bin's upper end, the highest all above its
        lower end."""
        lowest, highest = x < self.low + self.half_bin, x > self.high - self.half_bin
        return torch.where(lowest, below, torch.where(highest, above, inside)).flatten(1).sum(1)


class Gaussian(PixelLikelihood):
    """N(x; output, sigma^2) with one learned sigma for all numbers.

    Training maximises the density. What `log_mass` says is a probability of the values that there are, as in Ho et al. 2020,
    eq. 13: the density's mass between a value's midpoints to its neighbours, the outermost taking all that lies beyond.
    """

    def __init__(self, modality: Modality) -> None:
        super().__init__(modality)
        self.scaled = nn.Parameter(torch.zeros(()))

    @property
    def log_variance(self) -> Tensor:
        return (GAIN * self.scaled).clamp(min=-14)  # sigma of an eighth of an 8-bit step

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        log_variance = self.log_variance
        squares = (x - output).square().flatten(1).sum(1) * torch.exp(-log_variance)
        return -0.5 * (squares + x[0].numel() * (log_variance + math.log(2 * math.pi)))

    def log_mass(self, x: Tensor, output: Tensor) -> Tensor:
        std, half = torch.exp(0.5 * self.log_variance), self.half_bin
        # The mass lies in the lower tail after mirroring, where log_ndtr keeps its digits.
        distance = (x - output).abs()
        upper, lower = _log_ndtr((half - distance) / std), _log_ndtr((-half - distance) / std)
        inside = upper + torch.log(-torch.expm1(lower - upper))
        below, above = _log_ndtr((x + half - output) / std), _log_ndtr((output - x + half) / std)
        return self.open_edges(x, below, inside, above)

    def mean(self, output: Tensor) -> Tensor:
        return self.clipped(output)

    def draw(self, output: Tensor, noise: Tensor) -> Tensor:
        return self.clipped(output + torch.exp(0.5 * self.log_variance) * noise)


class Bernoulli(PixelLikelihood):
    """Likelihood of black and white pixels: white with probability sigmoid(output), else black.

    A grey image stands for the black and white ones it becomes when each pixel is white with its grey's probability: the
    value is the expected log-probability of those ("dynamic binarisation"), not one of 8-bit values.
    """

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        white = (x - self.low) / (self.high - self.low)
        return -functional.binary_cross_entropy_with_logits(output, white, reduction="none").flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return (self.high - self.low) * torch.sigmoid(output) + self.low

    def draw(self, output: Tensor, noise: Tensor) -> Tensor:
        return torch.where(torch.special.ndtr(noise) < torch.sigmoid(output), self.high, self.low)


class DiscretizedLogistic(PixelLikelihood):
    """The mass that a logistic distribution of mean `output` and one learned scale has in the bin of each of x's values, the
    outermost ones open (Salimans et al. 2017, eq. 2)."""

    def __init__(self, modality: Modality) -> None:
        super().__init__(modality)
        self.scaled = nn.Parameter(torch.tensor(-1.0 / GAIN))

    @property
    def log_scale(self) -> Tensor:
        return (GAIN * self.scaled).clamp(min=-8)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        half = self.half_bin
        left = (x - half - output) * torch.exp(-self.log_scale)
        right = (x + half - output) * torch.exp(-self.log_scale)
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), which loses no digits
        below, above = functional.logsigmoid(right), functional.logsigmoid(-left)
        inside = below + above + torch.log(-torch.expm1(-2 * half * torch.exp(-self.log_scale)))
        return self.open_edges(x, below, inside, above)

    def mean(self, output: Tensor) -> Tensor:
        return self.clipped(output)

    def draw(self, output: Tensor, noise: Tensor) -> Tensor:
        logistic = _log_ndtr(noise) - _log_ndtr(-noise)
        return self.clipped(output + torch.exp(self.log_scale) * logistic)


LIKELIHOODS: dict[str, type[PixelLikelihood]] = {
    "gaussian": Gaussian,
    "bernoulli": Bernoulli,
    "discretized_logistic": DiscretizedLogistic,
}


def _log_ndtr(x: Tensor) -> Tensor:
    logs: Tensor = torch.special.log_ndtr(x)
    return logs
