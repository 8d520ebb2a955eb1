"""One short line for whatever Python prints of an object: tensors by their shape, long values cut. No torch here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from math import prod
from typing import Any

from genhub.errors import cut, escaped, shown

MOST, MOST_OF_ONE = 110, 48
"""Most characters of such a line, and of a value in it."""


def in_brief(kind: str, values: Mapping[str, Any]) -> str:
    """Return `Kind(name=value, ...)` in a line, without what is None or empty.

    >>> in_brief("Slider", {"low": 0.0, "high": 1.0, "names": ()})
    'Slider(low=0.0, high=1.0)'
    """
    return line(kind, *(f"{name}={_brief(value)}" for name, value in values.items() if not _empty(value)))


def line(kind: str, *words: str) -> str:
    """Return `Kind(words, ...)`, with as many of the words as a line has room for."""
    text = escaped(", ".join(words))
    room = MOST - len(kind) - 2
    return f"{kind}({text if len(text) <= room else text[: room - 3] + '...'})"


def sides(shape: Collection[int]) -> str:
    """Return a shape as people read it: 3x32x32."""
    return "x".join(map(str, shape))


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, Collection) and not hasattr(value, "dtype") and not len(value))


def _brief(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{sides(value.shape) or 'one'} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return "{" + cut(", ".join(map(str, list(value)[:20])), MOST_OF_ONE) + "}"
    return cut(shown(value), MOST_OF_ONE)


class Brief:
    """Base of dataclasses that Python prints in a short line; they are declared with `repr=False`."""

    def __repr__(self) -> str:
        own: Any = self
        names = [field.name for field in fields(own) if not field.name.startswith("_")]
        return in_brief(type(self).__name__, {name: getattr(self, name) for name in names})


class BriefModule:
    """Base, before torch's, of modules that Python prints in a short line; `torch.nn.Module.__repr__` has them whole."""

    def __repr__(self) -> str:
        return line(type(self).__name__, *self._brief_words())

    def _brief_words(self) -> list[str]:
        """Return what the line says."""
        own: Any = self
        return [f"{sum(prod(parameter.shape) for parameter in own.parameters()):,} parameters"]
