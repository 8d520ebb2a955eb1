"""A generator and a discriminator of any number of sides: vectors, signals, images, volumes; residual, without
normalisation, and given what a model is given. Their blocks are plain ones or R3GAN's (blocks.py).

Sides are halved by averaging pairs and doubled by linear interpolation, which is bilinear resampling; without sides, levels
neither halve nor double anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, avg_pool2d, avg_pool3d, embedding, interpolate, leaky_relu, one_hot, pad

from genhub import Conditioner, Conditions, Modality, folded, unfolded
from genhub_gan.blocks import SLOPE, Basis, Reading, convolution, levels
from genhub_gan.config import Conditioning, ResidualConfig

TAKES = frozenset({"label", "vector", "spatial"})
NOTHING = Conditions()


def halved(x: Tensor) -> Tensor:
    """Return (n, c, *sides) averaged to half of its sides, rounded up."""
    if x.dim() == 2:
        return x
    return (avg_pool1d, avg_pool2d, avg_pool3d)[x.dim() - 3](x, 2, ceil_mode=True)


def level_sizes(sides: Sequence[int], levels: int) -> list[tuple[int, ...]]:
    """Return the sides at each level, x's own first, halved and rounded up: [(7, 5), (4, 3), (2, 2)] for three of 7x5."""
    sizes = [tuple(sides)]
    for _ in range(levels - 1):
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    return sizes


class Enlarge(nn.Module):
    """Linear interpolation, (n, c, *size) to (n, c, *larger), as a matrix product a side: `interpolate` to rounding, but its
    gradient on a GPU has other bits each time, and torch 2.13 compiles it to none at all."""

    def __init__(self, size: tuple[int, ...], larger: tuple[int, ...]) -> None:
        super().__init__()
        for side, (a, b) in enumerate(zip(size, larger, strict=True)):
            weights = interpolate(torch.eye(a)[None], b, mode="linear")[0]
            self.register_buffer(f"side_{side}", weights, persistent=False)
        self.sides = len(size)

    def forward(self, x: Tensor) -> Tensor:
        for side in range(self.sides):
            weights = self.get_buffer(f"side_{side}")
            if side == self.sides - 1:
                x = x @ weights
            else:  # later sides as one, so that this one is the last but one
                after = x.shape[3 + side :]
                x = weights.T @ x.flatten(3 + side)
                x = x.reshape(*x.shape[: 3 + side], *after)
        return x


class ClassVectors(nn.Embedding):
    """A learned vector for each class, and zeros for the number of classes, which stands for none."""

    def forward(self, labels: Tensor) -> Tensor:
        return embedding(labels, pad(self.weight, (0, 0, 0, 1)))


class OneHot(nn.Module):
    """Network from labels (n,) to (n, num_classes) of zeros and a one; of zeros alone for the number of classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, labels: Tensor) -> Tensor:
        return one_hot(labels, self.num_classes + 1)[:, : self.num_classes].float()


class Generator(nn.Module):
    """G(z, y): network from noise, and what it is given, to x.

    The noise is mapped to the coarsest level; each level's blocks are followed by an enlargement to the next one's size.
    A label or a vector lies beside the noise; what has x's sides is added to each level, at that level's size.
    x is a convolution's output as it is, as in R3GAN: a tanh would have no gradient left where a mostly black
    data set drives it to -1 in the first steps.
    """

    def __init__(
        self,
        conditions: Mapping[str, Modality],
        shape: tuple[int, ...],
        latent_dim: int,
        config: ResidualConfig,
        conditioning: Conditioning = "projection",
    ) -> None:
        super().__init__()
        self.patch, shape = config.patch_size, config.folded(shape)
        channels = config.widths(shape)
        sides, coarsest = len(shape) - 1, channels[-1]
        self.conditioner = Conditioner(conditions, shape, latent_dim, TAKES)
        self.sizes = level_sizes(shape[1:], len(channels))[::-1]
        classes, numbers = self.conditioner.num_classes, latent_dim
        self.embedding: nn.Module | None = None
        if classes:
            learned = conditioning == "projection"
            self.embedding = ClassVectors(classes, latent_dim) if learned else OneHot(classes)
            numbers += latent_dim if learned else classes
        elif "vector" in self.conditioner.gives:
            numbers += self.conditioner.width
        self.start: nn.Module
        if config.architecture == "r3gan":
            self.from_noise, self.start = nn.Linear(numbers, coarsest), Basis(coarsest, self.sizes[0])
        else:
            self.from_noise = nn.Linear(numbers, coarsest * math.prod(self.sizes[0]))
            self.start = nn.Unflatten(1, (coarsest, *self.sizes[0]))
        self.levels = levels(sides, channels[::-1], config)
        self.narrowing = nn.ModuleList(convolution(sides, wide, narrow, 1) for wide, narrow in pairwise(channels[::-1]))
        self.enlarging = nn.ModuleList(Enlarge(size, larger) for size, larger in pairwise(self.sizes))
        self.to_image = convolution(sides, channels[0], shape[0])
        planes = self.conditioner.spatial_channels
        self.from_spatial = nn.ModuleList(convolution(sides, planes, width) for width in reversed(channels) if planes)

    def forward(self, noise: Tensor, conditions: Conditions = NOTHING) -> Tensor:
        """Return x (n, *shape), near the data's range once trained, for noise (n, latent_dim)."""
        given = self.conditioner(conditions)
        vector = given.vector if self.embedding is None else self.embedding(given.label)
        if vector is not None:
            noise = torch.cat([noise, vector.to(noise.dtype)], 1)
        x = self.start(self.from_noise(noise))
        planes = [] if given.spatial is None else [given.spatial]
        for _ in self.from_spatial[1:]:
            planes.insert(0, halved(planes[0]))
        for index, level in enumerate(self.levels):
            if index:
                x = self.enlarging[index - 1](self.narrowing[index - 1](x))
            if planes:
                x = x + self.from_spatial[index](planes[index])
            x = level(x)
        return unfolded(self.to_image(leaky_relu(x, SLOPE)), self.patch)


class Discriminator(nn.Module):
    """C(x, y): network from x, and what it is given, to the logit that x is real. D(x, y) = sigmoid(C(x, y)).

    With projection, C(x, y) = psi(phi(x)) + v_y . phi(x) (Miyato & Koyama 2018), phi the features, v_y learned: a vector for
    each class, or a linear function of the vector that is given. What has x's sides lies beside x.
    """

    def __init__(
        self,
        conditions: Mapping[str, Modality],
        shape: tuple[int, ...],
        config: ResidualConfig,
        conditioning: Conditioning = "projection",
    ) -> None:
        super().__init__()
        self.patch, shape = config.patch_size, config.folded(shape)
        channels = config.widths(shape)
        sides, features, projects = len(shape) - 1, channels[-1], conditioning == "projection"
        self.conditioner = Conditioner(conditions, shape, features if projects else channels[0], TAKES)
        classes = self.conditioner.num_classes
        width = self.conditioner.width if "vector" in self.conditioner.gives else 0
        planes = self.conditioner.spatial_channels + (0 if projects else classes or width)
        self.planes: nn.Module | None = None
        if not projects and (classes or width):
            self.planes = OneHot(classes) if classes else nn.Identity()
        self.from_image = convolution(sides, shape[0] + planes, channels[0])
        self.levels = levels(sides, channels, config)
        self.widening = nn.ModuleList(convolution(sides, narrow, wide, 1) for narrow, wide in pairwise(channels))
        size = level_sizes(shape[1:], len(channels))[-1]
        self.to_features: nn.Module
        if config.architecture == "r3gan":
            self.to_features = Reading(features, size)
        else:
            self.to_features = nn.Linear(features * math.prod(size), features)
        self.to_logit = nn.Linear(features, 1)
        self.class_vectors: nn.Module | None = None
        if projects and classes:
            self.class_vectors = ClassVectors(classes, features)
            nn.init.normal_(self.class_vectors.weight, std=features**-0.5)
        elif projects and width:
            self.class_vectors = nn.Linear(width, features)

    def forward(self, x: Tensor, conditions: Conditions = NOTHING) -> Tensor:
        """Return logits (n,) for x (n, *shape)."""
        given = self.conditioner(conditions)
        told = given.vector if given.label is None else given.label
        x = folded(x, self.patch)
        if given.spatial is not None:
            x = torch.cat([x, given.spatial.to(x.dtype)], 1)
        if self.planes is not None:
            planes = self.planes(told).to(x.dtype)
            x = torch.cat([x, planes.view(*planes.shape, *(1 for _ in x.shape[2:])).expand(-1, -1, *x.shape[2:])], 1)
        x = self.from_image(x)
        for index, level in enumerate(self.levels):
            if index:
                x = self.widening[index - 1](halved(x))  # in this order for a quarter of the work
            x = level(x)
        phi = leaky_relu(self.to_features(leaky_relu(x, SLOPE).flatten(1)), SLOPE)
        logits: Tensor = self.to_logit(phi).squeeze(1)
        if self.class_vectors is not None:
            logits = logits + (self.class_vectors(told) * phi).sum(1)
        return logits
