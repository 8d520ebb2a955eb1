"""Vectors: points, rows of a table, anything that is a fixed number of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from genhub.interfaces.control import Line
from genhub.interfaces.modality import Modality, RawColumn
from genhub.interfaces.section import PositiveInt
from genhub.modalities.learnt import deviation, readable, single

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from genhub.interfaces.network import Embedding

MOST_DIMENSIONS = 100_000
"""Most numbers of a vector."""
TILE = 280
"""Side of a small scatter, in pixels."""


class Vector(Modality):
    """A column of vectors (d,). Networks get each number standardised by its own mean and deviation in the training data."""

    modality: Literal["vector"] = "vector"
    shape: tuple[PositiveInt]
    mean: Annotated[tuple[float, ...], Field(max_length=MOST_DIMENSIONS)]
    """Mean of each number in the training data."""
    std: Annotated[tuple[float, ...], Field(max_length=MOST_DIMENSIONS)]
    """Standard deviation of each number in the training data; 1 where all are equal."""
    names: Annotated[tuple[Annotated[str, Field(max_length=255)], ...], Field(max_length=MOST_DIMENSIONS)] = ()
    """Names of the numbers; (): they have none."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if {len(self.mean), len(self.std)} != {self.shape[0]} or len(self.names) not in (0, self.shape[0]):
            raise ValueError(f"mean, std: must have {self.shape[0]} numbers each, and as many names or none")
        if min(self.std) <= 0:
            raise ValueError("std: must be greater than 0")
        return self

    @property
    def log_scale(self) -> float:
        return sum(map(math.log, self.std))

    @classmethod
    def recognise(cls, feature: Any, values: Sequence[Any]) -> bool:
        """Whether all values are lists or arrays of equally many numbers."""
        import numpy as np

        there = [value for value in values if value is not None]
        try:
            arrays = [np.asarray(value) for value in there if isinstance(value, list | tuple | np.ndarray)]
        except ValueError:  # lists of unequal length inside one another
            return False
        plain = all(array.ndim == 1 and array.dtype.kind in "biuf" and array.size for array in arrays)
        return bool(arrays) and len(arrays) == len(there) and plain and len({array.shape for array in arrays}) == 1

    @classmethod
    def learn(cls, column: RawColumn, options: Any) -> Self:
        import numpy as np

        there = readable(column, _numbers)
        sizes = sorted({len(value) for value in there})
        if len(sizes) > 1:
            raise ValueError(f"has vectors of {sizes[0]} and of {sizes[1]} numbers; they must all be as long")
        values = np.stack(there).astype(np.float64)
        return cls(
            shape=(sizes[0],),
            mean=tuple(values.mean(0).tolist()),
            std=tuple(deviation(values.std(0)).tolist()),
            names=tuple(getattr(column.feature, "numbers", ())),
        )

    def read(self, value: Any) -> NDArray[Any]:
        numbers = _numbers(value)
        if numbers.shape != self.shape:
            raise ValueError(f"must be {self.shape[0]} numbers, not {len(numbers)}")
        return numbers

    def read_all(self, values: NDArray[Any]) -> NDArray[Any]:
        return single(values).reshape(len(values), -1)

    def to_batch(self, kept: Tensor) -> Tensor:
        return (kept - kept.new_tensor(self.mean)) / kept.new_tensor(self.std)

    def from_batch(self, x: Tensor) -> Tensor:
        from genhub.ground.finite import check_finite

        x = x.detach().double().cpu()
        check_finite(x, "vectors")
        return (x * x.new_tensor(self.std) + x.new_tensor(self.mean)).float()

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        from genhub.modalities.embeddings import VectorEmbedding

        return VectorEmbedding(self.shape[0], width)

    def ask(self, value: Any) -> NDArray[Any]:
        """Return a vector as it is kept: of numbers, or of a text of numbers with blanks or semicolons between, `0.5 1`."""
        if isinstance(value, str):
            value = value.replace(";", " ").split()
        return self.read(value)

    def split(self, text: str) -> list[str]:
        return [part.strip() for part in text.split(",")]

    def told(self) -> str:
        return f"{self.shape[0]} numbers" + (f": {', '.join(self.names[:6])}" if self.names else "")

    def control(self) -> Line:
        return Line(" ".join(f"{number:.3g}" for number in self.mean))

    def caption(self, kept: Tensor) -> str:
        return " ".join(f"{number:.2g}" for number in kept.tolist()) if self.shape[0] <= 3 else ""

    def facts(self) -> Mapping[str, Any]:
        return {"mean": list(self.mean), "std": list(self.std)} | ({"names": list(self.names)} if self.names else {})

    def picture(self, values: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        """Return a scatter of points of the plane, coloured by their captions; of other vectors, a histogram a number."""
        from genhub.modalities.plots import histograms, scatter

        if self.shape[0] == 2:
            return scatter(values.numpy(), captions, self.names)
        return histograms(values.numpy(), self._names)

    def tile(
        self, values: Tensor, captions: Sequence[str] = (), like: Tensor | None = None, real: Tensor | None = None
    ) -> Image.Image:
        """Return a small scatter or histograms on the axes of `like`, before the real values in pale."""
        from genhub.modalities.plots import cloud, histograms

        scale, behind = (values if like is None else like).numpy(), None if real is None else real.numpy()
        if self.shape[0] == 2:
            return cloud(values.numpy(), captions, scale, behind, TILE)
        return histograms(values.numpy(), self._names, like=scale, real=behind)

    def compare(self, real: Tensor, drawn: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        """Return points of the plane as scatter and density; of other vectors, the distribution of each number and the
        correlations between them."""
        from genhub.modalities.plots import planes_beside, tables_beside

        if self.shape[0] == 2:
            return planes_beside(real.numpy(), drawn.numpy(), captions, self.names)
        return tables_beside(real.numpy(), drawn.numpy(), self._names)

    @property
    def _names(self) -> Sequence[str]:
        return self.names or [str(number) for number in range(self.shape[0])]


def _numbers(value: Any) -> NDArray[Any]:
    """Return a list, a tuple, an array or a tensor of numbers as float32 (d,)."""
    numbers = single(value)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"must be a list of numbers, not of shape {numbers.shape}")
    return numbers
