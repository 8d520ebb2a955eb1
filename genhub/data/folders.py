"""Folders of files, each file one element: images with their classes, or what another modality's `endings` name; a table
`metadata.csv` or `metadata.jsonl` beside them has more columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genhub.data.metadata import Metadata, is_metadata
from genhub.data.raw import Arrays, Classes, Source, StoredColumn, few, parts_of
from genhub.data.recognition import file_modalities
from genhub.data.tables import SAVED, TABLES, StreamSource, table_source
from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig
from genhub.modalities.label import in_order

NOT_STREAMED = "its files are read one by one when they are needed, and not copied"
SPLIT_FOLDERS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}


def folder_source(path: Path, config: DataConfig) -> Source | StreamSource:
    """Return the columns of a folder: of the tables in it, else of its files, what metadata say of them, and their classes
    where all lie in folders."""
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():  # of Dataset.save_to_disk
        return table_source(config, SAVED, dataset_path=str(path))
    found, odd = walk(path)
    for kind in ("parquet", "arrow"):
        if any(file.suffix == f".{kind}" for file in found):
            if odd:  # `datasets` would follow the one in circles, and wait for the other
                raise DataError(f"data.name: {odd[0]} is no regular file, or leads back; take it out of a folder of tables")
            return table_source(config, kind, data_dir=str(path))
    endings = file_modalities(config)
    kinds = list(dict.fromkeys(endings[file.suffix.lower()] for file in found if file.suffix.lower() in endings))
    if not kinds:
        raise DataError(f"data.name: no images, sounds, parquet or arrow files in {path}{_other_tables(path, found)}")
    kind = min(kinds, key=list(dict.fromkeys(endings.values())).index)
    files = [file for file in found if endings.get(file.suffix.lower()) == kind]
    metadata = Metadata.read(path, [file for file in found if is_metadata(file)])
    return _of_files(path, files, kind, metadata, odd, config)


def _other_tables(path: Path, found: Sequence[Path]) -> str:
    """Return a hint to the tables in a folder that must be named themselves."""
    endings = sorted({file.suffix for file in found} & TABLES)
    return f"; its tables: data.name='{path}/*{endings[0]}'" if endings else ""


def _of_files(
    path: Path, files: Sequence[Path], kind: str, metadata: Metadata, odd: tuple[str, ...], config: DataConfig
) -> Source:
    # Not datasets' imagefolder: it takes a class `test` beside a class `cat` for a split, and drops the cats.
    tops = {file.parts[0] if len(file.parts) > 1 else "" for file in files}
    depth = int({top.lower() for top in tops} <= SPLIT_FOLDERS)
    splits = {top: [file for file in files if file.parts[0] == top] for top in tops} if depth else {"train": list(files)}
    chosen = _chosen(splits, config)
    rows = np.array([str(path / file) for file in chosen], dtype=object)
    columns = {kind: StoredColumn(kind, config.title, Arrays(rows, are_files=True))}
    classes = in_order(file.parts[depth] for file in files) if all(len(file.parts) > depth + 1 for file in files) else ()
    if len(classes) > 1 or (classes and not metadata):
        names = Arrays(np.array([file.parts[depth] for file in chosen], dtype=object))
        columns["label"] = StoredColumn("label", config.title, names, Classes(classes))
    columns |= metadata.columns_of(chosen, kind, config)
    notes = [f"passed over {few(odd)}: no regular file, or it leads back"] if odd else []
    notes += metadata.notes(files, chosen, config)
    return Source(columns, tuple(sorted(splits)), tuple(notes), NOT_STREAMED)


def _chosen(splits: Mapping[str, Sequence[Path]], config: DataConfig) -> list[Path]:
    parts = parts_of({split: len(found) for split, found in splits.items()}, config)
    return [file for split, part in parts for file in splits[split][part]]


def walk(path: Path) -> tuple[list[Path], tuple[str, ...]]:
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
            if file.is_file() or not file.exists():  # a dead link is a file that is missing
                found.append(file.relative_to(path))
            else:
                odd.append(str(file))
    return sorted(found), tuple(sorted(odd))
