"""Likelihoods p(x|z) of pixels, given the decoder's output. An output is (n, c, h, w), and means, for each likelihood,
something else; images x are (n, c, h, w) in [-1, 1], of which 8-bit ones have the 256 values 2 k / 255 - 1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

HALF_BIN = 1 / 255
"""Half the distance of two neighbouring 8-bit values."""
GAIN = 10.0
"""Number by which a learned log-scale is kept divided: Adam moves a number by the learning rate a step, and a scale must
follow the error as fast as the networks bring it down."""


class PixelLikelihood(nn.Module, ABC):
    """Likelihood of pixels that are independent given z."""

    @abstractmethod
    def log_prob(self, images: Tensor, output: Tensor) -> Tensor:
        """Return log p(x|z) (n,) in nats, which training maximises."""

    def log_prob_8bit(self, images: Tensor, output: Tensor) -> Tensor:
        """Return the log-probability (n,) in nats of 8-bit images."""
        return self.log_prob(images, output)

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Return the mean image, in [-1, 1]."""

    @abstractmethod
    def draw(self, output: Tensor, noise: Tensor) -> Tensor:
        """Draw x ~ p(x|z) from standard normal noise of its shape."""


class Gaussian(PixelLikelihood):
    """N(x; output, sigma^2) with one learned sigma for all pixels.

    Training maximises the density. What `log_prob_8bit` says is a probability of 256 values, as in Ho et al. 2020, eq.
    13: the density's mass between a value's midpoints to its neighbours, the outermost taking all that lies beyond.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scaled = nn.Parameter(torch.zeros(()))

    @property
    def log_variance(self) -> Tensor:
        return (GAIN * self.scaled).clamp(min=-14)  # sigma of a quarter of an 8-bit step: finer there is nothing

    def log_prob(self, images: Tensor, output: Tensor) -> Tensor:
        log_variance = self.log_variance
        squares = (images - output).square().flatten(1).sum(1) * torch.exp(-log_variance)
        return -0.5 * (squares + images[0].numel() * (log_variance + math.log(2 * math.pi)))

    def log_prob_8bit(self, images: Tensor, output: Tensor) -> Tensor:
        std = torch.exp(0.5 * self.log_variance)
        # The mass lies in the lower tail after mirroring, where log_ndtr keeps its digits.
        distance = (images - output).abs()
        upper, lower = _log_ndtr((HALF_BIN - distance) / std), _log_ndtr((-HALF_BIN - distance) / std)
        inside = upper + torch.log(-torch.expm1(lower - upper))
        below, above = _log_ndtr((images + HALF_BIN - output) / std), _log_ndtr((output - images + HALF_BIN) / std)
        return _open_edges(images, below, inside, above)

    def mean(self, output: Tensor) -> Tensor:
        return output.clamp(-1, 1)

    def draw(self, output: Tensor, noise: Tensor) -> Tensor:
        return (output + torch.exp(0.5 * self.log_variance) * noise).clamp(-1, 1)


class Bernoulli(PixelLikelihood):
    """Likelihood of black and white pixels: white with probability sigmoid(output), else black.

    A grey image stands for the black and white ones it becomes when each pixel is white with its grey's probability: the
    value is the expected log-probability of those ("dynamic binarisation"), not one of 8-bit values.
    """

    def log_prob(self, images: Tensor, output: Tensor) -> Tensor:
        white = (images + 1) / 2
        return -functional.binary_cross_entropy_with_logits(output, white, reduction="none").flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return 2 * torch.sigmoid(output) - 1

    def draw(self, output: Tensor, noise: Tensor) -> Tensor:
        return torch.where(torch.special.ndtr(noise) < torch.sigmoid(output), 1.0, -1.0)


class DiscretizedLogistic(PixelLikelihood):
    """The mass that a logistic distribution of mean `output` and one learned scale has in each of 256 bins, the outermost
    ones open (Salimans et al. 2017, eq. 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.scaled = nn.Parameter(torch.tensor(-1.0 / GAIN))

    @property
    def log_scale(self) -> Tensor:
        return (GAIN * self.scaled).clamp(min=-8)

    def log_prob(self, images: Tensor, output: Tensor) -> Tensor:
        left = (images - HALF_BIN - output) * torch.exp(-self.log_scale)
        right = (images + HALF_BIN - output) * torch.exp(-self.log_scale)
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), which loses no digits
        below, above = functional.logsigmoid(right), functional.logsigmoid(-left)
        inside = below + above + torch.log(-torch.expm1(-2 * HALF_BIN * torch.exp(-self.log_scale)))
        return _open_edges(images, below, inside, above)

    def mean(self, output: Tensor) -> Tensor:
        return output.clamp(-1, 1)

    def draw(self, output: Tensor, noise: Tensor) -> Tensor:
        logistic = _log_ndtr(noise) - _log_ndtr(-noise)
        return (output + torch.exp(self.log_scale) * logistic).clamp(-1, 1)


LIKELIHOODS: dict[str, type[PixelLikelihood]] = {
    "gaussian": Gaussian,
    "bernoulli": Bernoulli,
    "discretized_logistic": DiscretizedLogistic,
}


def _open_edges(images: Tensor, below: Tensor, inside: Tensor, above: Tensor) -> Tensor:
    """Return the log-mass (n,) of images: black gets all mass below its bin's upper end, white all above its lower end."""
    return torch.where(images < -0.999, below, torch.where(images > 0.999, above, inside)).flatten(1).sum(1)


def _log_ndtr(x: Tensor) -> Tensor:
    logs: Tensor = torch.special.log_ndtr(x)
    return logs
