"""Columns as a model's Config has them, without data: of each modality, of a stranger's volumes, and batches of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from genhub import Batch, Conditions, Modality


class Volume(Modality):
    """(c, d, h, w), standardised already: no bounds, no levels."""

    modality: str = "made_columns:Volume"

    @classmethod
    def learn(cls, column: Any, options: Any) -> Volume:
        raise NotImplementedError

    def read(self, value: Any) -> np.ndarray:
        return np.asarray(value, np.float32)

    def to_batch(self, kept: Tensor) -> Tensor:
        return kept

    def from_batch(self, x: Tensor) -> Tensor:
        return x.cpu()

    def picture(self, values: Tensor, captions: Any = ()) -> Any:
        raise NotImplementedError


def image(*shape: int) -> dict[str, Any]:
    return {"modality": "image", "shape": shape}


def signal(*shape: int, std: float = 1.0) -> dict[str, Any]:
    return {"modality": "signal", "shape": shape, "mean": [0.0] * shape[0], "std": [std] * shape[0]}


def vector(size: int, std: float = 1.0) -> dict[str, Any]:
    return {"modality": "vector", "shape": [size], "mean": [0.0] * size, "std": [std] * size}


def volume(*shape: int) -> dict[str, Any]:
    return {"modality": "made_columns:Volume", "shape": shape}


LABEL = {"modality": "label", "number": 3}
NUMBER = {"modality": "number", "mean": 0.2, "std": 0.1, "low": 0.0, "high": 1.0}
TARGETS = {"image": image(1, 8, 8), "signal": signal(2, 25), "vector": vector(3), "volume": volume(1, 4, 5, 6)}
"""A small one of each kind."""


def columns(target: dict[str, Any], **conditions: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a model's Config that say what it draws and is given."""
    return {"data": {"column": "x", "target": target, "conditions": conditions}, "conditions": list(conditions)}


def conditions(modalities: dict[str, Modality], n: int, seed: int = 1) -> Conditions:
    """Return n rows of random conditions, all present."""
    generator, values = torch.Generator().manual_seed(seed), {}
    for name, modality in modalities.items():
        kept = torch.rand(n, *modality.shape, generator=generator)
        kept = (kept * (modality.classes or 256)).floor() if "int" in modality.dtype else kept
        values[name] = modality.to_batch(kept.to(getattr(torch, modality.dtype)))
    return Conditions(values, {name: torch.ones(n, dtype=torch.bool) for name in values})


def batch(model: Any, n: int = 6, seed: int = 1) -> Batch:
    """Return a batch of random x, 8-bit where that is what it has, and random conditions."""
    x = torch.randn(n, *model.shape, generator=torch.Generator().manual_seed(seed))
    if model.modality.bounds:
        x = (((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1).float()
    return Batch(x, conditions(model.conditions, n, seed))
