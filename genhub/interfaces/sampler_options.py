"""Options of a model's `sample`, read from its signature and its docstring. No torch here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

OWN = {"self", "n", "conditions", "generator"}
"""Arguments that every `sample` has, which genhub gives."""


def option_names(sample: Callable[..., Any]) -> list[str]:
    """Return the names of the options of a `sample` that can be written down: a function can be given from Python alone."""
    hints = get_type_hints(sample, include_extras=True)
    named = [name for name, its in inspect.signature(sample).parameters.items()
             if name not in OWN and its.kind not in (its.VAR_KEYWORD, its.VAR_POSITIONAL)]  # fmt: skip
    return [name for name in named if not takes_a_function(hints.get(name))]


def takes_a_function(hint: Any) -> bool:
    """Whether an annotation is of a callable, such as `Callable[[int], None] | None`."""
    inner = get_args(hint) if get_origin(hint) in (UnionType, Union) else ()
    return get_origin(hint) is Callable or any(map(takes_a_function, inner))


def sampler_options(sample: Callable[..., Any]) -> dict[str, str]:
    """Return the meaning of each option of a `sample`, as the `Args:` of its docstring say it, behind its default where the
    signature has one; "" where neither says anything.

    >>> def sample(self, n, *, scale: float = 1.0, steps: int | None = None):
    ...     '''Draw.
    ...
    ...     Args:
    ...         steps: 1 to 1000; more
    ...             take longer.
    ...     '''
    >>> sampler_options(sample)
    {'scale': 'Left out: 1.0.', 'steps': '1 to 1000; more take longer.'}
    """
    parameters, told = inspect.signature(sample).parameters, _arguments(inspect.getdoc(sample) or "")
    found = {}
    for name in option_names(sample):
        default = parameters[name].default
        left_out = "" if default in (None, inspect.Parameter.empty) else f"Left out: {default}."
        found[name] = " ".join(filter(None, [told.get(name, ""), left_out]))
    return found


def _arguments(docstring: str) -> dict[str, str]:
    """Return the meaning of each argument in a docstring's `Args:`, on one line."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    entries = re.findall(
        r"^ {4}(\w+)(?: \(.*?\))?: *((?:.*\n?)(?: {5,}.*\n?|\n(?= {5,}))*)", section[1] if section else "", re.MULTILINE
    )
    return {name: " ".join(meaning.split()) for name, meaning in entries}
