"""What tells things apart by their content: data by a fingerprint, networks by their weights."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import nn


def hash_of(*parts: Any) -> str:
    """BLAKE2 of arrays' numbers, and of anything else as Python writes it."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.hexdigest()


def digest_of(network: nn.Module, *more: str) -> str:
    """SHA-256 of a network's weights, and of anything else that matters."""
    digest = hashlib.sha256(repr(more).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
