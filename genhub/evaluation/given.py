"""Say what rows are given while they are measured, read data for it, and tell it in a protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.data.batches import Column, TableData
from genhub.data.encoded import with_encoders
from genhub.data.open import load_data
from genhub.errors import DataError
from genhub.ground.digests import hash_of
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.modality import Modality
from genhub.interfaces.model import Model
from genhub.sampling.request import Drawing
from genhub.store.manifest import FORMAT, MANIFEST, read_manifest
from genhub.store.run_folder import RECIPE


def data_for(model: Model, config: DataConfig) -> TableData:
    """Return data read as a model knows its columns, with its conditions; without any where the data lack one of them.

    Raises:
        DataError: they are not there, or can't be read.
    """
    known, names = model.config.data, tuple(model.conditions)
    try:
        return with_encoders(model, load_data(config, names, known))
    except DataError:
        found = load_data(config, (), known)  # which raises it again, unless it is about the conditions
        if set(names) <= set(found.available):
            raise
        return found


def recipe_of(checkpoint: Path) -> Path | None:
    """Return the recipe beside a model, which says what it was trained on; None where there is none, or it is of format 1,
    whose keys of data are others."""
    file, manifest = checkpoint / RECIPE, checkpoint / MANIFEST
    older = manifest.is_file() and read_manifest(checkpoint).format < FORMAT
    return file if file.is_file() and not older else None


def takes_rows(model: Model) -> bool:
    """Whether a model is given more than a column of classes, so that nobody can say at a guess what rows are given."""
    return len(model.conditions) > 1 or not all(modality.classes for modality in model.conditions.values())


@dataclass(frozen=True)
class WholeRows:
    """Real rows whose conditions a model is given."""

    data: TableData
    numbers: NDArray[np.int64]
    """Numbers of the rows, which are repeated in turn."""

    @property
    def split(self) -> str:
        return self.data.spec.split


def given_rows(drawing: Drawing, model: Model, splits: Sequence[TableData | DataError]) -> tuple[Drawing, WholeRows | None]:
    """Return a drawing for which somebody, or a single column of classes, says what rows are given as it is; of a model that
    is given more, one for the conditions of whole rows, always the same ones, of the first split that has them; and those
    rows."""
    conditions = model.conditions
    if drawing.conditions or not takes_rows(model):
        return drawing, None
    tables = (data for data in splits if isinstance(data, TableData))
    data = next((data for data in tables if conditions.keys() <= data.spec.columns.keys()), None)
    if data is None:
        return drawing, None
    rows = np.random.Generator(np.random.PCG64(0)).permutation(data.num_rows)[: drawing.n]
    return replace(drawing, conditions=conditions_at(data, conditions, rows)), WholeRows(data, rows)


def conditions_at(data: TableData, names: Iterable[str], rows: Any) -> dict[str, Tensor | list[Tensor | None]]:
    """Return columns of these rows as a drawing is given them: values as they are kept, None where a row has none."""
    return {name: _with_missing(data.column(name), rows) for name in names}


def _with_missing(column: Column, rows: Any) -> Tensor | list[Tensor | None]:
    values, present = column.kept(rows), column.present(rows).tolist()
    return values if all(present) else [value if has else None for value, has in zip(values, present, strict=True)]


def told(drawing: Drawing, model: Model) -> dict[str, tuple[Any, ...]]:
    """Return, by column, what rows are given in turn, as JSON: classes by name, numbers, anything larger by its hash."""
    asked = drawing.asked(model)
    return {name: tuple(_told(modality, row) for row in rows) for name, (modality, rows) in asked.items()}


def _told(modality: Modality, row: Any) -> Any:
    if row is None:
        return None
    value = torch.as_tensor(row)
    if modality.classes:
        return modality.caption(value)
    return value.item() if value.ndim == 0 else hash_of(value.numpy())
