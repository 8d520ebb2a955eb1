"""Images, and labels if there are any, from wherever they lie to batches in [-1, 1].

The order is a function, not a state: position p of a run (step * batch_size + place in the batch) is in epoch p // N and
shows image permutation(seed, epoch)[p % N]. So a run can start at any step, with any number of processes and workers,
and sees the same images, mirrored or not. Batches run on over the ends of epochs: one that crosses an end, or is larger
than the data, may hold an image twice.

Images that take at most 1 GiB are decoded once and kept as bytes; more are decoded by worker processes when needed. Both
give the same pixels but where only reading everything first can tell: without `data.channels`, a large set is grey if
1,000 evenly spaced images are (colour found later becomes grey); and with `on_error: skip` its unreadable images are
replaced by the next readable ones, where a set in memory leaves them out.
"""

from __future__ import annotations

import gzip
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from glob import glob
from hashlib import blake2b
from importlib.util import find_spec
from io import BytesIO
from itertools import count
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from genhub.config import DataConfig, DataSpec
from genhub.errors import DataError, did_you_mean
from genhub.seeds import seed_for

Batch = dict[str, Tensor]
"""One part of a step's images: "images" (b, c, h, w) float32 in [-1, 1], and "labels" (b,) int64 if the data has any."""

IN_MEMORY_BYTES = 2**30
SPLIT_FOLDERS = set("train training test testing val valid validation dev eval".split())
IMAGE_SUFFIXES = set(".png .jpg .jpeg .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .tga .avif .jp2".split())
FILE_SUFFIXES = IMAGE_SUFFIXES | set(".parquet .arrow .zip .tar .gz .csv .json .jsonl .npy .npz .txt".split())
# Listed, because Pillow also knows formats that run another program (EPS: ghostscript).
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "AVIF", "JPEG2000")
GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}

Pixels = NDArray[np.uint8]
Index = NDArray[np.int64]
Shape = tuple[int, int, int]


class _Unreadable(Exception):
    """One image can't be read; the message says why."""


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever a decoder raises on bad bytes (OSError, SyntaxError, struct.error, ...) becomes _Unreadable."""
    try:
        yield
    except (_Unreadable, DataError):
        raise
    except Exception as error:
        known = {FileNotFoundError: "the file is missing", UnidentifiedImageError: "not an image of a known format"}
        raise _Unreadable(known.get(type(error)) or _first_line(error)) from error


@contextmanager
def _bombs_refused() -> Iterator[None]:
    """Images so large that Pillow warns can't be read. Put it around threads, not into them: the filters are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _open(raw: Any) -> Image.Image:
    content, path = (raw["bytes"], raw["path"]) if isinstance(raw, Mapping) else (None, raw)
    if content is None and path is None:
        raise _Unreadable("there is no image")
    return Image.open(path if content is None else BytesIO(content), formats=FORMATS)


def _as_chw(array: Pixels) -> Pixels:
    """(h, w), or (c, h, w) or (h, w, c), whichever end is smaller, to (c, h, w)."""
    if array.ndim == 2:
        return array[None]
    return array if array.shape[0] <= array.shape[-1] else np.moveaxis(array, -1, 0)


def _shape(raw: Any) -> Shape:
    """(channels, height, width) from an image's header, 1 channel if it is grey, else 3. Raises _Unreadable."""
    if isinstance(raw, np.ndarray):
        channels, height, width = _as_chw(raw).shape
        return channels, height, width
    with _reading(), _open(raw) as image:
        width, height = image.size
        # To tell its orientation a PNG would have to be decoded, and a TIFF is turned already.
        if image.format not in ("PNG", "TIFF") and image.getexif().get(0x0112, 1) >= 5:
            width, height = height, width
        return 1 if image.mode in GREY_MODES else 3, height, width


def _decode(raw: Any, channels: int | None, size: tuple[int, int] | None) -> Pixels:
    """(c, h, w); without `channels` 1 or 3 of an image, and an array's own. Raises _Unreadable, DataError."""
    with _reading():
        if not isinstance(raw, np.ndarray):
            with _open(raw) as image:
                ImageOps.exif_transpose(image, in_place=True)
                return _convert(image, channels, size)
        array = _as_chw(raw)
        if channels in (None, len(array)):
            if size in (None, array.shape[1:]):
                return array
            return np.concatenate([_convert(Image.fromarray(np.ascontiguousarray(a)), 1, size) for a in array])
        if len(array) not in (1, 3, 4):
            raise DataError(f"data.channels: {channels} can't be made of arrays with {len(array)} channels")
        last = np.ascontiguousarray(np.moveaxis(array, 0, -1))
        return _convert(Image.fromarray(last.squeeze(-1) if len(array) == 1 else last), channels, size)


def _convert(image: Image.Image, channels: int | None, size: tuple[int, int] | None) -> Pixels:
    channels = channels or (1 if image.mode in GREY_MODES else 3)
    if image.mode[0] in "IF":
        values, top = np.asarray(image).astype(np.float64), 1.0 if image.mode == "F" else 65535.0
        if not (values.min() >= 0 and values.max() <= top):
            raise _Unreadable(f"grey values outside 0 to {top:g}; save it with 8 or 16 bits")
        image = Image.fromarray((values * (255 / top)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels != 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if image.mode != mode:
        image = image.convert(mode)
    if size and image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], method=Image.Resampling.BICUBIC)
    return np.moveaxis(np.atleast_3d(np.asarray(image)), -1, 0)


@dataclass(frozen=True)
class _Source:
    """Undecoded images of one split: rows[row numbers] gives paths, {"bytes", "path"} or uint8 arrays."""

    rows: Any
    fingerprint: str
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()

    def fault(self, row: int, reason: object = "") -> str:
        raw = self.rows[[row]][0]
        path = raw["path"] if isinstance(raw, Mapping) else raw
        return f"row {row}" + (f" ({path})" if isinstance(path, str) else "") + (f": {reason}" if reason else "")


def _find(config: DataConfig) -> _Source:
    name, path = config.name, Path(config.name).expanduser()
    if name == "digits":
        return _digits(config)
    if path.is_dir():
        return _folder(path, config)
    pattern = bool(set("*?[") & set(name))
    files = [str(path)] if path.is_file() else sorted(glob(str(path), recursive=True)) if pattern else []
    kinds = sorted({Path(file).suffix for file in files})
    if kinds in ([".parquet"], [".arrow"]):
        return _table(config, lambda datasets: datasets.load_dataset(kinds[0][1:], data_files=files))
    if kinds:
        raise DataError(f"data.name: {name}: files must be .parquet or .arrow (or name a folder), not {', '.join(kinds)}")
    local = pattern or name.count("/") > 1 or name[:1] in (".", "/", "~") or path.suffix.lower() in FILE_SUFFIXES
    if not local and (path.parent == Path() or not path.parent.is_dir()):
        return _table(config, lambda datasets: datasets.load_dataset(name, revision=config.revision))
    while not path.parent.is_dir():
        path = path.parent
    close = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    hint = f"; did you mean '{path.with_name(close[0])}'?" if close else ""
    raise DataError(f"data.name: no such folder or file: {name}{hint}")


def _digits(config: DataConfig) -> _Source:
    """scikit-learn's digits, read from its file: importing it takes longer than all else here."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("data.name: digits come with scikit-learn, which is not installed: pip install scikit-learn")
    with gzip.open(Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz"), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    table = np.concatenate([table[part] for _, part in _parts({"train": len(table)}, config)])
    images = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return _Source(images, _hash(table), torch.from_numpy(table[:, -1].copy()), tuple("0123456789"))


def _folder(path: Path, config: DataConfig) -> _Source:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():  # of Dataset.save_to_disk
        return _table(config, lambda datasets: datasets.load_from_disk(str(path)))
    walk = [Path(top, name).relative_to(path) for top, _, names in os.walk(path, followlinks=True) for name in names]
    files = sorted(file for file in walk if not any(part.startswith(".") for part in file.parts))
    for kind, found in (("parquet", "*.parquet"), ("arrow", "*.arrow"), ("imagefolder", "metadata.[cj]s*")):
        if any(file.match(found) for file in files):
            return _table(config, lambda datasets: datasets.load_dataset(kind, data_dir=str(path)))  # noqa: B023
    files = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise DataError(f"data.name: no images, parquet or arrow files in {path}")
    # Not datasets' imagefolder, which takes a class `test` beside a class `cat` for a split, and drops the cats.
    tops = {file.parts[0] if len(file.parts) > 1 else "" for file in files}
    depth = int({top.lower() for top in tops} <= SPLIT_FOLDERS)
    splits = {top: [file for file in files if file.parts[0] == top] for top in tops} if depth else {"train": files}
    parts = _parts({split: len(found) for split, found in splits.items()}, config)
    chosen = [file for split, part in parts for file in splits[split][part]]
    labels, names = None, ()
    if all(len(file.parts) > depth + 1 for file in files):
        names = tuple(sorted({file.parts[depth] for file in files}))
        labels = torch.tensor([names.index(file.parts[depth]) for file in chosen])
    seen = [f"{file.as_posix()} {(path / file).stat().st_size}" for file in chosen]
    return _Source(np.array([str(path / file) for file in chosen], dtype=object), _hash(seen), labels, names)


def _hash(*parts: Any) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.hexdigest()


def _parts(lengths: Mapping[str, int], config: DataConfig) -> list[tuple[str, slice]]:
    """The splits, and what of each, that `data.split` names."""
    if config.split in lengths:
        return [(config.split, slice(None))]
    known = f"; the splits of {config.name}: {', '.join(sorted(lengths))}"
    if not re.search(r"[\[+]", config.split):
        raise DataError(f"data.split: no split '{config.split}'{known}")
    from datasets import ReadInstruction

    try:
        parts = ReadInstruction.from_spec(config.split).to_absolute(dict(lengths))
    except Exception as error:
        raise DataError(f"data.split: {_first_line(error)}{known}") from error
    return [(part.splitname, slice(part.from_, part.to)) for part in parts]


def _table(config: DataConfig, load: Callable[[Any], Any]) -> _Source:
    """What `datasets` loads, which runs no code of a data set."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()
    try:
        found = load(datasets)
    except Exception as error:  # whatever its readers and the network raise
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        hint = "; is the network up?" if isinstance(error, ConnectionError) else ""
        raise DataError(f"data.name: {config.name}: {_first_line(cause or error)}{hint}") from error
    finally:
        datasets.logging.set_verbosity(verbosity)
    splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    parts = _parts({split: len(rows) for split, rows in splits.items()}, config)
    chosen = [splits[split].select(range(len(splits[split]))[part]) for split, part in parts]
    table = chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen)
    fingerprint = _hash(table._fingerprint, config.image_column, config.label_column)
    return _Source(_image_rows(table, config), fingerprint, *_labels(table, config))


def _column(key: str, name: str, table: Any) -> Any:
    if name not in table.features:
        listing = f"the columns: {', '.join(table.features)}"
        raise DataError(f"data.{key}: no column '{name}'; {did_you_mean(name, table.features)} {listing}")
    return table.features[name]


def _image_rows(table: Any, config: DataConfig) -> Any:
    """The image column, undecoded."""
    from datasets import Array2D, Array3D, Image, Value

    name = config.image_column
    if name is None:
        found = [key for key, kind in table.features.items() if isinstance(kind, Image | Array2D | Array3D)]
        if len(found) != 1:
            fault = f"several columns hold images: {', '.join(found)}" if found else "no column holds images"
            raise DataError(f"data.image_column: {fault}; set it to one of: {', '.join(table.features)}")
        name = found[0]
    kind = _column("image_column", name, table)
    if isinstance(kind, Array2D | Array3D):
        if kind.dtype != "uint8":
            raise DataError(f"data.image_column: '{name}' holds {kind.dtype}; arrays must be uint8, 0 to 255")
        return table.with_format("numpy", columns=[name])[name]
    if not isinstance(kind, Image | dict) and kind != Value("binary"):  # encoded images, but not marked as such
        raise DataError(f"data.image_column: '{name}' holds no images; the columns: {', '.join(table.features)}")
    return table.cast_column(name, Image(decode=False))[name]


def _labels(table: Any, config: DataConfig) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels and class names: of a class-label column, integers from 0, or text."""
    from datasets import ClassLabel

    name, kinds = config.label_column, table.features
    if name is None:
        found = [key for key, kind in kinds.items() if isinstance(kind, ClassLabel)]
        if len(found) > 1:
            raise DataError(f"data.label_column: several columns hold class labels; set it to one of: {', '.join(found)}")
        found += [key for key in ("label", "labels", "class") if "int" in str(getattr(kinds.get(key), "dtype", ""))]
        if not found:
            return None, ()
        name = found[0]
    kind = _column("label_column", name, table)
    column = table.with_format("arrow", columns=[name])[:][name]
    if column.null_count:
        raise DataError(f"data.label_column: '{name}' is empty in {column.null_count} of {len(table)} rows")
    if kind.dtype in ("string", "large_string"):
        names, labels = np.unique(np.array(column.to_pylist(), dtype=str), return_inverse=True)
        return torch.from_numpy(labels.astype(np.int64)), tuple(map(str, names))
    if "int" not in kind.dtype:
        raise DataError(f"data.label_column: '{name}' holds {kind.dtype}, not class labels")
    labels = column.to_numpy().astype(np.int64)
    if (labels < 0).any():
        rows = (labels < 0).nonzero()[0]
        raise DataError(f"data.label_column: '{name}' is negative (no class) in {len(rows)} of {len(labels)} rows, first "
                        f"in row {rows[0]}; choose another data.split or column")  # fmt: skip
    return torch.from_numpy(labels), tuple(kind.names) if isinstance(kind, ClassLabel) else ()


class ImageData:
    """Images of one split, and their labels, as endless batches or one by one."""

    def __init__(self, config: DataConfig, source: _Source) -> None:
        self.config = config
        self.skipped: list[tuple[int, str]] = []
        """Row numbers, and reasons, of images that were left out (`data.on_error: skip`)."""


def load_data(config: DataConfig) -> ImageData:
    """Find and open the images that a recipe's `data` names, and decode them if they are kept in memory.

    Raises:
        DataError: there are none, or some can't be read or don't fit together; the message says which and what to do.
    """
    return ImageData(config, _find(config))
