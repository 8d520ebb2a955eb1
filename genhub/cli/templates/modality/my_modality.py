"""Positive numbers on a logarithmic scale, such as prices and frequencies: a kind of column that genhub does not have.

It is small so that it can be read, and complete: a model can draw such a column and be given it. Replace it piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from genhub import Modality, NotFinite, RawColumn, Unreadable, Vector

if TYPE_CHECKING:  # nothing heavy is imported before it is needed: `genhub recipe check` looks at every modality
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from genhub import Embedding

LEAST, LARGEST = 2.0**-120, 2.0**120
"""Numbers that are kept: about as far as those of 32 bits go."""


class MyModality(Modality):
    """A column of positive numbers. Networks get the logarithms, standardised by their mean and deviation in the training
    data."""

    # What is learnt from the training data. It lies in a model's Config, and with it in every checkpoint.
    modality: Literal["my-modality"] = "my-modality"
    shape: tuple[Literal[1]] = (1,)
    mean: float = 0.0
    """Mean of the logarithms in the training data."""
    std: Annotated[float, Field(gt=0)] = 1.0
    """Standard deviation of the logarithms in the training data; 1 where all are equal."""

    # `recognise` is not replaced: only a recipe knows that a column is one, `data: {columns: {ink: my-modality}}`.

    @classmethod
    def learn(cls, column: RawColumn, options: Any) -> Self:
        """Return the modality of a column, learnt from all its values that can be read."""
        import numpy as np

        values = column.each(_number, range(len(column)))
        numbers = [value for value in values if value is not None and not isinstance(value, Unreadable)]
        if not numbers:
            raise ValueError(next((f"no value can be read: {value}" for value in values if value), "no row has a value"))
        logs = np.log(np.array(numbers, np.float64))
        return cls(mean=float(logs.mean()), std=float(logs.std()) or 1.0)

    # From the column to a batch, and back. Whatever is given is the logarithm in a batch, and comes back in its own unit.

    def read(self, value: Any) -> NDArray[Any]:
        import numpy as np

        return np.array([_number(value)], np.float32)

    def to_batch(self, kept: Tensor) -> Tensor:
        return (kept.log() - self.mean) / self.std

    def from_batch(self, x: Tensor) -> Tensor:
        x = x.detach().cpu().double()
        if not x.isfinite().all():
            raise NotFinite("numbers: NaN or infinity, which is not shown, written or measured")
        return (x * self.std + self.mean).exp().clamp(LEAST, LARGEST).float()  # what is drawn can be read again

    # What a network is given of it: here a vector, to which those of other columns are added.

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        return _layers(width)

    # How it is typed, `--condition ink=0.2,0.4`, told and seen.

    def split(self, text: str) -> list[str]:
        return [part.strip() for part in text.split(",")]

    def ask(self, value: Any) -> NDArray[Any]:
        try:
            return self.read(value)
        except (TypeError, ValueError):
            raise ValueError(f"must be {self.told()}") from None

    def told(self) -> str:
        low, high = (math.exp(self.mean + sign * self.std) for sign in (-1, 1))
        return f"a number above 0, most are {low:.3g} to {high:.3g} in the training data"

    def caption(self, kept: Tensor) -> str:
        return f"{float(kept):.3g}"

    def facts(self) -> Mapping[str, Any]:
        return {"mean of logs": self.mean, "std of logs": self.std}

    def picture(self, values: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        """Return a histogram of the logarithms."""
        return Vector(shape=(1,), mean=(0.0,), std=(1.0,), names=("log10",)).picture(values.log10())


def _number(value: Any) -> float:
    """Return the number that a file, a table or a person gives: 0.2, "0.2", [0.2] or a tensor."""
    import numpy as np

    number = float(np.asarray(value, np.float64).item())
    if not LEAST <= number <= LARGEST:  # nor is NaN
        raise ValueError(f"must be a number above 0, of {LEAST:.2g} to {LARGEST:.2g}, not {number:g}")
    return number


def _layers(width: int) -> Embedding:
    """Return two layers on a number in a batch. The class is defined here, as one at the top would import torch."""
    import torch
    from torch import nn

    from genhub import Embedding, Given

    class Layers(Embedding):
        """Two layers; in place of a number that is not there, a learnt vector."""

        gives: ClassVar[str] = "vector"

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
            self.nothing = nn.Parameter(torch.zeros(width))

        def forward(self, values: Tensor, present: Tensor) -> Given:
            return Given(vector=torch.where(present[:, None], self.layers(values), self.nothing))

    return Layers()
