"""Gradients of energies by x."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def gradient(energy: Callable[[Tensor], Tensor], x: Tensor, learns: bool = False) -> Tensor:
    """Return the gradient by x (n, *shape) of energies (n,), each of its own x.

    Args:
        learns: whether the gradient is to be differentiated in turn; attention's fast kernels can't be.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(energy(x).sum(), x, create_graph=learns)
    return found
