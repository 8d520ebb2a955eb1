"""Conditions of a batch's rows, by column: all that a model is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genhub.ground.brief import Brief
from genhub.interfaces.modality import Modality


@dataclass(frozen=True, repr=False)
class Conditions(Brief):
    """Conditions of n rows: the same object in a batch, in `sample` and in every capability. A model that is given nothing
    has an empty one."""

    values: Mapping[str, Tensor] = field(default_factory=dict)
    """By column, as its modality's `to_batch` makes them: labels (n,) int64, numbers (n,) float32, images (n, c, h, w).
    Zeros where a row has none."""
    present: Mapping[str, Tensor] = field(default_factory=dict)
    """By column: (n,) bool, whether a row has that condition; missing and dropped ones are False."""
    cached: Mapping[str, Tensor] = field(default_factory=dict)
    """By column: what a frozen encoder made of the values, computed once."""

    @classmethod
    def nothing(cls, modalities: Mapping[str, Modality], n: int, device: torch.device | str = "cpu") -> Conditions:
        """Return n rows that have none of a model's conditions."""
        values = {
            name: modality.to_batch(torch.zeros((n, *modality.shape), dtype=getattr(torch, modality.dtype)))
            for name, modality in modalities.items()
        }
        return cls(values, {name: torch.zeros(n, dtype=torch.bool) for name in modalities}).to(device)

    def __len__(self) -> int:
        return next((len(values) for values in self.present.values()), 0)

    def each(self, function: Callable[[Tensor], Tensor]) -> Conditions:
        """Return the conditions with a function of every tensor."""
        parts = (self.values, self.present, self.cached)
        return Conditions(*({name: function(tensor) for name, tensor in part.items()} for part in parts))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Conditions:
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def rows(self, index: slice | Tensor) -> Conditions:
        """Return some of the rows."""
        return self.each(lambda tensor: tensor[index])

    def without(self, dropped: Tensor | Mapping[str, Tensor]) -> Conditions:
        """Return the conditions without those of the `dropped` rows, (n,) bool: of all columns, or by column."""
        gone = dropped if isinstance(dropped, Mapping) else dict.fromkeys(self.present, dropped)
        left = {name: present & ~gone[name] if name in gone else present for name, present in self.present.items()}
        return Conditions(self.values, left, self.cached)

    @staticmethod
    def joined(parts: Sequence[Conditions]) -> Conditions:
        """Return the rows of several, one after another."""
        first = parts[0]
        return Conditions(
            {name: torch.cat([part.values[name] for part in parts]) for name in first.values},
            {name: torch.cat([part.present[name] for part in parts]) for name in first.present},
            {name: torch.cat([part.cached[name] for part in parts]) for name in first.cached},
        )
