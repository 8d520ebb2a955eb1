"""Open the data that a recipe names: rows in memory, rows read from the disk when needed, or a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from genhub.data.batches import IN_MEMORY_BYTES, TableData, check_flip
from genhub.data.contents import content_of
from genhub.data.objects import stored_name
from genhub.data.raw import Index, Source
from genhub.data.reading import Faults, Kept, RowReader, fault_of, read_all
from genhub.data.sources import find_source
from genhub.data.split_columns import SplitColumns
from genhub.data.stream import StreamData, open_stream
from genhub.data.tables import StreamSource
from genhub.errors import DataError, first_fault
from genhub.ground.digests import hash_of
from genhub.interfaces.columns import DataConfig, ModelData, described
from genhub.interfaces.modality import Modality

STORED_CONTENT = "stored-"
"""Prefix of fingerprints that are of stored bytes, where the values are not in memory."""


def open_data(config: DataConfig, conditions: Sequence[str] = (), known: ModelData | None = None) -> TableData | StreamData:
    """Open the rows or the stream that a recipe's `data` names, to be trained on.

    Args:
        conditions: columns that a model is given.
        known: the columns of a model that was made for such data: they are read by its modalities, and never learnt again.
    Raises:
        DataError: it is not there, can't be read or can't be streamed.
    """
    if not config.streaming:
        return load_data(config, conditions, known)
    if config.in_memory:
        raise DataError("data.in_memory: a stream is not kept in memory; leave it out, or data.streaming")
    source = find_source(config)
    if not isinstance(source, StreamSource):
        raise DataError(
            f"data.streaming: {config.title} can't be streamed: {source.not_streamed}; parquet, arrow, JSON lines and Hub "
            "data sets can"
        )
    return open_stream(source, config, conditions, known)


def load_data(
    data: Any = "digits", conditions: Sequence[str] = (), known: ModelData | None = None, **keys: Any
) -> TableData:
    """Find the columns that a recipe's `data` names, and read them if they are to be kept in memory.

    Args:
        data: a `DataConfig`; a name as `data.name` takes it; or a Python object: a datasets.Dataset, a torch Dataset of
            dicts, tuples or tensors, an array or tensor or a dict of them, a pandas frame, a list of PIL images.
        conditions: columns that a model is given.
        known: the columns of a model that was made for such data: they are read by its modalities, and never learnt again.
        keys: more keys of `data`: target, columns, split, ...
    Raises:
        DataError: there are none, they are a stream, or they can't be read or don't fit together: which, and what to do.
    """
    config = config_of(data, keys)
    if config.streaming:
        raise DataError(
            "data.streaming: this needs rows by number, which a stream doesn't have; add data.streaming=false, and "
            "perhaps data.split=train[:10000]"
        )
    source = find_source(config)
    assert isinstance(source, Source)
    if not len(source):
        raise DataError(f"data.name: {config.title} has no rows in split {config.split}")
    columns = SplitColumns(source.columns, config, known)
    target = columns.target()
    names = (target, *columns.conditions(conditions, target))
    return _read(source, columns, names)


def config_of(data: Any, keys: Mapping[str, Any]) -> DataConfig:
    """Return the section `data` that names data, or a Python object, with more keys."""
    if isinstance(data, DataConfig):
        said = data.model_dump(exclude_unset=True)
    else:
        said = {"name": data if isinstance(data, str) else stored_name(data)}
    try:
        return DataConfig(**{**said, **keys})
    except ValidationError as error:
        raise DataError(f"data.{first_fault(error)}") from error


def _read(source: Source, columns: SplitColumns, names: Sequence[str]) -> TableData:
    """Read the target and the conditions, where they are kept."""
    config, target = columns.config, names[0]
    missing = columns.stored(target).stored.missing()
    rows: Index = np.flatnonzero(~missing)
    if not len(rows):
        raise DataError(f"data.target: no row of {config.title} has a value of '{target}'")
    modalities = {name: columns.modality(name, target) for name in names}
    check_flip(config, modalities)
    notes = [f"{missing.sum():,} of {len(source):,} rows have no {target}, and are left out"] if missing.any() else []
    notes += [f"{config.title}: {note}" for note in source.notes]
    notes += [note for name in names if not columns.is_known(name, target) for note in _notes(columns, name, modalities)]
    kept = {
        name: read_all(columns.stored(name), modality, rows, wider=not columns.is_known(name, target))
        for name, modality in modalities.items()
        if _in_memory(config, modality, modalities, len(rows))
    }
    rows, skipped = _left_out(columns, kept, rows, len(source))
    modalities |= {name: column.modality for name, column in kept.items()}
    lazy = {name: (columns.stored(name), modality) for name, modality in modalities.items() if name not in kept}
    reader = RowReader(lazy, rows, config.on_error)
    values = {name: torch.from_numpy(column.values) for name, column in kept.items()}
    present = {name: torch.from_numpy(_present(columns, name, kept, rows)) for name in names}
    prints = {name: fingerprint(columns, name, modality, kept.get(name), rows) for name, modality in modalities.items()}
    spec = described(
        name=config.title, split=config.split, target=target, columns=modalities, num_rows=len(rows), fingerprints=prints
    )
    content = hash_of(*(prints[name] for name in sorted({target, *lazy})), config.on_error) if lazy else prints[target]
    return TableData(config, spec, content, skipped, tuple(notes), rows, columns, values, present, reader)


def _in_memory(config: DataConfig, modality: Modality, modalities: Mapping[str, Modality], length: int) -> bool:
    """Whether a column is kept in memory: single numbers always, all others together."""
    size = sum(length * prod(its.shape) * np.dtype(its.dtype).itemsize for its in modalities.values())
    return not modality.shape or (size <= IN_MEMORY_BYTES if config.in_memory is None else config.in_memory)


def _notes(columns: SplitColumns, name: str, modalities: Mapping[str, Modality]) -> Sequence[str]:
    """Return what is odd about a column that was just learnt."""
    return [f"data.columns.{name}: {note}" for note in modalities[name].notes(columns.stored(name))]


def _left_out(columns: SplitColumns, kept: dict[str, Kept], rows: Index, total: int) -> tuple[Index, Faults]:
    """Take out of all columns the rows of which one can't be read; return the rows that are left, and what was wrong.

    Raises:
        DataError: there are such rows, and `data.on_error` says `fail`; or none is left.
    """
    on_error, bad, skipped = columns.config.on_error, set[int](), Faults()
    for name, column in kept.items():
        faults = [(int(rows[place]), reason) for place, reason in column.faults]
        if faults and (on_error == "fail" or len(faults) == len(rows)):
            raise fault_of(columns.stored(name), faults, total, on_error)
        skipped += [(row, f"{columns.stored(name).place(row)}: {reason}") for row, reason in faults]
        bad |= {place for place, _ in column.faults}
    if not bad:
        return rows, skipped
    left = np.delete(np.arange(len(rows)), sorted(bad))
    if not len(left):
        raise DataError(f"data: none of the {total:,} rows of {columns.config.title} can be read wholly")
    for name, column in kept.items():
        kept[name] = Kept(column.modality, column.values[left], column.present[left], [])
    return rows[left], sorted(skipped)


def _present(columns: SplitColumns, name: str, kept: Mapping[str, Kept], rows: Index) -> Any:
    return kept[name].present if name in kept else ~columns.stored(name).stored.missing()[rows]


def fingerprint(columns: SplitColumns, name: str, modality: Modality, kept: Kept | None, rows: Index) -> str:
    """Return what changes when a value of a column or the rows' order changes: of what is kept, else of what is stored."""
    if kept is not None:
        present = () if kept.present.all() else (kept.present,)
        return hash_of(kept.values.shape, kept.values, *present)
    stored = columns.stored(name)
    return STORED_CONTENT + hash_of(content_of(stored, columns.config), modality.model_dump_json(), rows)
