"""Replay buffer: elements that were drawn before, from which the next ones are drawn on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genhub import Conditions, Modality


class Replay(nn.Module):
    """Chains of a sampler that goes on from batch to batch (Du & Mordatch 2019), each with the conditions that it was drawn
    for. All is in buffers, so a run that goes on goes on from the same ones."""

    x: Tensor
    begun: Tensor

    def __init__(self, shape: tuple[int, ...], conditions: Mapping[str, Modality], size: int) -> None:
        super().__init__()
        self.x = nn.Buffer(torch.randn(size, *shape))
        """Current x of each chain, (size, *shape)."""
        self.begun = nn.Buffer(torch.zeros(size, dtype=torch.bool))
        """Which of them have moved so far."""
        self.names = sorted(conditions)
        nothing = Conditions.nothing(conditions, size, self.x.device)  # where a model is only counted, that is no device
        for number, name in enumerate(self.names):  # a column's name may have a dot, and a buffer's not
            self.register_buffer(f"values_{number}", nothing.values[name])
            self.register_buffer(f"present_{number}", nothing.present[name])

    def draw(self, fresh: Tensor, conditions: Conditions, share: float) -> tuple[Tensor, Tensor, Conditions]:
        """Return where some chains stand, as many as there are of n: their numbers, x, and conditions. A share of them, and
        those that have not moved yet, begin anew.

        Args:
            fresh: noise (n, *shape), where chains begin.
            conditions: what new chains are given, n rows.
        """
        chosen = torch.randperm(len(self.x), device=fresh.device)[: len(fresh)]
        rows = slice(len(chosen))
        anew = (torch.rand(len(chosen), device=fresh.device) < share) | ~self.begun[chosen]
        values, present = (
            {
                name: _where(anew, new[name][rows], self.get_buffer(f"{part}_{number}")[chosen])
                for number, name in enumerate(self.names)
            }
            for part, new in (("values", conditions.values), ("present", conditions.present))
        )
        return chosen, _where(anew, fresh[rows], self.x[chosen]), Conditions(values, present)

    def keep(self, chosen: Tensor, x: Tensor, conditions: Conditions) -> None:
        """Put chains with these numbers where they are now."""
        self.x[chosen], self.begun[chosen] = x, True
        for number, name in enumerate(self.names):
            self.get_buffer(f"values_{number}")[chosen] = conditions.values[name]
            self.get_buffer(f"present_{number}")[chosen] = conditions.present[name]


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return a tensor (n, ...) with the new values of some rows (n,) bool."""
    return torch.where(rows.view(-1, *[1] * (old.ndim - 1)), new, old)
