"""Conditions for the tests of networks: a modality that gives whichever part is wanted, and what a network is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genhub import Conditioner, Conditions, Embedding, Given, Modality, Network


class Asked(Modality):
    """Three numbers, or a class where `number` is set, as any part of `Given`."""

    modality: str = "asked"
    shape: tuple[int, ...] = (3,)
    gives: str = "vector"
    number: int = 0

    @property
    def dtype(self) -> str:
        return "int64" if self.number else "float32"

    @property
    def classes(self) -> int:
        return self.number

    @classmethod
    def learn(cls, column: Any, options: Any) -> Asked:
        return cls()

    def read(self, value: Any) -> Any:
        return value

    def to_batch(self, kept: Tensor) -> Tensor:
        return kept

    def from_batch(self, x: Tensor) -> Tensor:
        return x

    def picture(self, values: Tensor, captions: Any = ()) -> Any:
        raise NotImplementedError

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        return AskedEmbedding(self, width, sides)


class AskedEmbedding(Embedding):
    """A linear layer, whose rows without a value get a learnt one."""

    def __init__(self, modality: Asked, width: int, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.gives = modality.gives  # type: ignore[misc]
        self.number = modality.number
        self.channels = 2 if self.gives == "spatial" else 0
        shapes = {"vector": (width,), "sequence": (4, width), "spatial": (2, *sides)}
        self.made = torch.Size(shapes[self.gives])
        self.layer = nn.Linear(modality.number or 3, self.made.numel())
        self.learnt = nn.Parameter(torch.randn(self.made.numel()))

    def forward(self, values: Tensor, present: Tensor) -> Given:
        values = nn.functional.one_hot(values, self.number).float() if self.number else values
        made = torch.where(present[:, None], self.layer(values), self.learnt).view(-1, *self.made)
        mask = present[:, None] | (torch.arange(4, device=values.device) < 1) if self.gives == "sequence" else None
        return Given(**{self.gives: made}, mask=mask)


LABEL = Asked(shape=(), number=5)


def modalities(*parts: str) -> dict[str, Modality]:
    """Return a condition for each part; "label" is one that a network may embed by itself."""
    return {part: LABEL if part == "label" else Asked(gives=part) for part in parts}


def conditions(modalities: dict[str, Any], n: int, present: bool = True, seed: int = 1) -> Conditions:
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.randint(modality.classes, (n,), generator=generator)
        if modality.classes
        else torch.randn((n, *modality.shape), generator=generator)
        for name, modality in modalities.items()
    }
    return Conditions(values, {name: torch.full((n,), present) for name in modalities})


def built(
    cls: type[Network], shape: tuple[int, ...], parts: tuple[str, ...] = (), out_channels: int | None = None, **keys: Any
) -> tuple[Network, Conditioner]:
    """Return a network with a conditioner of some parts; none of its weights is zero, as some start."""
    torch.manual_seed(0)
    config = cls.Config(**keys)
    config.check(shape)
    conditioner = Conditioner(modalities(*parts), shape, config.width, config.takes)
    network = cls(config, shape, conditioner, out_channels)  # type: ignore[call-arg]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return network.eval(), conditioner
