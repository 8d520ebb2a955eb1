"""`Section`, the frozen pydantic model that every Config is, and the types that Configs share. No torch."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from genhub.errors import shown
from genhub.ground.brief import in_brief
from genhub.ground.ids import HUB, parse_id
from genhub.interfaces.annotations import without_booleans

# Strict: `true` is not 1, "10" is not 10, 2.5 steps is an error. YAML 1.1 reads `1e-4` as text, so floats stay lax.
PositiveInt = Annotated[int, Field(strict=True, ge=1, lt=2**63)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
NumClasses = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]


def _in_order(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"from {interval[0]} to {interval[1]}: the lower level comes first")
    return interval


Interval = Annotated[tuple[Fraction, Fraction], AfterValidator(_in_order)]
"""Interval of noise levels: 0 is clean, 1 noise alone."""


def seconds_in(duration: str) -> int:
    """
    >>> seconds_in("3h50m")
    13800

    Raises:
        ValueError: it is no duration, or 0.
    """
    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", duration)
    seconds = sum(int(n or 0) * unit for n, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True)) if parts else 0
    if not seconds:
        raise ValueError(f"must be a duration such as 3h50m, 90m or 1d12h, not {shown(duration)}")
    return seconds


def _duration(text: str) -> str:
    seconds_in(text)
    return text


Duration = Annotated[str, Field(max_length=20), AfterValidator(_duration)]
"""Span of time: 3h50m, 90m, 1d12h."""
MAX_NUMBERS = 2**28
"""Most numbers in an element: as many as in a grey image of 16,384x16,384."""


def drawable(shape: tuple[int, ...]) -> tuple[int, ...]:
    """
    Raises:
        ValueError: an element of this shape has more numbers than genhub draws.
    """
    if math.prod(shape) > MAX_NUMBERS:
        raise ValueError(f"an element of {'x'.join(map(str, shape))} is more than genhub draws, {MAX_NUMBERS:,} numbers")
    return shape


Shape = Annotated[tuple[PositiveInt, ...], Field(max_length=8), AfterValidator(drawable)]
"""Shape of one element: (channels, *sides) of an image, a signal or a volume, (d,) of a vector, () of a number."""

STORED = {"stored": True}
"""The validation context of a Config that is read from a model folder, not from a recipe."""
FROM_HUB = {"from_hub": True}
"""Validation context of a Config in a recipe from the Hub, where a stranger wrote it."""


class NotOnTheHub(ValueError):
    """A recipe from the Hub names a model by a path."""


class MayChange:
    """Mark of a key that changes no step's result: a run that goes on may have another value for it than it was
    started with. All others are refused (docs/reliability.md)."""

    def __repr__(self) -> str:
        return "MAY_CHANGE"


MAY_CHANGE = MayChange()
"""The mark, as in `key: Annotated[int, MAY_CHANGE] = 1`."""


def _not_stored(value: str, info: ValidationInfo) -> str:
    if info.context == STORED:
        raise ValueError("a model folder stands alone: it can't name another one")
    if info.context == FROM_HUB and not (value.startswith(HUB) and parse_id(value)):
        raise NotOnTheHub(f"a recipe from the Hub can name a model on the Hub, user/name, not {shown(value)}")
    return value


ModelPath = Annotated[str, Field(min_length=1), AfterValidator(_not_stored)]
"""A trained model that a recipe names, as `genhub.load` takes it. A model that opens one puts a `StoredModel` in its place
into its Config, and saves the weights with its own: a Config in a model folder can't have a path."""


class Section(BaseModel):
    """Base of every section: frozen, unknown keys are errors, a docstring under a field describes it in the schema."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True,
        protected_namespaces=(), defer_build=True,
    )  # fmt: skip

    def __repr__(self) -> str:
        """Return one short line, of the values that differ from the defaults."""
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        return in_brief(type(self).__name__, {name: value for name, value in self if value != defaults.get(name)})

    def __str__(self) -> str:
        return repr(self)

    @classmethod
    def class_for(cls, value: object) -> type[Section]:
        """Return the class by which a value of this section is typed: this one, unless the value names another."""
        return cls

    def is_default(self, key: str) -> bool:
        """Whether the value at a key path, "sampling.eta" say, is what it is where a recipe leaves it out."""
        name, _, rest = key.partition(".")
        value = getattr(self, name)
        return value.is_default(rest) if rest else bool(value == type(self).model_fields[name].default)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, value: object, info: ValidationInfo) -> object:
        assert info.field_name
        return without_booleans(cls.model_fields[info.field_name].annotation, value)
