"""Find the columns that a recipe's `data` names: built in, in a folder, in files, in a Hub data set. Nothing is decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path

from genhub.data import builtin
from genhub.data.arrays import ENDINGS, array_source
from genhub.data.folders import folder_source
from genhub.data.objects import OBJECT, object_source
from genhub.data.points import DENSITIES, points
from genhub.data.raw import Source
from genhub.data.recognition import file_modalities
from genhub.data.tables import TABLES, StreamSource, files_source, table_source
from genhub.errors import DataError
from genhub.ground.ids import DATASETS, nearest_path
from genhub.interfaces.columns import DataConfig

DATA_SUFFIXES = TABLES | ENDINGS | {".zip", ".tar", ".gz"}


def find_source(config: DataConfig) -> Source | StreamSource:
    """Find the columns that a recipe's `data` names; a stream where `data.streaming` asks for one and it can be had.

    Raises:
        DataError: they are not there, can't be read or don't fit together: which key, and what to do.
    """
    name = config.name
    if config.num_rows is not None and name not in DENSITIES:
        raise DataError(
            f"data.num_rows: says how many points of the plane there are; {config.title} has rows of its own, of which "
            "data.split=train[:1000] takes some"
        )
    if not isinstance(name, str):
        return files_source(dict(_listed(name)), config)
    if name in builtin.BUILT_IN:
        return builtin.BUILT_IN[name](config)
    if name in DENSITIES:
        return points(config)
    if name.startswith(OBJECT):
        return object_source(config)
    if name.startswith(DATASETS):
        return table_source(config, name, revision=config.revision)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return folder_source(path, config)
    if files := _matches(name):
        return _files(name, files, config)
    local = name.count("/") > 1 or name[:1] in "./~" or bool(set("*?[") & set(name))
    local = local or path.suffix.lower() in DATA_SUFFIXES | file_modalities(config).keys()
    # In a folder of here, or a word that is all but the name of one: not asked of the Hub.
    here = nearest_path(path, cutoff=0.8) if path.parent == Path() else Path(path.parts[0]).is_dir()
    if not local and not here:
        return table_source(config, name, revision=config.revision)
    other = "" if local else f"; a data set on the Hub would be {DATASETS}{name}"
    raise DataError(f"data.name: no such folder or file: {name}{other}{nearest_path(path)}")


def _files(name: str, files: Sequence[str], config: DataConfig) -> Source | StreamSource:
    """Return the columns of the files that a path or a glob names."""
    kinds = {Path(file).suffix for file in files}
    if len(files) == 1 and kinds <= ENDINGS:
        return array_source(files[0], config)
    if wrong := kinds - TABLES:
        raise DataError(
            f"data.name: {name}: give a folder, .parquet, .arrow, .csv, .jsonl or .json files, or one .npz or .npy, not "
            f"{', '.join(sorted(wrong))}"
        )
    return files_source(dict.fromkeys(files, "data.name"), config)


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
                raise DataError(
                    f"{key}: {file}: a list is of .parquet, .arrow, .csv, .jsonl or .json files and globs; a folder is "
                    "named alone"
                )
            if first := seen.get(os.path.realpath(file)):
                raise DataError(f"{key}: {file} is in {first} already")
            seen[os.path.realpath(file)] = key
            yield file, key
