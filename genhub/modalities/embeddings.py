"""Modules by which a network is given one condition: a vector of a class, a number or a picture, or channels beside x."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from genhub.interfaces.network import Embedding, Given

FREQUENCIES = 32
"""Number of sines, and of cosines, that a number becomes."""
LOWEST, HIGHEST = 0.25, 32.0
"""Frequencies, in cycles over 2 pi standard deviations, of the first and the last."""
CHANNELS = (32, 64, 64)
"""Channels of the convolutions that make a vector of an image or a signal."""


class VectorOutput(Embedding):
    """Embedding that gives a vector: what `embed` makes of the values, and a learnt one for rows without them."""

    gives: ClassVar[str] = "vector"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(width))

    @abstractmethod
    def embed(self, values: Tensor) -> Tensor:
        """Return (n, width) of values (n, *shape)."""

    def forward(self, values: Tensor, present: Tensor) -> Given:
        return Given(vector=torch.where(present[:, None], self.embed(values), self.nothing))


class LabelEmbedding(VectorOutput):
    """Table of a vector for each class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(width)
        self.table = nn.Embedding(classes, width)

    def embed(self, values: Tensor) -> Tensor:
        vectors: Tensor = self.table(values)
        return vectors


class FourierEmbedding(VectorOutput):
    """Sines and cosines of a number (n,) at fixed frequencies, then two layers: near numbers are told apart, far ones
    ordered."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        steps = torch.linspace(0, 1, FREQUENCIES)
        self.frequencies = nn.Buffer(LOWEST * (HIGHEST / LOWEST) ** steps, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * FREQUENCIES + 1, width), nn.SiLU(), nn.Linear(width, width))

    def embed(self, values: Tensor) -> Tensor:
        angles = values[:, None] * self.frequencies
        features = torch.cat([values[:, None], angles.sin(), angles.cos()], 1)
        vectors: Tensor = self.layers(features)
        return vectors


class VectorEmbedding(VectorOutput):
    """Two layers on a vector (n, d)."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__(width)
        self.layers = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))

    def embed(self, values: Tensor) -> Tensor:
        vectors: Tensor = self.layers(values)
        return vectors


class PooledEmbedding(VectorOutput):
    """Convolutions of stride 2 on (n, c, *sides), their mean over all places, then a layer: for an x of another number of
    sides."""

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__(width)
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape) - 2]
        layers: list[nn.Module] = []
        before = shape[0]
        for after in CHANNELS:
            layers += [convolution(before, after, 3, stride=2, padding=1), nn.SiLU()]
            before = after
        self.convolutions = nn.Sequential(*layers)
        self.linear = nn.Linear(before, width)

    def embed(self, values: Tensor) -> Tensor:
        vectors: Tensor = self.linear(self.convolutions(values).flatten(2).mean(2))
        return vectors


class SpatialEmbedding(Embedding):
    """Values (n, c, *sides) resized to the sides of x, as channels beside it, and one more that says whether they are
    there. Rows without them have learnt channels, the same at every place."""

    gives: ClassVar[str] = "spatial"

    def __init__(self, channels: int, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels + 1
        self.sides = sides
        self.nothing = nn.Parameter(torch.zeros(channels, *(1 for _ in sides)))

    def forward(self, values: Tensor, present: Tensor) -> Given:
        there = present.view(-1, *(1 for _ in values.shape[1:]))
        resized = torch.where(there, self._resized(values), self.nothing)
        mask = there.to(resized.dtype).expand(-1, 1, *self.sides)
        return Given(spatial=torch.cat([resized, mask], 1))

    def _resized(self, values: Tensor) -> Tensor:
        if tuple(values.shape[2:]) == self.sides:
            return values
        smaller = math.prod(self.sides) < math.prod(values.shape[2:])
        # "area" averages: every place counts, none is skipped
        mode = "area" if smaller else ("linear", "bilinear", "trilinear")[len(self.sides) - 1]
        return functional.interpolate(values, self.sides, mode=mode)
