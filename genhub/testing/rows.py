"""Rows of a modality that are made up, where no real ones are at hand: random, and written as a parquet file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from genhub.interfaces.columns import ModelData
from genhub.interfaces.modality import Modality

NUMBER = 256
"""Number of rows in a file of them."""


def made_rows(modality: Modality, n: int, seed: int = 0) -> Tensor:
    """Return values (n, *shape) in the column's own units: each of the whole numbers that are kept is as likely as any
    other, and what is kept as floating point has mean 0 and deviation 1 as networks get it."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, *modality.shape)
    if "int" in modality.dtype:
        kept = torch.randint(modality.classes or modality.levels or 128, shape, generator=generator)
        return modality.from_batch(modality.to_batch(kept.to(getattr(torch, modality.dtype))))
    return modality.from_batch(torch.randn(shape, generator=generator))


def write_parquet(columns: Mapping[str, tuple[Modality, Tensor]], file: Path) -> None:
    """Write columns of values, in their own units, as rows of a parquet file."""
    import pyarrow.parquet
    from datasets import Dataset, Features

    rows = {name: modality.to_rows(values) for name, (modality, values) in columns.items()}
    features = Features({name: modality.feature() for name, (modality, _) in columns.items()})
    pyarrow.parquet.write_table(Dataset.from_dict(rows, features=features).data.table, file)


def write_rows(data: ModelData, file: Path) -> None:
    """Write rows of a model's columns as a parquet file, as genhub writes drawn ones."""
    columns = {data.column: data.target, **data.conditions}
    made = {name: (modality, made_rows(modality, NUMBER, seed)) for seed, (name, modality) in enumerate(columns.items())}
    write_parquet(made, file)
