"""Texts: kept as the bytes of their UTF-8, and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from genhub.errors import PluginError
from genhub.interfaces.modality import Modality, RawColumn
from genhub.interfaces.section import PositiveInt
from genhub.modalities.learnt import readable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from genhub.interfaces.network import Embedding

END = 0
"""Byte that fills up what a text is shorter than the longest."""


class Text(Modality):
    """A column of texts, each kept as its UTF-8, filled up with zeros; longer ones than the longest of the training data are
    cut."""

    modality: Literal["text"] = "text"
    shape: tuple[PositiveInt]
    """(bytes of the longest,)"""

    can_be_target = False

    @property
    def dtype(self) -> str:
        return "uint8"

    @classmethod
    def recognise(cls, feature: Any, values: Sequence[Any]) -> bool:
        """Whether all are texts, and the column isn't one of classes (`Label` says which those are), nor one of files."""
        from genhub.modalities.label import is_label

        there = [value for value in values if value is not None]
        texts = bool(there) and all(isinstance(value, str) for value in there)
        return texts and getattr(feature, "dtype", None) in ("string", "large_string") and not is_label(feature, there)

    @classmethod
    def learn(cls, column: RawColumn, options: Any) -> Self:
        return cls(shape=(max(1, *readable(column, lambda value: len(_utf8(value)))),))

    def read(self, value: Any) -> NDArray[Any]:
        import numpy as np

        content = _utf8(value)[: self.shape[0]].decode(errors="ignore").encode()  # no half of a letter
        kept = np.full(self.shape, END, np.uint8)
        kept[: len(content)] = np.frombuffer(content, np.uint8)
        return kept

    def to_batch(self, kept: Tensor) -> Tensor:
        return kept

    def from_batch(self, x: Tensor) -> Tensor:
        return x.cpu()

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        raise PluginError("a text can't be a condition yet: texts as conditions come with text encoders")

    def told(self) -> str:
        return "a text"

    def caption(self, kept: Tensor) -> str:
        return bytes(kept.tolist()).rstrip(b"\0").decode(errors="replace")

    def facts(self) -> Mapping[str, Any]:
        return {"longest": self.shape[0]}

    def to_rows(self, values: Tensor) -> list[Any]:
        return [self.caption(value) for value in values]

    def feature(self) -> Any:
        from datasets import Value

        return Value("string")

    def picture(self, values: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        from genhub.modalities.plots import bars

        return bars([self.caption(value) for value in values])


def _utf8(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"must be a text, not a {type(value).__name__}")
    return value.encode(errors="replace")
