"""Write what is drawn to files: one picture or sound, a folder of files, npz, parquet, CSV; at once, or as it is drawn."""

from __future__ import annotations

import csv
import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.errors import CheckpointError, InputError, NotFinite
from genhub.ground.disk import LOCK, OWNER, all_whole, locked, remove_leftovers, saving, whole, write_whole
from genhub.ground.processes import Together
from genhub.interfaces.modality import Modality
from genhub.interfaces.model import Model
from genhub.sampling.asked import kept_rows
from genhub.sampling.draw import PART, draw_blocks, draw_parts, drawn_at_once, read_part
from genhub.sampling.pictures import write_picture
from genhub.sampling.request import Drawing
from genhub.store.manifest import read_json

RECORD = "samples.json"
"""File beside those of a folder, or beside the parts of a file that is being drawn, that says what they were drawn from."""


@dataclass(frozen=True)
class DrawnRows:
    """Description of drawn rows: columns of one target, and of what the rows are given."""

    column: str
    """The target's name."""
    modality: Modality
    n: int
    given: Mapping[str, tuple[Modality, Tensor]]
    """By column, the conditions that every row has: values (k, *shape) in their own units, repeated in turn."""

    @classmethod
    def of(cls, model: Model, drawing: Drawing) -> DrawnRows:
        assert model.config.data
        given = {}
        for name, (modality, wanted) in drawing.asked(model).items():
            kept, there = kept_rows(wanted, modality, list(range(len(wanted))))
            if there.all():
                given[name] = modality, modality.from_batch(modality.to_batch(kept))
        return cls(model.config.data.column, model.modality, drawing.n, given)

    @property
    def modalities(self) -> dict[str, Modality]:
        """The modalities by column, the target first."""
        return {self.column: self.modality} | {name: modality for name, (modality, _) in self.given.items()}

    def beside(self, block: Tensor, start: int) -> dict[str, Tensor]:
        """Return a block of the target's values, from row `start` on, with those of the conditions beside it, by column."""
        numbers = torch.arange(start, start + len(block))
        return {self.column: block} | {name: values[numbers % len(values)] for name, (_, values) in self.given.items()}


Blocks = Iterable[Tensor]
"""Blocks of rows, (b, *shape) in their own units, one after another, as often as they are asked for."""
IN_COLOUR = "arr_0"
"""Name of the array of an .npz that others' evaluators read: drawn images in colour."""
COPY_OF = f"{IN_COLOUR}_of"
"""Name of the array with the name of the one that `arr_0` is a copy of: whoever reads the file as data needs one of them."""


@dataclass(frozen=True)
class _FirstRows:
    """Blocks of the first n rows, in files."""

    files: Sequence[Path]
    n: int

    def __iter__(self) -> Iterator[Tensor]:
        return (read_part(file)[: self.n - at * PART] for at, file in enumerate(self.files))


def save_elements(elements: Tensor, out: Path, model: Model, drawing: Drawing) -> Path:
    """Write rows (n, *shape) in their own units, which `sample_elements` has drawn: `x.png` gets one picture, `x.wav` all
    sounds one after another; a folder a file a row, where the modality has files; `x.npz` and `x.parquet` the target's
    column and those of what the rows were given, by their names, and `x.npz` images in colour beside, as `arr_0`; `x.csv`
    the same, a number a column, where rows are numbers.

    Raises:
        InputError: another ending, or a place that can't be written.
        GenhubError: the disk is full.
    """
    check_place(out, model.modality)
    folder = out.parent if out.suffix else out
    with _writable(out):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    with saving(out):
        if takes_all(out):
            _write_all(out, elements, model, drawing)
        elif out.suffix in WRITERS:
            with whole(out) as temporary:
                WRITERS[out.suffix]([elements], DrawnRows.of(model, drawing), temporary)
        else:
            _write_files(out, model.modality, set(), range(len(elements)), elements)
    return out


def takes_all(out: Path) -> bool:
    """Whether `out` is one picture, or one sound, which takes all rows at once."""
    return out.suffix not in ("", *WRITERS) and not out.is_dir()


def _write_all(out: Path, elements: Tensor, model: Model, drawing: Drawing) -> None:
    if out.suffix == ".png":
        write_picture(model.modality.picture(elements, drawing.captions(model)), out)
        return
    with whole(out) as temporary:
        model.modality.write_joined(elements, temporary)


def draw_to(
    model: Model,
    drawing: Drawing,
    out: Path,
    *,
    together: Together | None = None,
    on_progress: Callable[[int], None] = lambda drawn: None,
) -> None:
    """Draw into a folder of files, or one file of rows, with little more than a batch in memory. What an earlier call left
    unfinished is gone on with; files that are there, undamaged, are not drawn again, and a larger n adds to them.

    Raises:
        InputError: another ending, a place that can't be written, a folder of other things, or another process draws there.
        NotFinite: see `sample_elements`; what was drawn before stays, for the next call.
        GenhubError: the disk is full; what was drawn is kept.
    """
    check_place(out, model.modality)
    main, n, modality = together is None or together.main, drawing.n, model.modality
    drawn_in = out.with_name(f".{out.name}.parts") if out.suffix in WRITERS else out
    with ExitStack() as held:
        if main:
            held.enter_context(_undone_if_empty(drawn_in))
            held.enter_context(_claimed(drawn_in, out, drawing.identity(model)))
        if together:
            together.wait()
        held.enter_context(saving(out))
        if drawn_in == out:
            files = (file for file in out.glob(f"*{modality.file_ending}") if file.stem.isdigit())
            there = {int(file.stem) for file in files if _is_whole(file, modality)}
            step = drawing.batch_size or drawn_at_once(model)
            blocks = [range(start, min(start + step, n)) for start in range(0, n, step)]
            missing = [block for block in blocks if not there.issuperset(block)]
            write = partial(_write_files, out, modality, there)
            draw_blocks(model, drawing, missing, write, together=together, on_progress=on_progress)
            return
        parts = draw_parts(model, drawing, drawn_in, together=together, on_progress=on_progress)
        if main:
            with whole(out) as temporary:
                WRITERS[out.suffix](_FirstRows(parts, n), DrawnRows.of(model, drawing), temporary)
            shutil.rmtree(drawn_in)


def read_elements(out: Path, model: Model, n: int) -> Tensor:
    """Return the first n rows that `draw_to` wrote, (n, *shape) in their own units: see `is_lossless`."""
    assert model.config.data
    column, modality = model.config.data.column, model.modality
    if out.suffix == ".npz":
        with np.load(out) as arrays:
            return modality.from_array(arrays[column])
    if out.suffix == ".parquet":
        from pyarrow.parquet import read_table

        return modality.from_rows(read_table(out, columns=[column])[column].to_pylist())
    if out.suffix == ".csv":
        with out.open(newline="") as stream:
            lines = list(csv.reader(stream))[1:]
        numbers = np.array([line[: math.prod(modality.shape)] for line in lines], dtype=np.float64)
        return modality.from_rows(numbers.reshape(-1, *modality.shape).tolist())
    return torch.stack([modality.read_file(out / file_name(number, modality)) for number in range(n)])


def is_lossless(out: Path, modality: Modality) -> bool:
    """Whether `read_elements` gives back what was drawn: not from a picture, nor from files that don't hold all of it."""
    return not takes_all(out) and (out.suffix in WRITERS or modality.is_lossless)


def check_place(out: Path, modality: Modality) -> None:
    """
    Raises:
        InputError: what is drawn can't be written to a file of this ending, or to a folder.
    """
    joined = [modality.joined_ending] if modality.joined_ending else []
    places = ["x.png (a picture)", *(f"x{ending} (all, one after another)" for ending in joined), "x.npz", "x.parquet"]
    places += ["x.csv"] if modality.file_ending is None else [f"a folder (one {modality.file_ending} a row)"]
    fits = out.suffix in (".png", *joined, *WRITERS) if out.suffix and not out.is_dir() else modality.file_ending is not None
    if not fits or (out.suffix == ".csv" and modality.file_ending is not None):
        raise InputError(f"--out {out}: give {', '.join(places[:-1])} or {places[-1]}")
    if out.suffix == ".parquet":
        modality.feature()


# What lies on the disk


@contextmanager
def _undone_if_empty(folder: Path) -> Iterator[None]:
    """Delete the folder again if what is drawn is not finite and nothing was written to it."""
    try:
        yield
    except NotFinite:
        if {file.name for file in folder.iterdir()} <= {RECORD, LOCK, OWNER}:
            shutil.rmtree(folder)
        raise


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    """
    Raises:
        InputError: `out` can't be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror or error}") from error


@contextmanager
def _claimed(folder: Path, out: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Hold the folder in which `out` is drawn: `out` itself, or one of parts that goes when `out` is whole.

    Raises:
        InputError: it can't be written, holds other things, or another process draws there.
    """
    with ExitStack() as held:
        with _writable(out):
            if folder == out:
                _refuse_others(out, identity)  # before anything is written there
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder, "--out", f"--out {out}", InputError))
            if folder == out:
                _refuse_others(out, identity)
            elif _record(folder) != identity:  # of another drawing, which nobody came back to
                for file in folder.iterdir():
                    if file.name not in (LOCK, OWNER):
                        file.unlink()
            for place in {folder, out.parent}:
                remove_leftovers(place)
            if _record(folder) != identity:
                write_whole(folder / RECORD, json.dumps(identity) + "\n")
        yield


def _refuse_others(folder: Path, identity: Mapping[str, Any]) -> None:
    others = folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())
    if others and _record(folder) != identity:
        raise InputError(f"--out {folder}: holds other things than these rows; choose another folder")


def _record(folder: Path) -> Any:
    """Return the record of what the rows in a folder were drawn from; None if there is none that can be read."""
    try:
        return read_json(folder / RECORD)
    except CheckpointError:  # missing or damaged
        return None


def file_name(number: int, modality: Modality) -> str:
    """Return the name of a row's file in a folder."""
    return f"{number:06d}{modality.file_ending}"


def _write_files(folder: Path, modality: Modality, there: Collection[int], numbers: range, elements: Tensor) -> None:
    missing = {number: element for number, element in zip(numbers, elements, strict=True) if number not in there}
    with all_whole([folder / file_name(number, modality) for number in missing]) as temporaries:
        for element, temporary in zip(missing.values(), temporaries, strict=True):
            modality.write_file(element, temporary)


def _is_whole(file: Path, modality: Modality) -> bool:
    """Whether a file that was written is undamaged."""
    if file.suffix == ".png":
        return _is_png(file)
    try:
        modality.read_file(file)
    except Exception:  # of a damaged file a reader may raise anything
        return False
    return True


def _is_png(file: Path) -> bool:
    """Whether a PNG is whole: each chunk has its checksum, and the last one ends the file."""
    content, start = file.read_bytes() if file.is_file() else b"", 8  # behind the signature
    while start + 12 <= len(content):  # length, name, data, checksum
        end = start + 12 + int.from_bytes(content[start : start + 4])
        if zlib.crc32(content[start + 4 : end - 4]) != int.from_bytes(content[end - 4 : end]):
            return False
        if content[start + 4 : start + 8] == b"IEND":
            return end == len(content)
        start = end
    return False


# Files of rows


def _write_npz(blocks: Blocks, rows: DrawnRows, temporary: Path) -> None:
    """Write a file as `np.savez_compressed` does, without having all of it in memory."""
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        _write_array(archive, rows.column, rows.n, (rows.modality.to_array(block) for block in blocks))
        colour = (rows.modality.to_rgb(block) for block in blocks)
        first = next(colour)
        if first is not None and IN_COLOUR not in rows.modalities:
            _write_array(archive, IN_COLOUR, rows.n, chain([first], (images for images in colour if images is not None)))
            _write_array(archive, COPY_OF, None, [np.array(rows.column)])
        for name, (modality, values) in rows.given.items():
            array = modality.to_array(values)
            numbers = (np.arange(start, min(start + PART, rows.n)) for start in range(0, rows.n, PART))
            _write_array(archive, name, rows.n, (array[some % len(array)] for some in numbers))
        for name, modality in rows.modalities.items():
            for fact in ("names", "value_range"):  # (low, high): low + pixels / top * (high - low) is in the data's units
                if known := getattr(modality, fact, None):
                    _write_array(archive, f"{name}_{fact}", len(known), [np.array(known)])


def _write_array(archive: zipfile.ZipFile, name: str, n: int | None, blocks: Iterable[NDArray[Any]]) -> None:
    """Write an array of n rows, in blocks; of None, of a single value."""
    blocks = iter(blocks)
    first = next(blocks)
    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        descr = np.lib.format.dtype_to_descr(first.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": () if n is None else (n, *first.shape[1:])}
        np.lib.format.write_array_header_1_0(stream, header)
        for block in chain([first], blocks):
            stream.write(np.ascontiguousarray(block).tobytes())


def _write_parquet(blocks: Blocks, rows: DrawnRows, temporary: Path) -> None:
    """Write a data set as `datasets` and the Hub know it: images as PNGs, labels by their names."""
    from datasets import Dataset, Features
    from pyarrow.parquet import ParquetWriter

    features = Features({name: modality.feature() for name, modality in rows.modalities.items()})
    schema, start = features.arrow_schema, 0
    with ParquetWriter(temporary, schema) as writer:
        for block in blocks:
            values = rows.beside(block, start)
            columns = {name: modality.to_rows(values[name]) for name, modality in rows.modalities.items()}
            writer.write_table(Dataset.from_dict(columns, features=features).data.table.cast(schema))
            start += len(block)


def _write_csv(blocks: Blocks, rows: DrawnRows, temporary: Path) -> None:
    """Write a number a column, beside what the rows are given: classes by name, and nothing that would be a file."""
    modalities = {name: modality for name, modality in rows.modalities.items() if modality.file_ending is None}
    start = 0
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        for block in blocks:
            values = rows.beside(block, start)
            columns = {name: _cells(modality, values[name]) for name, modality in modalities.items()}
            if start == 0:
                writer.writerow(chain(*(_heads(name, modalities[name], len(cells[0])) for name, cells in columns.items())))
            writer.writerows(chain(*cells) for cells in zip(*columns.values(), strict=True))
            start += len(block)


def _cells(modality: Modality, values: Tensor) -> list[list[Any]]:
    """Return the cells of each row: classes by name, numbers with no more digits than tell them apart."""
    names = _names(modality) if modality.classes else ()
    rows = [np.ravel(names[row] if names else row) for row in modality.to_rows(values)]
    return [list(row.astype(modality.dtype) if row.dtype.kind == "f" else row) for row in rows]


def _heads(name: str, modality: Modality, cells: int) -> list[str]:
    """Return the names of a column's numbers: those that it has, or its own with numbers behind."""
    names = () if modality.classes else _names(modality)
    if len(names) == cells:
        return list(names)
    return [name] if cells == 1 else [f"{name}_{number}" for number in range(cells)]


def _names(modality: Modality) -> tuple[str, ...]:
    """Return the names of a modality's classes, or of its numbers; () where it has none."""
    names: tuple[str, ...] = getattr(modality, "names", ())
    return names


WRITERS = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": _write_csv}
