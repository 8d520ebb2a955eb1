"""Read what a user asks a model for: values of its conditions, as a person gives them, to values as they are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.errors import InputError, did_you_mean
from genhub.interfaces.modality import Modality
from genhub.interfaces.model import Model
from genhub.sampling.typed import Typed


def read_conditions(model: Model, asked: Mapping[str, Any]) -> dict[str, list[NDArray[Any]]]:
    """Return the values that a person asks for, by column, each as it is kept.

    Args:
        asked: by column, a value or a list of them. A value is what the column's modality reads, in the column's own units:
            a class by its name, a number, an array, a path. A text is split as on the command line: "cat,dog" are two
            labels, while no caption is cut at its commas.
    Raises:
        InputError: the model is not told that, there is no such value, or none is given.
    """
    return {name: _values(name, _modality(model, name), values) for name, values in asked.items()}


def told(model: Model) -> dict[str, str]:
    """Return what a model can be told, by column, in a few words."""
    return {name: modality.told() for name, modality in model.conditions.items()}


def _modality(model: Model, name: str) -> Modality:
    if name in model.conditions:
        return model.conditions[name]
    if not model.conditions:
        raise InputError(f"--condition {name}: {type(model).__name__} is given nothing; leave it out")
    raise InputError(f"--condition {name}: this model is not told it; {did_you_mean(name, model.conditions)}")


def _values(name: str, modality: Modality, values: Any) -> list[NDArray[Any]]:
    try:
        return [_kept(modality, value) for value in _listed(modality, values)]
    except Exception as error:  # a modality's reader may raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"--condition {name}: {reason}") from error


def _kept(modality: Modality, value: Any) -> NDArray[Any]:
    asked = np.asarray(modality.ask(str(value) if isinstance(value, Path) else value))
    fits = asked if asked.shape == modality.shape else modality.narrowed(asked)
    kept = np.array(asked if fits is None else fits, dtype=modality.dtype)
    if kept.shape != modality.shape:
        sides = "x".join(map(str, kept.shape)) or "one number"
        raise ValueError(f"must be {modality.told()}, not {sides}")
    return kept


def _listed(modality: Modality, values: Any) -> list[Any]:
    """Return the values one by one: several are a list of them, or an array with one more dimension than an element has."""
    found: list[Any]
    if isinstance(values, str | Typed):
        texts = values if isinstance(values, Typed) else Typed([values])
        found = [part for text in texts for part in modality.split(text)]
    elif isinstance(values, Tensor | np.ndarray):
        found = list(values) if values.ndim > len(modality.shape) else [values]
    elif isinstance(values, list | tuple | range):
        found = [values] if _is_one(values, len(modality.shape)) else list(values)
    else:
        found = [values]
    if not found:
        raise ValueError(f"none is given; leave it out, or give {modality.told()}")
    return found


def _is_one(values: Any, rank: int) -> bool:
    """Whether nested lists of numbers are one element of so many dimensions: [1, 2] is a point, [[1, 2]] a list of one."""
    depth, first = 0, values
    while isinstance(first, list | tuple) and first:
        depth, first = depth + 1, first[0]
    return isinstance(first, int | float) and 0 < depth <= rank


def captions_of(columns: Iterable[tuple[Modality, Any]], numbers: Iterable[int]) -> list[str]:
    """Return what rows by number are given, in a word or two; [] where nothing can be said of any.

    Args:
        columns: the modality of each, and its values as `kept_rows` takes them.
    """
    numbers, said = list(numbers), []
    for modality, values in columns:
        turns = [number % len(values) for number in numbers]
        different = sorted(set(turns))
        kept, there = kept_rows(values, modality, different)
        words = [modality.caption(row) if has else "" for row, has in zip(kept, there.tolist(), strict=True)]
        by_turn = dict(zip(different, words, strict=True))
        said.append([by_turn[turn] for turn in turns])
    captions = [", ".join(filter(None, words)) for words in zip(*said, strict=True)]
    return captions if any(captions) else []


def kept_rows(values: Any, modality: Modality, numbers: list[int]) -> tuple[Tensor, Tensor]:
    """Return the values of rows by number, as they are kept, and which of the rows have one: a list is repeated in turn, and
    None is no value.

    Args:
        values: a tensor (k, *shape), or a list of arrays or None.
    """
    nothing = torch.zeros(modality.shape, dtype=getattr(torch, modality.dtype))
    rows = [values[number % len(values)] for number in numbers]
    there = torch.tensor([row is not None for row in rows], dtype=torch.bool)
    kept = [nothing if row is None else torch.as_tensor(row).reshape(modality.shape) for row in rows]
    return torch.stack(kept) if kept else nothing.expand(0, *modality.shape), there
