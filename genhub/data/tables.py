"""Read tables through `datasets`: parquet, arrow, text, what `Dataset.save_to_disk` wrote, Hub data sets; and streams."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genhub.data.footers import check_no_bomb, rows_in, schema_of
from genhub.data.lines import JSON, TEXTS, read_texts
from genhub.data.raw import Source, StoredColumn, first_line, numbered, parts_of
from genhub.errors import DataError
from genhub.ground.digests import sampled_hash
from genhub.ground.ids import DATASETS, nearest_path
from genhub.hub.client import connect
from genhub.interfaces.columns import DataConfig

SAVED = "saved"
"""Name, in the place of a format's, for a folder that `Dataset.save_to_disk` wrote."""
TABLES = {".parquet", ".arrow"} | TEXTS
"""Endings of files that are tables."""
MAPPED = "it is read where it lies, and not copied"
"""Reason why a folder that `datasets` saved is no stream."""


@dataclass(frozen=True, eq=False)
class TableColumn:
    """Values of one column of a `datasets.Dataset`, which has that column alone, undecoded."""

    table: Any
    name: str
    remote: bool = False
    """Whether it is somebody else's, from the Hub: a path among the rows must be one of the fetched files."""

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: Sequence[int]) -> Sequence[Any]:
        values: Sequence[Any] = self.table[list(rows)][self.name]
        return checked(values, self.remote)

    def missing(self) -> NDArray[np.bool_]:
        import pyarrow as pa

        masks = [np.zeros(0, np.bool_)]
        for chunk in self.table.data.column(self.name).chunks:
            mask = chunk.is_null().to_numpy(zero_copy_only=False)
            fields = {field.name for field in chunk.type} if pa.types.is_struct(chunk.type) else set()
            if {"bytes", "path"} <= fields:
                empty = [chunk.field(name).is_null().to_numpy(zero_copy_only=False) for name in ("bytes", "path")]
                mask = mask | (empty[0] & empty[1])
            masks.append(mask)
        return np.concatenate(masks)

    def whole(self) -> NDArray[Any] | None:
        import pyarrow as pa

        feature = self.table.features[self.name]
        column = self.table.data.column(self.name)
        if hasattr(feature, "names"):
            return None
        if type(feature).__name__.startswith("Array") and not column.null_count:
            found: NDArray[Any] = self.table[:][self.name]
            return found if found.dtype.kind in "biuf" else None
        kind, depth = column.type, 0
        while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind, depth = kind.value_type, depth + 1
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)) or depth > 1:
            return None
        if not depth:
            return np.asarray(column.to_numpy())
        lists = column.combine_chunks()
        lists = pa.concat_arrays(lists.chunks) if isinstance(lists, pa.ChunkedArray) else lists
        lengths = {length.as_py() for length in lists.value_lengths().unique()}
        numbers = lists.flatten()
        if len(lengths) != 1 or None in lengths or numbers.null_count:
            return None
        return np.asarray(numbers.to_numpy(zero_copy_only=False)).reshape(len(lists), -1)

    def files(self) -> list[str]:
        chunks = self.table.data.column(self.name).chunks
        struct = "fields" in dir(chunks[0].type) if chunks else False
        if struct and any(chunk.field("bytes").null_count for chunk in chunks if chunk.type.get_field_index("bytes") >= 0):
            return []
        return [entry["filename"] for entry in self.table.cache_files]


def checked(values: Sequence[Any], remote: bool) -> Sequence[Any]:
    """Return stored values as modalities know them: bytes as `datasets` has an image's, and None where there are none.

    Raises:
        DataError: of somebody else's rows, one is the path of a file that was not fetched with them.
    """
    if isinstance(values, np.ndarray) or not any(isinstance(value, bytes | Mapping) for value in values):
        return values
    found = [{"bytes": value, "path": None} if isinstance(value, bytes) else value for value in values]
    files = [value for value in found if isinstance(value, Mapping) and {"bytes", "path"} <= value.keys()]
    if remote:
        refuse_outside(files)
    return [None if isinstance(value, Mapping) and value.get("bytes", 0) is value.get("path", 0) is None else value
            for value in found]  # fmt: skip


def refuse_outside(values: Sequence[Mapping[str, Any]]) -> None:
    """
    Raises:
        DataError: a value is the path of a file that was not fetched with the data.
    """
    import datasets
    from huggingface_hub import constants

    paths = [value["path"] for value in values if value["bytes"] is None and value["path"] is not None]
    fetched = [Path(each).resolve() for each in (constants.HF_HUB_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)]
    for path in paths:
        if not any(Path(path).resolve().is_relative_to(folder) for folder in fetched):
            raise DataError(f"data.name: a row names the file {path:.200}, which did not come with the data; refused")


@dataclass(frozen=True)
class StreamSource:
    """One split of a table that is read as it comes."""

    table: Any
    """An IterableDataset, undecoded."""
    features: Mapping[str, Any]
    """By column: what `datasets` knows it by."""
    seen: tuple[Any, ...]
    """Marks of the files, by which they are told from others."""
    length: int
    """Number of rows, as far as is known; else 0."""
    remote: bool


def files_source(files: Mapping[str, str], config: DataConfig) -> Source | StreamSource:
    """Return the columns of several tables, which must have one format, the same columns and the same classes.

    Args:
        files: each with the key that names it, for messages.
    """
    from datasets import ClassLabel, Dataset, Features

    first, *others = files
    kind = Path(first).suffix
    for file in others:
        if Path(file).suffix != kind:
            raise DataError(f"{files[file]}: {file} is no {kind} file, and {first} is; give files of one format")
    if kind in JSON and config.streaming:
        return table_source(config, "json", data_files=list(files), parse_agent_traces=False)
    if kind in TEXTS:
        found = _chosen(config, {"train": Dataset(read_texts(files))}, {}, remote=False)
        return replace(found, not_streamed="what a CSV's columns are is known when all of it is read")
    seen: dict[str, Any] = {}
    for file in files if others else ():  # footers alone; datasets reads the first file's features only
        try:
            seen[file] = Features.from_arrow_schema(schema_of(file))
        except Exception as error:
            raise DataError(f"{files[file]}: {file}: {first_line(error)}") from error
        if seen[file].keys() != seen[first].keys():
            columns = [", ".join(seen[each]) for each in (file, first)]
            raise DataError(f"{files[file]}: {file} has the columns {columns[0]}, and {first} has {columns[1]}")
        for column, feature in seen[file].items():
            names = [each.names for each in (feature, seen[first][column]) if isinstance(each, ClassLabel)]
            if len(names) == 2 and names[0] != names[1]:
                raise DataError(f"{files[file]}: {file}: the classes of '{column}' are not those of {first}, in their order")
    return table_source(config, kind[1:], data_files=list(files))


def table_source(config: DataConfig, path: str, **options: Any) -> Source | StreamSource:
    """Return the columns that `datasets` loads; since version 4 it runs no code that comes with data."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what matters comes as an exception
    remote = "revision" in options
    try:
        with connect(path, None, "reading it") if remote else nullcontext():  # which says nothing by itself
            if path == SAVED:
                found, files = datasets.load_from_disk(**options), {}
            else:
                builder = datasets.load_dataset_builder(path, **options)
                files = {split: [str(file) for file in each] for split, each in (builder.config.data_files or {}).items()}
                for file in {file for each in files.values() for file in each if file.endswith(".parquet")}:
                    check_no_bomb(file)
                if config.streaming:
                    return replace(_stream(config, builder, builder.as_streaming_dataset()), remote=remote)
                builder.download_and_prepare()
                found = builder.as_dataset()
    except DataError:
        raise
    except Exception as error:  # whatever its readers and the network raise
        cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" else None
        reason = "it has no rows" if isinstance(error, StopIteration) else first_line(cause or error)  # of an empty stream
        hint = "; is the network up?" if isinstance(error, ConnectionError) else ""
        not_had = isinstance(error, ConnectionError | datasets.exceptions.DatasetNotFoundError)
        if remote and not_had and not path.startswith(DATASETS):
            hint += f"; and there is no such folder or file here{nearest_path(Path(path))}"
        raise DataError(f"data.name: {config.title}: {reason}{hint}") from error
    splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    return replace(_chosen(config, splits, files, remote), not_streamed=MAPPED)


def _chosen(config: DataConfig, splits: Mapping[str, Any], files: Mapping[str, Sequence[str]], remote: bool) -> Source:
    """Return the columns of the rows that `data.split` names."""
    import datasets

    parts = parts_of({split: len(rows) for split, rows in splits.items()}, config)
    numbers = [(split, range(len(splits[split]))[part]) for split, part in parts]
    numbers = [(split, rows) for split, rows in numbers if rows] or [(parts[0][0], range(0))]  # `select` wants a row
    chosen = [splits[split].select(rows) for split, rows in numbers]
    table = chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen)
    ranges = [(files.get(split, []), rows) for split, rows in numbers]
    return table_columns(table, config, tuple(splits), partial(_place, ranges), remote)


def table_columns(
    table: Any, config: DataConfig, splits: tuple[str, ...], where: Any = numbered, remote: bool = False
) -> Source:
    """Return the columns of a `datasets.Dataset`."""
    if table._indices is not None:
        table = table.flatten_indices()
    columns = {}
    for name, feature in table.features.items():
        stored = undecoded(table.select_columns([name]), {name: feature})
        if type(feature).__name__.startswith("Array"):
            stored = stored.with_format("numpy", columns=[name], dtype=np.dtype(feature.dtype))
        columns[name] = StoredColumn(name, config.title, TableColumn(stored, name, remote), feature, where, remote)
    if not columns:
        raise DataError(f"data.name: {config.title} has no columns")
    return Source(columns, tuple(sorted(splits)))


def undecoded(table: Any, features: Mapping[str, Any]) -> Any:
    """Return a table whose images, sounds and the like come as they are stored."""
    for name, feature in features.items():
        if hasattr(feature, "decode"):
            plain = copy(feature)
            plain.decode = False
            table = table.cast_column(name, plain)
    return table


def _place(ranges: Sequence[tuple[Sequence[str], range]], row: int) -> str:
    """Return where a row lies, as a row of a file on this disk, else of the split. ranges: each part's files and their
    rows."""
    at = row
    for files, rows in ranges:
        if at >= len(rows):
            at -= len(rows)
            continue
        at = rows[at]
        for file in files if all(map(os.path.isfile, files)) else ():
            if at < (number := rows_in(file)):
                return f"row {at} of {file}"
            at -= number
        break
    return numbered(row)


def _stream(config: DataConfig, builder: Any, splits: Mapping[str, Any]) -> StreamSource:
    """Return one split as it comes."""
    import datasets
    from pyarrow.parquet import read_metadata

    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.0  # else 5 s at each epoch's end; no argument says so
    if config.split not in splits:
        known = f"; the splits of {config.title}: {', '.join(sorted(splits))}"
        raise DataError(f"data.split: a stream has no split '{config.split}', and no slices{known}")
    table = splits[config.split]
    files = [str(file) for file in builder.config.data_files[config.split]]
    local = all(map(os.path.isfile, files))
    seen = [sampled_hash(file) for file in files] if local else files  # others have the commit
    number = builder.info.splits[config.split].num_examples if builder.info.splits else 0
    if local and not number and all(file.endswith(".parquet") for file in files):
        number = sum(read_metadata(file).num_rows for file in files)
    features = table.features or table._resolve_features().features  # of lines without types, as their first rows have them
    return StreamSource(table, dict(features or {}), tuple(seen), number, remote=False)
