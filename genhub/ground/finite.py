"""Check that numbers are finite, before they are written, shown or measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genhub.errors import NotFinite


def check_finite(numbers: Tensor, what: str) -> Tensor:
    """Return `numbers`, checked. On a GPU, this waits for the device.

    Raises:
        NotFinite: one of them is NaN or infinite; `what` is how to call them.
    """
    if not numbers.isfinite().all():
        raise NotFinite(f"{what}: NaN or infinity, which is not shown, written or measured")
    return numbers


def check_weights(model: nn.Module) -> None:
    """
    Raises:
        NotFinite: a weight or a buffer is NaN or infinite.
    """
    tensors = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    if not tensors:
        return
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).tolist()
    bad = [name for name, fine in zip(tensors, finite, strict=True) if not fine]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise NotFinite(
            f"{type(model).__name__}: its weights are NaN or infinite ({bad[0]}{more}), so nothing is drawn or measured; "
            "take an earlier checkpoint"
        )
