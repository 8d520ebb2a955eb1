"""Checks of options that a user gives by name (`--set` of sample, evaluate and show) against a function's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from genhub.errors import VALUE, InputError, cut, did_you_mean, explained
from genhub.interfaces.annotations import without_booleans
from genhub.interfaces.model import Model
from genhub.interfaces.sampler_options import OWN, option_names


def read_options(model: Model, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for the keyword arguments of a model's `sample`, checked against its signature.

    Raises:
        InputError: an unknown option, one of the wrong type, or one that would change nothing.
    """
    sample = type(model).sample
    # A callback can be given from Python alone.
    called = [name for name in inspect.signature(sample).parameters if name not in OWN and callable(values.get(name))]
    known = list(dict.fromkeys([*option_names(sample), *called]))
    checked = check_arguments(sample, values, known, option="--set ", owner=type(model).__name__)
    for name, reason in model.unused_options(checked).items():
        raise InputError(f"--set {name}: changes nothing here: {reason}")
    return checked


def check_arguments(
    function: Callable[..., Any], values: Mapping[str, Any], known: Iterable[str], *, option: str, owner: str
) -> dict[str, Any]:
    """Return values for a function's arguments `known`, checked against its annotations; `option` and `owner` are how a
    message calls an argument, and whose it is.

    Raises:
        InputError: an unknown argument, or one of the wrong type.
    """
    hints = get_type_hints(function, include_extras=True)
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{option}{cut(name, VALUE)}: {owner} has no such option; {did_you_mean(name, known)}")
        try:
            checked[name] = TypeAdapter(hints[name]).validate_python(without_booleans(hints[name], value))
        except ValidationError as error:
            raise InputError(f"{option}{name}: {explained(error.errors(include_url=False)[0])}") from error
    return checked
