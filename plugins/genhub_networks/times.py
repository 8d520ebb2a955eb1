"""Embedding of times and noise levels, for all networks here but diffusers' own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_PERIOD = 10_000


def time_features(t: Tensor, size: int) -> Tensor:
    """Return (n, size) cosines and sines of times (n,) or (n, k) in [0, 1000], as in Vaswani et al. 2017. Of k times each
    has every k-th frequency, so that their order is told, no weight depends on k, and k equal times are as one."""
    times, half = t.reshape(len(t), -1).float(), size // 2
    place = torch.arange(half, device=t.device)
    rates = torch.exp(-math.log(MAX_PERIOD) / half * place)
    angles = times[:, place % times.shape[1]] * rates
    features = torch.cat([angles.cos(), angles.sin()], 1)
    return nn.functional.pad(features, (0, size - features.shape[1]))


class TimeEmbedding(nn.Module):
    """MLP of the features of times."""

    def __init__(self, width: int, features: int = 256) -> None:
        super().__init__()
        self.features = features
        self.enter, self.leave = nn.Linear(features, width), nn.Linear(width, width)

    def forward(self, t: Tensor | None, like: Tensor, vector: Tensor | None) -> Tensor:
        """Return (n, width) for times (n,) or (n, k), or for the time 0 where a family has none.

        Args:
            like: x, (n, ...).
            vector: what the network is given, (n, width), which is added; None: nothing.
        """
        t = like.new_zeros(len(like)) if t is None else t
        features = time_features(t, self.features).to(self.enter.weight.dtype)
        embedding: Tensor = self.leave(nn.functional.silu(self.enter(features)))
        return embedding if vector is None else embedding + vector
