"""A generator and a discriminator for images of any size: residual, without normalisation, in the manner of R3GAN
(Huang et al. 2024, arXiv:2501.05441), with or without labels.

Residual branches start at zero (Zhang et al. 2019, "Fixup"), so that depth needs no normalisation to train.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu, one_hot

from genhub_gan.config import Conditioning

SLOPE = 0.2


def level_sizes(height: int, width: int, levels: int) -> list[tuple[int, int]]:
    """Return (h, w) at each level, the image's own first, halved and rounded up: [(7, 5), (4, 3), (2, 2)] for three of
    7x5."""
    sizes = [(height, width)]
    for _ in range(levels - 1):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


class Block(nn.Module):
    """Residual block: x + conv(act(conv(act(x)))), the second convolution zero at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, SLOPE)
        nn.init.zeros_(self.first.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.second(leaky_relu(self.first(leaky_relu(x, SLOPE)), SLOPE))
        return x + branch


def blocks(channels: int, number: int) -> nn.Sequential:
    return nn.Sequential(*(Block(channels) for _ in range(number)))


class Enlarge(nn.Module):
    """Bilinear interpolation, (n, c, *size) to (n, c, *larger), as two matrix products: `interpolate` to rounding, but its
    gradient on a GPU has other bits each time, and torch 2.13 compiles it to none at all."""

    def __init__(self, size: tuple[int, int], larger: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = (interpolate(torch.eye(a)[None], b, mode="linear")[0] for a, b in zip(size, larger, strict=True))
        self.rows, self.columns = nn.Buffer(rows.T, persistent=False), nn.Buffer(columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        larger: Tensor = self.rows @ x @ self.columns
        return larger


class Generator(nn.Module):
    """G(z): network from noise, and a label where there are any, to an image.

    The noise is mapped to the coarsest level; each level's blocks are followed by an enlargement to the next one's size.
    The image is a convolution's output as it is, as in R3GAN: a tanh would have no gradient left where a mostly black
    data set drives it to -1 in the first steps.
    """

    def __init__(
        self,
        sample_shape: tuple[int, int, int],
        latent_dim: int,
        channels: Sequence[int],
        blocks_per_level: int,
        num_classes: int = 0,
        conditioning: Conditioning = "projection",
    ) -> None:
        """Build it: channels at each level, the image's own first; num_classes is 0 for a generator without labels."""
        super().__init__()
        self.sizes = level_sizes(*sample_shape[1:], len(channels))[::-1]
        coarsest = channels[-1]
        self.embedding: nn.Module | None = None
        if num_classes:
            learned = conditioning == "projection"
            self.embedding = nn.Embedding(num_classes, latent_dim) if learned else OneHot(num_classes)
            latent_dim += latent_dim if learned else num_classes
        self.from_noise = nn.Linear(latent_dim, coarsest * self.sizes[0][0] * self.sizes[0][1])
        self.levels = nn.ModuleList(blocks(width, blocks_per_level) for width in reversed(channels))
        self.narrowing = nn.ModuleList(nn.Conv2d(wide, narrow, 1) for wide, narrow in pairwise(channels[::-1]))
        self.enlarging = nn.ModuleList(Enlarge(size, larger) for size, larger in pairwise(self.sizes))
        self.to_image = nn.Conv2d(channels[0], sample_shape[0], 3, padding=1)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images (n, c, h, w), near [-1, 1] once trained, for noise (n, latent_dim) and labels (n,)."""
        if self.embedding is not None:
            noise = torch.cat([noise, self.embedding(labels).to(noise.dtype)], 1)
        x = self.from_noise(noise).view(len(noise), -1, *self.sizes[0])
        for index, level in enumerate(self.levels):
            if index:
                x = self.enlarging[index - 1](self.narrowing[index - 1](x))
            x = level(x)
        images: Tensor = self.to_image(leaky_relu(x, SLOPE))
        return images


class Discriminator(nn.Module):
    """C(x): network from an image, and its label where there are any, to the logit that it is real. D(x) = sigmoid(C(x)).

    With projection, C(x, y) = psi(phi(x)) + v_y . phi(x) (Miyato & Koyama 2018), phi the features, v_y learned.
    """

    def __init__(
        self,
        sample_shape: tuple[int, int, int],
        channels: Sequence[int],
        blocks_per_level: int,
        num_classes: int = 0,
        conditioning: Conditioning = "projection",
    ) -> None:
        """Build it: channels at each level, the image's own first; num_classes is 0 for a discriminator without labels."""
        super().__init__()
        projection = num_classes > 0 and conditioning == "projection"
        self.planes = OneHot(num_classes) if num_classes and not projection else None
        features, (height, width) = channels[-1], level_sizes(*sample_shape[1:], len(channels))[-1]
        self.from_image = nn.Conv2d(sample_shape[0] + (num_classes if self.planes else 0), channels[0], 3, padding=1)
        self.levels = nn.ModuleList(blocks(width, blocks_per_level) for width in channels)
        self.widening = nn.ModuleList(nn.Conv2d(narrow, wide, 1) for narrow, wide in pairwise(channels))
        self.to_features = nn.Linear(features * height * width, features)
        self.to_logit = nn.Linear(features, 1)
        self.class_vectors = nn.Embedding(num_classes, features) if projection else None
        if self.class_vectors is not None:
            nn.init.normal_(self.class_vectors.weight, std=features**-0.5)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits (n,) for images (n, c, h, w) and labels (n,)."""
        if self.planes is not None:
            planes = self.planes(labels).to(images.dtype)[:, :, None, None]
            images = torch.cat([images, planes.expand(-1, -1, *images.shape[2:])], 1)
        x = self.from_image(images)
        for index, level in enumerate(self.levels):
            if index:
                x = self.widening[index - 1](avg_pool2d(x, 2, ceil_mode=True))  # in this order for a quarter of the work
            x = level(x)
        phi = leaky_relu(self.to_features(leaky_relu(x, SLOPE).flatten(1)), SLOPE)
        logits: Tensor = self.to_logit(phi).squeeze(1)
        if self.class_vectors is not None:
            logits = logits + (self.class_vectors(labels) * phi).sum(1)
        return logits


class OneHot(nn.Module):
    """Network from labels (n,) to (n, num_classes) of zeros and a one."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, labels: Tensor) -> Tensor:
        return one_hot(labels, self.num_classes).float()
