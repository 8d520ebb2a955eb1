"""Metadata of a folder of files: tables `metadata.csv` and `metadata.jsonl`, whose column `file_name` names the file, beside
the table or below it, that a row's other columns tell more of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from genhub.data.lines import read_text
from genhub.data.raw import StoredColumn, few, first_line
from genhub.data.tables import table_columns
from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig

METADATA = {"metadata.csv", "metadata.jsonl"}
FILE = "file_name"
"""The column that says which file a row is of."""


def is_metadata(file: Path) -> bool:
    return file.name in METADATA


@dataclass(frozen=True, eq=False)
class Metadata:
    """Rows of all such tables of a folder."""

    table: Any
    """A pyarrow table of what they say; None: there are none."""
    rows: dict[Path, int]
    """The row of each file, by its path in the folder."""
    titles: tuple[str, ...]
    """The tables' paths in the folder, for messages."""

    def __bool__(self) -> bool:
        return self.table is not None

    @classmethod
    def read(cls, folder: Path, files: Sequence[Path]) -> Metadata:
        """Read the tables of a folder.

        Args:
            files: their paths in it.
        Raises:
            DataError: one can't be read, names no files or files that are not below it, or names one again.
        """
        import pyarrow as pa

        tables, rows = list[Any](), dict[Path, int]()
        for file in files:
            title = str(folder / file)
            table = read_text(title)
            if FILE not in table.column_names:
                raise DataError(
                    f"data.name: {title}: has no column '{FILE}', which says which file a row is of; it has "
                    f"{', '.join(table.column_names)}"
                )
            start = len(rows)
            for number, name in enumerate(table[FILE].to_pylist()):
                path = file.parent / _inside(name, f"{title}: row {number}")
                if path in rows:
                    raise DataError(f"data.name: {title}: row {number} names {path}, which another row names already")
                rows[path] = start + number
            tables.append(table.drop_columns([FILE]))
        try:
            table = pa.concat_tables(tables, promote_options="permissive") if tables else None
        except pa.ArrowException as error:
            raise DataError(f"data.name: {folder}: {few([str(file) for file in files])}: {first_line(error)}") from error
        return cls(table, rows, tuple(map(str, files)))

    def columns_of(self, chosen: Sequence[Path], kind: str, config: DataConfig) -> dict[str, StoredColumn]:
        """Return the columns of these files, without a value where a file has no row.

        Args:
            kind: the column that the files themselves make.
        """
        import pyarrow as pa
        from datasets import Dataset

        if not self or not self.table.column_names:
            return {}
        if kind in self.table.column_names:
            raise DataError(
                f"data.name: {config.title}: {few(self.titles)} has a column '{kind}', which is what the files themselves "
                "are; rename it"
            )
        rows = pa.array([self.rows.get(file) for file in chosen], pa.int64())
        return dict(table_columns(Dataset(self.table.take(rows)), config, ()).columns)

    def notes(self, files: Sequence[Path], chosen: Sequence[Path], config: DataConfig) -> list[str]:
        """Return lines on rows whose file is not there, and on files that have no row.

        Raises:
            DataError: there are such rows, and `data.on_error` says `fail`.
        """
        if not self:
            return []
        there, notes = set(files), list[str]()
        title = few(self.titles)
        if lost := [str(path) for path in self.rows if path not in there]:
            which = f"{len(lost):,} of {len(self.rows):,} rows name files that are not there: {few(lost)}"
            if config.on_error == "fail":
                raise DataError(f"data.name: {config.title}: {title}: {which}; data.on_error: skip leaves them out")
            notes.append(f"{title}: {which}; they are left out")
        if unnamed := [str(path) for path in chosen if path not in self.rows]:
            notes.append(f"{title}: {len(unnamed):,} of {len(chosen):,} files have no row: {few(unnamed)}")
        return notes


def _inside(name: Any, where: str) -> PurePosixPath:
    """Return the path of a file that a row names, which lies beside its table or below.

    Raises:
        DataError: it is no text, or leads out of the folder.
    """
    if not isinstance(name, str) or not name:
        raise DataError(f"data.name: {where} names no file in '{FILE}'")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"data.name: {where} names {name:.200}, which does not lie below its folder; refused")
    return path
