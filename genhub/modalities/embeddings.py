"""Modules by which a network is given one condition: a vector of a class, a number or a picture, tokens of a text, or
channels beside x."""

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
BYTE_BLOCKS, HEADS = 2, 4
"""Blocks of the transformer over bytes, and its heads where they divide its width."""


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


class TokenOutput(Embedding):
    """Embedding that gives a sequence: what `embed` makes of the values, and one learnt token for rows without them."""

    gives: ClassVar[str] = "sequence"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(width))

    @abstractmethod
    def embed(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (n, length, width) of values (n, *shape), and which of them are there, (n, length) bool."""

    def forward(self, values: Tensor, present: Tensor) -> Given:
        tokens, mask = self.embed(values)
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        tokens = torch.where(present[:, None, None], tokens, self.nothing)
        return Given(sequence=tokens, mask=torch.where(present[:, None], mask | first, first))  # never none at all


class ByteEmbedding(TokenOutput):
    """Small transformer over the bytes (n, length) of texts, uint8, filled up with zeros: each byte's token sees the whole
    text."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__(width)
        self.table = nn.Embedding(256, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(TokenBlock(width) for _ in range(BYTE_BLOCKS))
        self.norm = nn.LayerNorm(width)

    def embed(self, values: Tensor) -> tuple[Tensor, Tensor]:
        mask = values != 0
        mask[:, 0] = True  # an empty text has a token, too: attention to nothing is NaN
        tokens = self.table(values.long()) + self.places
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.norm(tokens), mask


class EncodedEmbedding(TokenOutput):
    """Layer on the tokens (n, length, d) that a frozen encoder made of texts, zeros where there are none."""

    takes_encoded: ClassVar[bool] = True

    def __init__(self, encoder_width: int, width: int) -> None:
        super().__init__(width)
        self.norm = nn.LayerNorm(encoder_width, elementwise_affine=False)
        self.linear = nn.Linear(encoder_width, width)

    def embed(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(self.norm(values)), (values != 0).any(2)


class TokenBlock(nn.Module):
    """Attention of tokens to one another, then two layers, each added to what comes in (a pre-norm transformer's block)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = math.gcd(width, HEADS)
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return (n, length, width) of tokens of that shape, those that are there (n, length) alone attended to."""
        parts = self.enter(self.first_norm(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        tokens = tokens + self.leave(attended.transpose(1, 2).flatten(2))
        output: Tensor = tokens + self.layers(self.second_norm(tokens))
        return output
