"""Numbers: conditions in units of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field

from genhub.interfaces.control import Slider
from genhub.interfaces.modality import Modality, RawColumn
from genhub.modalities.learnt import LARGEST, deviation, readable, single

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from genhub.interfaces.network import Embedding


class Number(Modality):
    """A column of single numbers: integers or floating point, of which it was not said that they are classes. Networks get
    them standardised by the training data's mean and deviation."""

    modality: Literal["number"] = "number"
    shape: tuple[()] = ()
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0
    """Standard deviation in the training data; 1 where all are equal."""
    low: float = 0.0
    """The least in the training data."""
    high: float = 0.0
    """The largest in the training data."""

    can_be_target = False

    @property
    def log_scale(self) -> float:
        return math.log(self.std)

    @classmethod
    def recognise(cls, feature: Any, values: Sequence[Any]) -> bool:
        """Whether all are numbers, and the column isn't one of classes (`Label` says which those are)."""
        from genhub.modalities.label import is_label

        there = [value for value in values if value is not None]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in there)
        return bool(there) and numbers and not is_label(feature, there)

    @classmethod
    def learn(cls, column: RawColumn, options: Any) -> Self:
        import numpy as np

        values = np.array(readable(column, _one), np.float32).astype(np.float64)
        std = float(deviation(values.std()))
        return cls(mean=float(values.mean()), std=std, low=float(values.min()), high=float(values.max()))

    def read(self, value: Any) -> NDArray[Any]:
        import numpy as np

        return np.asarray(_one(value), np.float32)

    def read_all(self, values: NDArray[Any]) -> NDArray[Any]:
        return single(values)

    def to_batch(self, kept: Tensor) -> Tensor:
        return (kept - self.mean) / self.std

    def from_batch(self, x: Tensor) -> Tensor:
        from genhub.ground.finite import check_finite

        x = x.detach().cpu().double()
        check_finite(x, "numbers")
        return (x * self.std + self.mean).float()

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        from genhub.modalities.embeddings import FourierEmbedding

        return FourierEmbedding(width)

    def split(self, text: str) -> list[str]:
        return [part.strip() for part in text.split(",")]

    def ask(self, value: Any) -> NDArray[Any]:
        try:
            return self.read(value)
        except (TypeError, ValueError):
            raise ValueError(f"must be {self.told()}") from None

    def told(self) -> str:
        return f"a number, {self.low:g} to {self.high:g} in the training data"

    def control(self) -> Slider:
        return Slider(self.low, self.high)

    def caption(self, kept: Tensor) -> str:
        return f"{float(kept):.3g}"

    def facts(self) -> Mapping[str, Any]:
        return {"low": self.low, "high": self.high, "mean": self.mean, "std": self.std}

    def picture(self, values: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        from genhub.modalities.plots import histograms

        return histograms(values[:, None].numpy(), [""])


def _one(value: Any) -> float:
    number = float(value)
    if not abs(number) <= LARGEST:  # nor is NaN
        raise ValueError("is not finite, or beyond 3.4e38")
    return number
