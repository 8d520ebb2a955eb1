"""Labels: one of some classes, known by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from genhub.errors import did_you_mean, shown
from genhub.interfaces.control import Choice
from genhub.interfaces.modality import Modality, RawColumn
from genhub.interfaces.section import NumClasses, Section
from genhub.modalities.learnt import readable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from genhub.interfaces.network import Embedding

MOST_NAMES = 10
"""Most names that a message lists."""
MOST_INTEGERS, MOST_TEXTS = 20, 1000
"""Most different values of a column of integers, and of texts, that is taken for one of classes."""

ClassName = Annotated[str, Field(max_length=255)]


def is_label(feature: Any, values: Sequence[Any]) -> bool:
    """Whether a column is one of classes: its feature names them (a ClassLabel); or its values are truth values, integers
    from 0 on of at most 20 different values, or texts of at most 1,000 different values in fewer than half as many rows."""
    if getattr(feature, "names", None):
        return True
    if not values or not all(isinstance(value, bool | int | str) for value in values):
        return False
    if all(isinstance(value, bool) for value in values):
        return True
    different = set(values)
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return min(different) >= 0 and len(different) <= MOST_INTEGERS
    texts = all(isinstance(value, str) for value in values)
    return texts and len(different) <= MOST_TEXTS and 2 * len(different) < len(values)


class Label(Modality):
    """A column of classes. Texts, truth values and integers become the classes that they name, in order: as numbers if all
    of them are numbers, else as texts; so labels 1, 2 and 10 are three classes."""

    modality: Literal["label"] = "label"
    shape: tuple[()] = ()
    number: NumClasses
    """Number of classes."""
    names: Annotated[tuple[ClassName, ...], Field(max_length=1_000_000)] = ()
    """Their names, in the order of their numbers; (): they have none, and are known by number."""

    class Options(Section):
        names: Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=1_000_000)] | None = None
        """The classes' names in their order; left out: those that there are."""

    can_be_target = False
    called = ("label", "labels", "class")

    @model_validator(mode="after")
    def _has_as_many_names(self) -> Self:
        if self.names and len(self.names) != self.number:
            raise ValueError(f"names: {len(self.names)} of {self.number} classes")
        return self

    @property
    def dtype(self) -> str:
        return "int64"

    @property
    def classes(self) -> int:
        return self.number

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @classmethod
    def recognise(cls, feature: Any, values: Sequence[Any]) -> bool:
        return is_label(feature, [value for value in values if value is not None])

    @classmethod
    def learn(cls, column: RawColumn, options: Any) -> Self:
        """Return the classes that the recipe or the column's feature names, else all that there are."""
        stated = options.names or tuple(getattr(column.feature, "names", None) or ())
        if stated:
            return cls(number=len(stated), names=tuple(stated))
        names = in_order(readable(column, class_name))
        return cls(number=len(names), names=names)

    def read(self, value: Any) -> NDArray[Any]:
        """Return the number of the class that a value names: a text, or an integer or truth value whose text is a name. Only
        where the classes have no names is an integer a number."""
        import numpy as np

        name = _text(value)
        if self.names and name not in self._numbers:
            raise ValueError(f"{shown(name)} is none of its classes; {_nearest(name, self.names)}")
        if not self.names and not (name.isdecimal() and len(name) < 20 and int(name) < self.number):
            raise ValueError(f"{shown(name)} is none of its classes; it has 0 to {self.number - 1}")
        return np.asarray(self._numbers[name] if self.names else int(name), np.int64)

    def read_all(self, values: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        different, which = np.unique(values, return_inverse=True)
        numbers = np.array([self.read(value) for value in different.tolist()], np.int64)
        found: NDArray[Any] = numbers[which.reshape(values.shape)]
        return found

    def to_batch(self, kept: Tensor) -> Tensor:
        return kept

    def from_batch(self, x: Tensor) -> Tensor:
        return x.cpu()

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        from genhub.modalities.embeddings import LabelEmbedding

        return LabelEmbedding(self.number, width)

    def split(self, text: str) -> list[str]:
        return split_names(text, set(self.names))

    def told(self) -> str:
        names = self.names[:MOST_NAMES] or tuple(map(str, range(min(self.number, MOST_NAMES))))
        more = self.number - len(names)
        return f"one of {', '.join(name[:40] for name in names)}" + (f" and {more:,} more" if more else "")

    def control(self) -> Choice:
        return Choice(self.names or tuple(map(str, range(self.number))))

    def caption(self, kept: Tensor) -> str:
        return self.names[int(kept)] if self.names else str(int(kept))

    def facts(self) -> Mapping[str, Any]:
        return {"classes": self.number, "names": list(self.names)}

    def to_rows(self, values: Tensor) -> list[Any]:
        return [int(value) for value in values]

    def feature(self) -> Any:
        from datasets import ClassLabel, Value

        return ClassLabel(names=list(self.names)) if self.names else Value("int64")

    def picture(self, values: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        from genhub.modalities.plots import bars

        return bars([self.caption(value) for value in values])


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return distinct names in the order of their classes: as numbers if all of them are numbers, else as text.

    >>> in_order(["10", "2", "1", "2"])
    ('1', '2', '10')
    """
    found = set(names)
    if all(name.isdecimal() and len(name) <= 100 for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def class_name(label: Any) -> str:
    """Return the name of a class in the data."""
    if isinstance(label, int) and label < 0:
        raise ValueError(f"{label} is no class: integers are from 0 on")
    return _text(label)


def _text(label: Any) -> str:
    if getattr(label, "shape", None) == ():  # one of NumPy's or torch's
        label = label.item()
    if isinstance(label, str | bool):
        return str(label)
    try:
        return str(index(label))
    except TypeError:
        raise ValueError(f"a label is a name or a number, not a {type(label).__name__}") from None


def split_names(text: str, names: set[str]) -> list[str]:
    """Return the parts of a text at its commas, but not within a name that has commas, as in `tench, Tinca tinca`."""
    parts, found, most = text.split(","), list[str](), max((name.count(",") for name in names), default=0)
    while parts:
        joined = (",".join(parts[:end]).strip() for end in range(most + 1, 1, -1))
        name = next((each for each in joined if each in names), parts[0].strip())
        found.append(name)
        del parts[: name.count(",") + 1]
    return found


def _nearest(label: str, names: Sequence[str]) -> str:
    near = did_you_mean(label, names)
    if near.startswith("did"):
        return near
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"it has {', '.join(name[:40] for name in names[:MOST_NAMES])}{more}"
