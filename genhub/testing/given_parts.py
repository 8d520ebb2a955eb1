"""A condition that gives whichever part of `Given` is wanted, with which networks are tried."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genhub.errors import PluginError
from genhub.interfaces.modality import Modality
from genhub.interfaces.network import Embedding, Given

PARTS_OF_GIVEN = frozenset({"vector", "sequence", "spatial", "label"})
TOKENS, CHANNELS = 4, 2


class PartModality(Modality):
    """Three numbers, which become a vector, a sequence of tokens, or channels beside x."""

    modality: Literal["genhub.testing.given_parts:PartModality"] = "genhub.testing.given_parts:PartModality"
    shape: tuple[int] = (3,)
    gives: str

    @classmethod
    def learn(cls, column: Any, options: Any) -> Self:
        return cls(gives="vector")

    def read(self, value: Any) -> NDArray[Any]:
        found: NDArray[Any] = value
        return found

    def to_batch(self, kept: Tensor) -> Tensor:
        return kept

    def from_batch(self, x: Tensor) -> Tensor:
        return x.cpu()

    def picture(self, values: Tensor, captions: Any = ()) -> Any:
        raise PluginError("the kit's conditions are given, and not drawn")

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        return PartEmbedding(self.gives, width, sides)


class PartEmbedding(Embedding):
    """A layer on three numbers; rows without them have a learnt value."""

    def __init__(self, gives: str, width: int, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.gives = gives  # type: ignore[misc]  # of this one: a class makes any part
        self.channels = CHANNELS if gives == "spatial" else 0
        shapes = {"vector": (width,), "sequence": (TOKENS, width), "spatial": (CHANNELS, *sides)}
        self.made = torch.Size(shapes[gives])
        self.layer = nn.Linear(3, self.made.numel())
        self.nothing = nn.Parameter(torch.zeros(self.made.numel()))

    def forward(self, values: Tensor, present: Tensor) -> Given:
        made = torch.where(present[:, None], self.layer(values), self.nothing).view(-1, *self.made)
        if self.gives == "sequence":  # the last token is filler, and not there
            mask = (torch.arange(TOKENS, device=values.device) < TOKENS - 1).expand(len(values), -1)
            return Given(sequence=made, mask=mask)
        return Given(**{self.gives: made})
