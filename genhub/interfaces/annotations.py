"""Read the type annotation of a Config's key: the types in its union, and whether a boolean is one. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from numbers import Number
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


def members(annotation: Any) -> Iterator[Any]:
    """Yield the types that a value may have: unions, `Annotated`, aliases and new types unpacked."""
    origin = get_origin(annotation)
    inside = getattr(annotation, "__value__", None) or getattr(annotation, "__supertype__", None)
    if inside is not None:
        yield from members(inside)
    elif origin is Annotated:
        yield from members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for inner in get_args(annotation):
            yield from members(inner)
    else:
        yield annotation


class _Boolean:
    """Wrapper around a boolean where a number is wanted, so that pydantic refuses it, with its place and value."""

    def __init__(self, value: bool) -> None:
        self._value = value

    def __repr__(self) -> str:
        return repr(self._value)


_PLAIN = {int, float, str, type(None)}
"""Types of values that are neither booleans nor may have one inside."""


def without_booleans(annotation: Any, value: Any) -> Any:
    """Return `value` with each boolean that stands for a number wrapped, so that no type of number takes it. Python's
    `True` is 1, and to pydantic YAML's `yes` is, too; as a learning rate it is a mistake."""
    if isinstance(value, bool):
        return _Boolean(value) if _takes_numbers_alone(annotation) else value
    if isinstance(value, Mapping):
        inside = _inside(annotation, 1, mapping=True)
        return {key: without_booleans(inside, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        if {type(inner) for inner in value} <= _PLAIN:  # a million names, say
            return value
        inner = [without_booleans(_inside(annotation, index), inner) for index, inner in enumerate(value)]
        return tuple(inner) if isinstance(value, tuple) else inner
    return value


def _takes_numbers_alone(annotation: Any) -> bool:
    """Whether an annotation admits numbers but no booleans."""
    numbers = False
    for member in members(annotation):
        kinds = {type(value) for value in get_args(member)} if get_origin(member) is Literal else {member}
        if kinds & {bool, Any, object}:
            return False
        numbers |= any(isinstance(kind, type) and issubclass(kind, Number) for kind in kinds)
    return numbers


def _inside(annotation: Any, index: int, mapping: bool = False) -> Any:
    """Return the annotation of a list's item `index`, or of a mapping's values: `Any` where that is not known."""
    found = []
    for member in members(annotation):
        origin, inner = get_origin(member), [kind for kind in get_args(member) if kind is not Ellipsis]
        if isinstance(origin, type) and issubclass(origin, Iterable) and issubclass(origin, Mapping) == mapping and inner:
            found.append(inner[min(index, len(inner) - 1)])
    return Union[tuple(found)] if found else Any  # noqa: UP007
