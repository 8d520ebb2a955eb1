"""What an extractor is: a frozen network that turns images into the features that figures compare."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from genhub.interfaces.trainer import TrainingData


class Extractor(Protocol):
    """What turns images into the rows that metrics compare. A class is registered under `genhub.extractors` and built as
    `cls(data, source, device)`; it must give the same features for the same image whatever comes with it in a batch."""

    fingerprint: str
    """Changes when the features of an image may: a hash of weights and preprocessing."""
    source: str
    """Where the weights come from."""
    preprocessing: str
    """What is done to images before, in words."""

    def __init__(self, data: TrainingData, source: str | None, device: torch.device) -> None:
        """`data`: the real images, for extractors that learn from them. `source`: what follows NAME: in the user's
        choice of extractor, such as a folder of weights."""

    def features(self, images: Tensor) -> Tensor:
        """(n, c, h, w) uint8 to (n, d) float32 on the CPU."""
