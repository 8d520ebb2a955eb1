"""Interface of extractors: frozen networks that turn images into the features that figures compare."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from genhub.interfaces.trainer import TrainingData


class Extractor(Protocol):
    """Network that turns drawn and real elements into rows of features, which metrics compare. A class is registered under
    `genhub.extractors` and built as `cls(data, source, device)`; it must give the same features for the same element
    whatever comes with it in a batch."""

    fingerprint: str
    """Hash of weights and preprocessing: it changes when the features of an element may."""
    source: str
    """Origin of the weights."""
    preprocessing: str
    """Description of what is done to elements before, in words."""

    def __init__(self, data: TrainingData, source: str | None, device: torch.device) -> None:
        """Take the real rows `data`, for extractors that learn from them, and `source`: what follows NAME: in the user's
        choice of extractor, such as a folder of weights."""

    def features(self, values: Tensor) -> Tensor:
        """Return features (n, d) float32 on the CPU of elements (n, *shape) in their own units: images as uint8."""
