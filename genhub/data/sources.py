"""Find images and labels: in a folder, in tables, in a Hub data set, or scikit-learn's digits. Nothing is decoded here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genhub.data.tables import check_no_bomb, rows_in, schema_of
from genhub.errors import DataError, did_you_mean
from genhub.ground.digests import hash_of, sampled_hash
from genhub.ground.ids import DATASETS, nearest_path
from genhub.hub.client import connect
from genhub.interfaces.class_labels import in_order
from genhub.interfaces.config import DataConfig

SAVED = "saved"
"""Name, in the place of a format's, for a folder that `Dataset.save_to_disk` wrote."""
TABLES = {".parquet", ".arrow"}
DATA_SUFFIXES = {".parquet", ".arrow", ".zip", ".tar", ".gz", ".csv", ".json", ".npz"}
SPLIT_FOLDERS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}
# Listed, because Pillow also knows formats that run another program (EPS: ghostscript).
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "AVIF", "JPEG2000")


def _numbered(row: int) -> str:
    return f"row {row}"


@dataclass(frozen=True)
class ImageSource:
    """Images of one split, not decoded yet: rows[row numbers] gives paths, {"bytes", "path"} or arrays."""

    rows: Any
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    """Entries of the folder that are no regular files."""
    place: Callable[[int], str] = _numbered
    """Function that says where a row is, for messages."""
    columns: tuple[str, ...] = ()
    """Names of a stream's columns: the images', and the labels' if there are any."""
    remote: bool = False
    """Whether they are somebody else's, from the Hub: a path among the rows must be one of the fetched files."""
    fingerprint: str = ""
    """Fingerprint of a stream, of its files; of all other images the content is read."""
    length: int = 0
    """Number of images in a stream, as far as is known; rows have a length of their own."""


def find_images(config: DataConfig) -> ImageSource:
    """Find the images that a recipe's `data` names, and their labels.

    Raises:
        DataError: they are not there, can't be read or don't fit together: which key, and what to do.
    """
    name = config.name
    if not isinstance(name, str):
        return _files(dict(_listed(name)), config)
    if name == "digits":
        return _digits(config)
    if name.startswith(DATASETS):
        return _table(config, name, revision=config.revision)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _folder(path, config)
    files = _matches(name)
    if files:
        if wrong := {Path(file).suffix for file in files} - TABLES:
            raise DataError(f"data.name: {name}: give a folder, .parquet or .arrow files, not {', '.join(sorted(wrong))}")
        return _files(dict.fromkeys(files, "data.name"), config)
    local = name.count("/") > 1 or name[:1] in "./~" or bool(set("*?[") & set(name))
    local = local or path.suffix.lower() in DATA_SUFFIXES | _image_suffixes()
    # In a folder of here, or a word that is all but the name of one: not asked of the Hub.
    here = nearest_path(path, cutoff=0.8) if path.parent == Path() else Path(path.parts[0]).is_dir()
    if not local and not here:
        return _table(config, name, revision=config.revision)
    other = "" if local else f"; a data set on the Hub would be {DATASETS}{name}"
    raise DataError(f"data.name: no such folder or file: {name}{other}{nearest_path(path)}")


def _matches(name: str) -> list[str]:
    """Return the regular files that a path or a glob names, in order, each once: links can lead in circles."""
    if not name:
        return []
    path = Path(name).expanduser()
    found = [str(path)] if path.is_file() else sorted(glob(str(path), recursive=True))  # noqa: PTH207
    return list({os.path.realpath(file): file for file in reversed(found) if os.path.isfile(file)}.values())[::-1]  # noqa: PTH113


def _listed(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the files of a list of files and globs, each with the key that names it."""
    seen: dict[str, str] = {}
    for number, name in enumerate(names):
        key, files = f"data.name.{number}", _matches(name)
        if not files and not Path(name).expanduser().is_dir():
            raise DataError(f"{key}: no such file: {name}{nearest_path(Path(name).expanduser())}")
        for file in files or [name]:
            if Path(file).suffix not in TABLES or Path(file).is_dir():
                raise DataError(f"{key}: {file}: a list is of .parquet or .arrow files and globs; a folder is named alone")
            if first := seen.get(os.path.realpath(file)):
                raise DataError(f"{key}: {file} is in {first} already")
            seen[os.path.realpath(file)] = key
            yield file, key


def _files(files: Mapping[str, str], config: DataConfig) -> ImageSource:
    """Return the images of several tables, which must have one format, the same columns and the same classes.

    Args:
        files: each with the key that names it, for messages.
    """
    from datasets import ClassLabel, Features

    first, *others = files
    kind = Path(first).suffix
    for file in others:
        if Path(file).suffix != kind:
            raise DataError(f"{files[file]}: {file} is no {kind} file, and {first} is; give files of one format")
    seen: dict[str, Any] = {}
    for file in files if others else ():  # footers alone; datasets reads the columns and classes of the first file only
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
    return _table(config, kind[1:], data_files=list(files))


def _digits(config: DataConfig) -> ImageSource:
    """Return scikit-learn's digits, read from its file: importing it takes longer than all else here."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("data.name: digits come with scikit-learn, which is not installed: pip install scikit-learn")
    file = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    table = np.concatenate([table[part] for _, part in _parts({"train": len(table)}, config)])
    images = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return ImageSource(images, torch.from_numpy(table[:, -1].copy()), tuple("0123456789"))


def _folder(path: Path, config: DataConfig) -> ImageSource:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():  # of Dataset.save_to_disk
        return _table(config, SAVED, dataset_path=str(path))
    found, odd = _walk(path)
    for kind in ("parquet", "arrow"):
        if any(file.suffix == f".{kind}" for file in found):
            if odd:  # `datasets` would follow the one in circles, and wait for the other
                raise DataError(f"data.name: {odd[0]} is no regular file, or leads back; take it out of a folder of tables")
            return _table(config, kind, data_dir=str(path))
    suffixes = _image_suffixes()
    files = [file for file in found if file.suffix.lower() in suffixes]
    if not files:
        raise DataError(f"data.name: no images, parquet or arrow files in {path}")
    # Not datasets' imagefolder: it takes a class `test` beside a class `cat` for a split, and drops the cats.
    tops = {file.parts[0] if len(file.parts) > 1 else "" for file in files}
    depth = int({top.lower() for top in tops} <= SPLIT_FOLDERS)
    splits = {top: [file for file in files if file.parts[0] == top] for top in tops} if depth else {"train": files}
    parts = _parts({split: len(found) for split, found in splits.items()}, config)
    chosen = [file for split, part in parts for file in splits[split][part]]
    rows = np.array([str(path / file) for file in chosen], dtype=object)
    if not all(len(file.parts) > depth + 1 for file in files):
        return ImageSource(rows, passed_over=odd)
    names = in_order(file.parts[depth] for file in files)
    numbers = {name: number for number, name in enumerate(names)}
    return ImageSource(rows, torch.tensor([numbers[file.parts[depth]] for file in chosen]), names, odd)


def _walk(path: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the regular files below a folder in order of their names, hidden ones left out; and the entries that are none.
    Each folder is looked into once: a link to one above it would lead in circles."""
    found, odd, seen = list[Path](), list[str](), set[tuple[int, int]]()
    for top, folders, names in os.walk(path, followlinks=True, onerror=lambda error: odd.append(str(error.filename))):
        at = os.stat(top)  # noqa: PTH116
        if (at.st_dev, at.st_ino) in seen:
            odd.append(top)
            folders.clear()
            continue
        seen.add((at.st_dev, at.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in (Path(top, name) for name in names if not name.startswith(".")):
            if file.is_file() or not file.exists():  # a dead link is an image that is missing
                found.append(file.relative_to(path))
            else:
                odd.append(str(file))
    return sorted(found), tuple(sorted(odd))


def _parts(lengths: Mapping[str, int], config: DataConfig) -> list[tuple[str, slice]]:
    """Return the splits that `data.split` names, each with the slice to take."""
    if config.split in lengths:
        return [(config.split, slice(None))]
    known = f"; the splits of {config.title}: {', '.join(sorted(lengths))}"
    if not set("[+") & set(config.split):
        raise DataError(f"data.split: no split '{config.split}'{known}")
    from datasets import ReadInstruction

    try:
        parts = ReadInstruction.from_spec(config.split).to_absolute(dict(lengths))
    except Exception as error:
        raise DataError(f"data.split: {first_line(error)}{known}") from error
    return [(part.splitname, slice(part.from_, part.to)) for part in parts]


def _table(config: DataConfig, path: str, **options: Any) -> ImageSource:
    """Return the images that `datasets` loads; since version 4 it runs no code that comes with data."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()  # what matters comes as an exception
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
        hint = "; is the network up?" if isinstance(error, ConnectionError) else ""
        not_had = isinstance(error, ConnectionError | datasets.exceptions.DatasetNotFoundError)
        if remote and not_had and not path.startswith(DATASETS):
            hint += f"; and there is no such folder or file here{nearest_path(Path(path))}"
        raise DataError(f"data.name: {config.title}: {first_line(cause or error)}{hint}") from error
    splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    parts = _parts({split: len(rows) for split, rows in splits.items()}, config)
    chosen = [splits[split].select(range(len(splits[split]))[part]) for split, part in parts]
    table = chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen)
    ranges = [(files.get(split, []), range(len(splits[split]))[part]) for split, part in parts]
    return ImageSource(_image_rows(table, config), *_labels(table, config), place=partial(_place, ranges), remote=remote)


def refuse_outside(rows: Sequence[Any]) -> None:
    """
    Raises:
        DataError: of somebody else's rows, one is no image but the path of a file that was not fetched with them.
    """
    import datasets
    from huggingface_hub import constants

    paths = [row["path"] for row in rows if isinstance(row, Mapping) and row["bytes"] is None and row["path"] is not None]
    fetched = [Path(each).resolve() for each in (constants.HF_HUB_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)]
    for path in paths:
        if not any(Path(path).resolve().is_relative_to(folder) for folder in fetched):
            raise DataError(f"data.name: a row names the file {path:.200}, which did not come with the data; refused")


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
    return _numbered(row)


def _stream(config: DataConfig, builder: Any, splits: Mapping[str, Any]) -> ImageSource:
    """Return a stream of images: its rows are one split as an IterableDataset, undecoded."""
    import datasets
    from datasets import ClassLabel, Image
    from pyarrow.parquet import read_metadata

    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.0  # else 5 s at each epoch's end; no argument says so
    if config.split not in splits:
        known = f"; the splits of {config.title}: {', '.join(sorted(splits))}"
        raise DataError(f"data.split: a stream has no split '{config.split}', and no slices{known}")
    table = splits[config.split]
    image, kind = _image_column(table, config)
    if not isinstance(kind, Image | dict) and str(getattr(kind, "dtype", "")) != "binary":
        raise DataError(f"data.image_column: '{image}' holds arrays; a stream needs images: PNG, JPEG, ...")
    label = _label_column(table, config)
    if label is not None and not isinstance(table.features[label], ClassLabel):
        if config.label_column is not None:
            raise DataError(f"data.label_column: '{label}' doesn't say what classes there are; a stream needs a ClassLabel")
        label = None
    files = [str(file) for file in builder.config.data_files[config.split]]
    local = all(map(os.path.isfile, files))
    seen = [sampled_hash(file) for file in files] if local else files  # others have the commit
    number = builder.info.splits[config.split].num_examples if builder.info.splits else 0
    if local and not number and all(file.endswith(".parquet") for file in files):
        number = sum(read_metadata(file).num_rows for file in files)
    names, columns = ((), (image,)) if label is None else (tuple(table.features[label].names), (image, label))
    table = table.select_columns(list(columns)).cast_column(image, Image(decode=False))
    return ImageSource(table, None, names, columns=columns, fingerprint=hash_of(seen, columns), length=number)


def _column(key: str, name: str | None, found: Sequence[str], table: Any) -> str | None:
    """Return the column to take: the one that the recipe names, or the only one found."""
    if name is None and len(found) > 1:
        raise DataError(f"data.{key}: several columns would do; set it to one of: {', '.join(found)}")
    if name is not None and name not in table.column_names:
        listing = f"the columns: {', '.join(table.column_names)}"
        raise DataError(f"data.{key}: no column '{name}'; {did_you_mean(name, table.column_names)} {listing}")
    return name or next(iter(found), None)


def _image_column(table: Any, config: DataConfig) -> tuple[str, Any]:
    """Return the image column's name and its kind, a feature of `datasets`."""
    from datasets import Array2D, Array3D, Image, Value

    found = [key for key, kind in table.features.items() if isinstance(kind, Image | Array2D | Array3D)]
    name = _column("image_column", config.image_column, found, table)
    kind = table.features[name] if name else None
    if not isinstance(kind, Image | Array2D | Array3D | dict) and kind != Value(
        "binary"
    ):  # perhaps images not marked as such
        fault = f"'{name}' holds no images" if name else "no column is marked as images"
        raise DataError(f"data.image_column: {fault}; the columns: {', '.join(table.column_names)}")
    assert name is not None
    return name, kind


def _image_rows(table: Any, config: DataConfig) -> Any:
    """Return the image column, undecoded."""
    from datasets import Array2D, Array3D, Image

    name, kind = _image_column(table, config)
    if isinstance(kind, Array2D | Array3D):
        if kind.dtype != "uint8" and config.value_range is None:
            raise DataError(
                f"data.image_column: '{name}' holds {kind.dtype}; arrays must be uint8, 0 to 255, or "
                "data.value_range say what is black and white: auto, or [low, high]"
            )
        return table.with_format("numpy", columns=[name], dtype=np.dtype(kind.dtype))
    return table.select_columns([name]).cast_column(name, Image(decode=False))


def _label_column(table: Any, config: DataConfig) -> str | None:
    from datasets import ClassLabel

    types = {key: str(getattr(kind, "dtype", "")) for key, kind in table.features.items()}
    found = [key for key, kind in table.features.items() if isinstance(kind, ClassLabel)]
    found = found or [key for key in ("label", "labels", "class") if "int" in types.get(key, "")][:1]
    return _column("label_column", config.label_column, found, table)


def _labels(table: Any, config: DataConfig) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return labels and class names: a class-label column's own, or the distinct integers or texts of another."""
    from datasets import ClassLabel

    name = _label_column(table, config)
    if name is None:
        return None, ()
    feature = table.features[name]
    kind = str(getattr(feature, "dtype", type(feature).__name__))
    if not (isinstance(feature, ClassLabel) or "string" in kind or "int" in kind or kind == "bool"):
        raise DataError(f"data.label_column: '{name}' holds {kind:.40}; labels are classes, integers or text")
    values = table.with_format("arrow", columns=[name])[:][name].to_pylist()
    bad = [row for row, value in enumerate(values) if value is None or (isinstance(value, int) and value < 0)]
    if bad:
        where = f"{len(bad)} of {len(values)} rows, first {values[bad[0]]} in row {bad[0]}"
        raise DataError(f"data.label_column: '{name}' has no class in {where}; take another split or column")
    if isinstance(feature, ClassLabel):
        return torch.tensor(values, dtype=torch.int64), tuple(feature.names)
    names = in_order(map(str, values))
    numbers = {label: number for number, label in enumerate(names)}
    return torch.tensor([numbers[str(value)] for value in values], dtype=torch.int64), names


def _image_suffixes() -> set[str]:
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in IMAGE_FORMATS}


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or else its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
