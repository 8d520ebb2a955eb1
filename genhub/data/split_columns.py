"""Columns of a split by name, those that the recipe derives from others among them, and the modality of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import ValidationError

from genhub.data.raw import Joined, Numbers, StoredColumn
from genhub.data.recognition import modality_class
from genhub.errors import DataError, did_you_mean, first_fault
from genhub.interfaces.columns import ColumnConfig, DataConfig, ModelData
from genhub.interfaces.modality import Modality

FIRST = 10
"""Number of values that tell whether a column is of single numbers."""


def sources_of(name: str, said: ColumnConfig | None) -> tuple[str, ...]:
    """Return the names of the stored columns that a column is made from."""
    source = said.source if said else None
    return source if isinstance(source, tuple) else (source or name,)


def derived(name: str, said: ColumnConfig | None, stored: Mapping[str, StoredColumn]) -> StoredColumn:
    """Return a column as it is made from those that are stored."""
    parts = [stored[source] for source in sources_of(name, said)]
    if said is None or not isinstance(said.source, tuple):
        return parts[0].called(name)
    joined = Joined(tuple(part.stored for part in parts))
    return StoredColumn(name, parts[0].title, joined, _numbers_of(parts), parts[0].where, parts[0].remote)


def _numbers_of(parts: Sequence[StoredColumn]) -> Numbers | None:
    """Return the names of the numbers of columns that are joined; None where one is of vectors without names."""
    names = list[str]()
    for part in parts:
        first = next((value for value in part.raw(part.spread(FIRST)) if value is not None), None)
        if numbers := getattr(part.feature, "numbers", None):
            names += numbers
        elif isinstance(first, Sequence | np.ndarray) and not isinstance(first, str):
            return None
        else:
            names.append(part.name)
    return Numbers(tuple(names))


def _holds_texts(feature: Any) -> bool:
    """Whether the values of a feature of `datasets` are texts, or may be."""
    return "string" in str(getattr(feature, "dtype", "")) or type(feature).__name__ == "Json"


class SplitColumns:
    """Columns of a split, and those made of them. A modality is learnt when it is first asked for; one that is known
    already, as a model's columns are, is never learnt again."""

    def __init__(self, stored: Mapping[str, StoredColumn], config: DataConfig, known: ModelData | None) -> None:
        """
        Raises:
            DataError: `data.columns` names a column that there isn't.
        """
        self.config, self.known = config, known
        self._check_derived(stored)
        self._stored = dict(stored) | {name: derived(name, said, stored) for name, said in config.columns.items()}
        self._learnt: dict[str, Modality] = {}

    def _check_derived(self, stored: Mapping[str, StoredColumn]) -> None:
        for name, said in self.config.columns.items():
            for source in sources_of(name, said):
                if source not in stored:
                    key = f"data.columns.{name}" + (".from" if said.source else "")
                    raise DataError(f"{key}: {self._no_column(source, stored)}")

    def _no_column(self, name: str, there: Mapping[str, object] | Sequence[str]) -> str:
        """Return the tail of a message that there is no such column."""
        nearest = did_you_mean(name, there)
        listing = f" the columns: {', '.join(there)}" if nearest.startswith("did") else ""
        return f"{self.config.title} has no column '{name}'; {nearest}{listing}"

    @cached_property
    def _classes(self) -> dict[str, tuple[str, type[Modality]]]:
        """The modality of each column that is recognised: its name and its class."""
        found = {name: modality_class(column, self.config.columns.get(name)) for name, column in self._stored.items()}
        return {name: its for name, its in found.items() if its is not None}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that are recognised."""
        return tuple(self._classes)

    def recognised(self, name: str) -> tuple[str, type[Modality]]:
        """Return the modality of a recognised column, its name and its class; nothing is learnt."""
        return self._classes[name]

    @property
    def unrecognised(self) -> tuple[str, ...]:
        """Names of the columns that no modality reads."""
        return tuple(name for name in self._stored if name not in self._classes)

    def target(self) -> str:
        """Return the column that a model learns to draw: the one that the recipe names, the known one, or the only one that
        can be drawn.

        Raises:
            DataError: there is none, or several would do.
        """
        if self.config.target is not None:
            return self._checked(self.config.target, "data.target")
        if self.known and self.known.column in self._stored:
            return self.known.column
        found = [name for name, (_, cls) in self._classes.items() if cls.can_be_target]
        if len(found) > 1:
            raise DataError(f"data.target: several columns would do; set it to one of: {', '.join(found)}")
        if not found:
            kinds = ", ".join(f"{name} ({kind})" for name, (kind, _) in self._classes.items())
            kinds = ", ".join(filter(None, [kinds, *self.unrecognised]))
            raise DataError(
                f"data.target: no column of {self.config.title} can be drawn; it has {kinds}. Say of one what it is, "
                "data.columns.NAME.modality, or make a vector of numbers: {from: [a, b], modality: vector}"
            )
        return found[0]

    def conditions(self, names: Sequence[str], target: str) -> tuple[str, ...]:
        """Return the names of the conditions, checked."""
        for name in names:
            self._checked(name, "model.conditions")
            if name == target:
                raise DataError(f"model.conditions: '{name}' is what the model draws (data.target)")
        return tuple(names)

    def _checked(self, name: str, key: str) -> str:
        if name not in self._stored:
            raise DataError(f"{key}: {self._no_column(name, self._stored)}")
        if self._known(name, key == "data.target"):
            return name
        if name not in self._classes:
            raise DataError(f"{key}: of column '{name}' genhub can't see what it is; say data.columns.{name}.modality")
        kind, cls = self._classes[name]
        if key == "data.target" and not cls.can_be_target:
            hint = "; {from: [a, b], modality: vector} makes a vector of numbers" if kind == "number" else ""
            raise DataError(f"data.target: '{name}' is a {kind}, which can be a condition alone{hint}")
        return name

    def _known(self, name: str, target: bool) -> Modality | None:
        if self.known is None:
            return None
        return self.known.target if target else self.known.conditions.get(name)

    def stored(self, name: str) -> StoredColumn:
        """Return a column as it is stored."""
        return self._stored[name]

    def made_from(self, name: str) -> tuple[str, ...]:
        """Return the names of the stored columns that a column is made from."""
        return sources_of(name, self.config.columns.get(name))

    def formula(self, name: str, target: str) -> Callable[[Any], Any] | None:
        """Return the function of the target's values (n, *shape), in their own units, that gives those of a column: one that
        was computed from it, or one of the numbers that it is a vector of; None where nobody knows one."""
        stored, made_from = self._stored[name], self.made_from(name)
        if stored.formula and (stored.formula.of,) == self.made_from(target):
            return stored.formula.function
        numbers: tuple[str, ...] = getattr(self._stored[target].feature, "numbers", ())
        if len(made_from) == 1 and made_from[0] in numbers:
            place = numbers.index(made_from[0])
            return lambda values: values[:, place]
        return None

    def is_known(self, name: str, target: str) -> bool:
        """Whether a column's modality is known already."""
        return self._known(name, name == target) is not None

    def modality(self, name: str, target: str) -> Modality:
        """Return the modality of a recognised column, learnt from it where it isn't known.

        Raises:
            DataError: the column can't be of this modality.
        """
        if known := self._known(name, name == target):
            self._refuse_paths(name, type(known))
            self._check_options(name, known)
            return known
        if name not in self._learnt:
            kind, cls = self._classes[name]
            self._refuse_paths(name, cls)
            said = self.config.columns.get(name)
            try:
                options = said.options(kind) if said else cls.Options()
                self._learnt[name] = cls.learn(self._stored[name], options)
            except ValidationError as error:
                raise DataError(f"data.columns.{name}: {first_fault(error)}") from error
            except ValueError as error:
                raise DataError(f"data.columns.{name}: {error}") from error
        return self._learnt[name]

    def _refuse_paths(self, name: str, cls: type[Modality]) -> None:
        """
        Raises:
            DataError: the modality reads files, and of somebody else's column the values are texts, which it would take for
                paths of this machine.
        """
        column = self._stored[name]
        if column.remote and cls.endings and _holds_texts(column.feature):
            raise DataError(
                f"data.columns.{name}: its rows are texts, and a text of {self.config.title} is no path of this machine; "
                "refused. The data must hold the files themselves"
            )

    def _check_options(self, name: str, known: Modality) -> None:
        """
        Raises:
            DataError: the recipe's keys for a column give it another shape than the known one.
        """
        said, stored = self.config.columns.get(name), self._stored[name]
        if said is None or not said.model_extra or name not in self._classes:
            return
        kind, cls = self._classes[name]
        if cls.claims & said.model_extra.keys():  # by which it is made of all its values
            return
        one = stored.first_of()
        try:
            with_keys, plain = (cls.learn(one, options).shape for options in (said.options(kind), cls.Options()))
        except ValueError:  # its first value can't be read, and is told when it is read
            return
        sides = zip(with_keys, plain, known.shape, strict=False)
        if any(side != without and side != of_known for side, without, of_known in sides):
            made, had = ("x".join(map(str, shape)) for shape in (with_keys, known.shape))
            keys = ", ".join(said.model_extra)
            raise DataError(f"data.columns.{name}: by {keys} it is {made}, and the model's is {had}; leave {keys} out")

    def can_be_classes(self, name: str) -> bool:
        """Whether a recognised column may have classes: its modality is known to, or is learnt from it to find out; what can
        be drawn never is."""
        return self._known(name, target=False) is not None or not self._classes[name][1].can_be_target
