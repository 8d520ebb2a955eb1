"""Recognise what a column is: built-in modalities are asked first, then those of plugins."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from genhub.data.raw import StoredColumn
from genhub.errors import DataError, PluginError
from genhub.interfaces.columns import ColumnConfig, DataConfig
from genhub.interfaces.modality import Modality
from genhub.interfaces.registry import MODALITIES, load_class, plugins

LOOKED_AT, MOST_LOOKED_AT = 10, 1000
"""Number of values that tell what a column is; and of those that are single numbers or texts."""


@cache
def registered() -> tuple[tuple[tuple[str, type[Modality]], ...], tuple[tuple[str, type[Modality]], ...]]:
    """Return the registered modalities with their names: genhub's own, and those of plugins."""
    own = [plugin.name for plugin in plugins(MODALITIES) if plugin.value.startswith("genhub.")]
    others = [plugin.name for plugin in plugins(MODALITIES) if plugin.name not in own]
    of = tuple(tuple((name, load_class(MODALITIES, name)) for name in names) for names in (own, others))
    return of[0], of[1]


def modality_class(column: StoredColumn, said: ColumnConfig | None) -> tuple[str, type[Modality]] | None:
    """Return a column's modality, its name and its class: the one that is said, by name or by a key that it claims, else the
    one that recognises it; None where none does.

    Raises:
        DataError: two plugins' modalities recognise it, or the one that is said can't be used.
    """
    if said and said.modality:
        try:
            return said.modality, load_class(MODALITIES, said.modality, Path.cwd())
        except PluginError as error:
            raise DataError(f"data.columns.{column.name}.modality: {error}") from error
    own, others = registered()
    if said and said.model_extra:
        claimed = [each for each in (*own, *others) if each[1].claims & said.model_extra.keys()]
        if len(claimed) == 1:
            return claimed[0]
    values = _some_values(column)
    if values and isinstance(values[0], str | int) and not hasattr(column.feature, "names"):
        named = next((each for each in own if column.name in each[1].called), None)
        if named:
            return named
    for each in own:
        if _recognises(each[1], column.feature, values):
            return each
    found = [each for each in others if _recognises(each[1], column.feature, values)]
    if len(found) > 1:
        names = " and ".join(name for name, _ in found)
        raise DataError(
            f"data.columns.{column.name}: both {names} read such a column; say data.columns.{column.name}.modality"
        )
    return found[0] if found else None


def _some_values(column: StoredColumn) -> list[Any]:
    values = [value for value in column.raw(column.spread(LOOKED_AT)) if value is not None]
    if values and not column.has_paths and all(isinstance(value, str | int | float) for value in values):
        values = [value for value in column.raw(column.spread(MOST_LOOKED_AT)) if value is not None]
    return values


def _recognises(cls: type[Modality], feature: Any, values: list[Any]) -> bool:
    return bool(values) and cls.recognise(feature, values)


def file_modalities(config: DataConfig) -> dict[str, str]:
    """Return, for each ending of files that a modality reads, the column that such files make: the one that the recipe says
    has this modality, else one that is called by it. Built-in modalities come first, then plugins', then classes of one's
    own."""
    said = {column.modality: name for name, column in config.columns.items() if column.modality and column.source is None}
    found: dict[str, str] = {}
    for name, cls in (*registered()[0], *registered()[1]):
        found |= {ending: said.get(name, name) for ending in cls.endings if ending not in found}
    for modality, name in said.items():
        if ":" in modality:
            found |= dict.fromkeys(load_class(MODALITIES, modality, Path.cwd()).endings, name)
    return found
