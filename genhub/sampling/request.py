"""A request for what a model is to draw, as one object for everything that draws."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genhub.ground.brief import Brief
from genhub.ground.digests import digest_of, hash_of
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.modality import Modality
from genhub.interfaces.model import Model
from genhub.sampling.asked import captions_of, kept_rows, read_conditions
from genhub.sampling.options import read_options

NUMBER = 64
"""Number of rows to draw where nobody says one."""


@dataclass(frozen=True, repr=False)
class Drawing(Brief):
    """Rows to draw from a model. Row i depends on the seed, the conditions, the options and i alone."""

    n: int
    """Number of rows."""
    seed: int = 0
    conditions: Mapping[str, Tensor | Sequence[Any]] = field(default_factory=dict)
    """By column, what the rows are given, as it is kept: a tensor (k, *shape), or a list of arrays, None for a row that has
    none. Fewer than n are repeated in turn; those of several columns are paired row by row. Of a column that is not named, a
    model's classes take turns, and no row has anything else."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the model's `sample`."""
    batch_size: int | None = None
    """Rows drawn at once, at most: halved until memory is enough. None: 256; on a CPU, as many of them as have 50,000
    numbers."""
    first: int = 0
    """The number of the first row."""

    @classmethod
    def of(
        cls, model: Model, n: int | None, options: Mapping[str, Any], *, seed: int = 0,
        conditions: Mapping[str, Any] | None = None, batch_size: int | None = None,
    ) -> Drawing:  # fmt: skip
        """Return the drawing that a user asks of a model, with conditions as a person gives them: see `read_conditions`.

        Args:
            n: None: the length of the longest list of conditions, 64 without any.
        Raises:
            InputError: an option, a condition or a value that the model does not have.
        """
        checked, given = read_options(model, options), read_conditions(model, conditions or {})
        longest = max((len(values) for values in given.values()), default=NUMBER)
        return cls(longest if n is None else n, seed, given, checked, batch_size)

    def part(self, numbers: range) -> Drawing:
        """Return the drawing of some of the rows."""
        return replace(self, n=len(numbers), first=numbers.start)

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.n)

    def asked(self, model: Model) -> dict[str, tuple[Modality, Tensor | Sequence[Any]]]:
        """Return the conditions that rows have, by column: the modality, and the values that are repeated in turn, as they
        are kept; those of classes that take turns, too."""
        turns = {name: torch.arange(modality.classes) for name, modality in model.conditions.items() if modality.classes}
        wanted = turns | dict(self.conditions)
        return {name: (modality, wanted[name]) for name, modality in model.conditions.items() if name in wanted}

    def conditions_of(self, model: Model, numbers: Iterable[int] | None = None) -> Conditions:
        """Return what rows are given, on the model's device.

        Args:
            numbers: of the rows; None: all.
        """
        rows = list(self.numbers if numbers is None else numbers)
        conditions = Conditions.nothing(model.conditions, len(rows))
        values, present = dict(conditions.values), dict(conditions.present)
        for name, (modality, wanted) in self.asked(model).items():
            kept, present[name] = kept_rows(wanted, modality, rows)
            values[name] = modality.to_batch(kept)
        return Conditions(values, present).to(model.device)

    def captions(self, model: Model) -> list[str]:
        """Return what each row is given, in a word or two; [] where nothing can be said of any."""
        return captions_of(self.asked(model).values(), self.numbers)

    def identity(self, model: Model) -> Any:
        """Return what the rows depend on, as JSON has it: the model's hash, the seed, conditions and options. A callback
        only watches, and is no part of it."""
        conditions = {name: [_seen(row) for row in wanted] for name, (_, wanted) in self.asked(model).items()}
        options = {name: value for name, value in self.options.items() if not callable(value)}
        content = {"model": digest_of(model), "seed": self.seed, "conditions": conditions, "options": options}
        return json.loads(json.dumps(content, default=repr))


def _seen(row: Any) -> Any:
    """Return a kept value as a record has it: a number itself, anything else by its hash."""
    array = None if row is None else np.asarray(row)
    return None if array is None else array.item() if array.ndim == 0 else hash_of(array)
