"""Python objects as data: read once, in order, into an Arrow file of the cache that is named by its content. A run that goes
on, and evaluation, find it by that name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from genhub.data.raw import Source, first_line, parts_of
from genhub.data.tables import table_columns
from genhub.errors import DataError
from genhub.ground.digests import file_hash
from genhub.ground.disk import cache_folder, saving, whole
from genhub.interfaces.columns import DataConfig

OBJECT = "object:"
"""Scheme of a name in the place of `data.name`: the content's hash follows."""
BLOCK = 1000
"""Number of a table's rows that are written at a time."""
ITEM = ("x", "y", "z")
"""Names of the columns of rows that are tuples, or one value."""
TAKEN = (
    "a datasets.Dataset, a torch Dataset of dicts, tuples or tensors, an array or tensor or a dict of them, a pandas frame "
    "or a list of PIL images"
)


def stored_name(data: Any) -> str:
    """Return the `data.name` of a Python object, whose rows are read now and written into the cache.

    Raises:
        DataError: it is none of the objects that can be read, or one of its rows can't be.
        GenhubError: the cache can't be written.
    """
    folder = cache_folder() / "objects"
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=folder))
        try:
            written = place / "rows.arrow"
            _write(data, written)
            name = file_hash(written).hex()
            file = folder / f"{name}.arrow"
            if not file.is_file():
                with whole(file) as temporary:
                    os.replace(written, temporary)  # noqa: PTH105
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return OBJECT + name


def object_source(config: DataConfig) -> Source:
    """Return the columns of an object that was read before."""
    from datasets import Dataset, concatenate_datasets

    assert isinstance(config.name, str)
    file = cache_folder() / "objects" / f"{config.name.removeprefix(OBJECT)}.arrow"
    if config.streaming:
        raise DataError("data.streaming: a Python object is read once, and not streamed; leave it out")
    if not file.is_file():
        raise DataError(f"data.name: {config.name}: the rows of this Python object are not in {file.parent} any more; "
                        "give the object again: genhub.train(recipe, data=...)")  # fmt: skip
    table = Dataset.from_file(str(file))
    parts = parts_of({"train": len(table)}, config)
    chosen = [table.select(range(len(table))[part]) for _, part in parts]
    return table_columns(chosen[0] if len(chosen) == 1 else concatenate_datasets(chosen), config, ("train",))


def _write(data: Any, file: Path) -> None:
    """Write an object's rows as an Arrow file."""
    import datasets
    import pyarrow as pa
    from datasets.arrow_writer import ArrowWriter

    if isinstance(data, datasets.DatasetDict):
        raise DataError(f"data: a DatasetDict has several splits, {', '.join(data)}; give one of them, data['train']")
    try:
        features, rows = _rows_of(data)
        with ArrowWriter(path=str(file), features=features) as writer:
            number = 0
            for row in rows:  # whole blocks of a table, whose images and sounds stay as they are stored
                if isinstance(row, pa.Table):
                    writer.write_table(row)
                else:
                    writer.write(row)
                number += 1
            if not number:
                raise DataError(f"data: the {type(data).__name__} has no rows")
            writer.finalize()
    except DataError:
        raise
    except Exception as error:  # whatever somebody's data set raises
        raise DataError(f"data: a {type(data).__name__} whose rows can't be read: {first_line(error)}") from error


def _rows_of(data: Any) -> tuple[Any, Iterator[Any]]:
    """Return the features and the rows of an object, of a table in blocks.

    Raises:
        DataError: it is none of the objects that can be read.
    """
    import datasets

    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
    if isinstance(data, datasets.Dataset):
        return data.features, data.with_format("arrow").iter(BLOCK)
    if kind == "pandas.DataFrame":
        found = datasets.Dataset.from_pandas(data, preserve_index=False)
        return found.features, found.with_format("arrow").iter(BLOCK)
    if isinstance(data, Mapping):
        return _of_columns({str(name): column for name, column in data.items()})
    if isinstance(data, np.ndarray) or kind in ("torch.Tensor", "torch.Parameter"):
        return _of_columns({"x": data})
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | bytes):
        return _of_items(_as_row(data[number]) for number in range(len(data)))
    raise DataError(f"data: can't be an object of class {type(data).__name__}; it takes {TAKEN}")


def _of_columns(columns: Mapping[str, Any]) -> tuple[Any, Iterator[Mapping[str, Any]]]:
    """Return the features and the rows of arrays by name."""
    arrays = {name: column if isinstance(column, Sequence) else _as_array(column) for name, column in columns.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(
            f"data: its columns have different lengths: {', '.join(f'{name} {n}' for name, n in lengths.items())}"
        )
    return _of_items(dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True))


def _of_items(rows: Iterable[Mapping[str, Any]]) -> tuple[Any, Iterator[Mapping[str, Any]]]:
    """Return the features, as the first row has them, and the rows."""
    import datasets

    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        raise DataError("data: there are no rows")
    features = datasets.Features({name: _feature(value, name) for name, value in first.items()})
    return features, ({name: _stored(value) for name, value in row.items()} for row in chain([first], rows))


def _as_row(item: Any) -> Mapping[str, Any]:
    """Return a data set's item by column: a tuple's parts and a value alone are called x, y, ..."""
    if isinstance(item, Mapping):
        return {str(name): value for name, value in item.items()}
    parts = item if isinstance(item, tuple | list) else (item,)
    names = (*ITEM, *(f"x{number}" for number in range(len(ITEM), len(parts))))
    if len(parts) == 1 and _is_picture(parts[0]):
        names = ("image",)
    return dict(zip(names, parts, strict=False))


def _is_picture(value: Any) -> bool:
    from PIL import Image

    return isinstance(value, Image.Image)


def _as_array(value: Any) -> Any:
    """Return a tensor or the like as a NumPy array."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def _stored(value: Any) -> Any:
    return _as_array(value) if hasattr(value, "detach") else value


def _feature(value: Any, name: str) -> Any:
    """Return the feature of `datasets` for a column whose first value this is."""
    import datasets

    if _is_picture(value):
        return datasets.Image()
    if isinstance(value, str):
        return datasets.Value("string")
    if isinstance(value, bytes):
        return datasets.Value("binary")
    array = _as_array(value)
    kind = {"float16": "float32"}.get(str(array.dtype), str(array.dtype))
    if array.dtype.kind not in "biuf" or array.ndim > 5:
        raise DataError(
            f"data: column '{name}' holds a {type(value).__name__}; a row has numbers, arrays, texts or PIL images"
        )
    if not array.ndim:
        return datasets.Value(kind)
    if array.ndim == 1:
        return datasets.List(datasets.Value(kind))
    arrays = {2: datasets.Array2D, 3: datasets.Array3D, 4: datasets.Array4D, 5: datasets.Array5D}
    return arrays[array.ndim](array.shape, kind)
