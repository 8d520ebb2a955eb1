"""From wherever images lie to pixels: where they are, which columns, how each is decoded. Only data.py uses this."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from glob import glob
from hashlib import blake2b
from importlib.util import find_spec
from io import BytesIO
from math import prod
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from genhub.config import DataConfig
from genhub.errors import DataError, did_you_mean
from genhub.forks import can_fork, cores, forked

SURVEYED, CHUNK = 1000, 32
SAVED = "saved"
"""In the place of a format's name: a folder that `Dataset.save_to_disk` wrote."""
MANY = 5000
"""From so many small images on, processes decode them: a fork costs as much as decoding a few hundred."""
DATA_SUFFIXES = {".parquet", ".arrow", ".zip", ".tar", ".gz", ".csv", ".json", ".npz"}
SPLIT_FOLDERS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}
# Listed, because Pillow also knows formats that run another program (EPS: ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "AVIF", "JPEG2000")
GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}

Pixels = NDArray[np.uint8]  # (c, h, w)
Index = NDArray[np.int64]
Flips = NDArray[np.bool_] | None
Faults = list[tuple[int, str]]  # row numbers, and what is wrong there


def _attempt(read: Callable[..., Any], *args: Any) -> Any:
    """What `read` gives, or as text why it can't: decoders raise OSError, SyntaxError, struct.error and more."""
    try:
        return read(*args)
    except DataError:
        raise
    except UnidentifiedImageError:  # its message has a memory address
        return "not an image of a known format"
    except FileNotFoundError:
        return "the file is missing"
    except Exception as error:
        return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with; asked late, as all of its plugins are imported."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def _image_suffixes() -> set[str]:
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}


def _open(raw: Any) -> Image.Image:
    content, path = (raw["bytes"], raw["path"]) if isinstance(raw, Mapping) else (None, raw)
    if content is None and path is None:
        raise ValueError("there is no image")
    return Image.open(path if content is None else BytesIO(content), formats=_formats())


def _as_chw(array: Pixels) -> Pixels:
    """(h, w), or (c, h, w) or (h, w, c), whichever end is smaller, to (c, h, w)."""
    if array.ndim == 2:
        return array[None]
    return array if array.shape[0] <= array.shape[-1] else np.moveaxis(array, -1, 0)


def _shape(raw: Any) -> tuple[int, ...]:
    """(channels, height, width) from an image's header, 1 channel if it is grey, else 3."""
    if isinstance(raw, np.ndarray):
        return _as_chw(raw).shape
    with _open(raw) as image:
        width, height = image.size
        # To tell its orientation a PNG would have to be decoded, and a TIFF is turned already.
        if image.format not in ("PNG", "TIFF") and image.getexif().get(0x0112, 1) >= 5:
            width, height = height, width
        return 1 if image.mode in GREY_MODES else 3, height, width


def _decode(raw: Any, channels: int | None, size: tuple[int, int] | None) -> Pixels:
    """(c, h, w); without `channels` 1 or 3 of an image, and an array's own."""
    if not isinstance(raw, np.ndarray):
        with _open(raw) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _convert(image, channels, size)
    array = np.ascontiguousarray(_as_chw(raw))
    if channels in (None, len(array)):
        same = size in (None, array.shape[1:])
        return array if same else np.concatenate([_convert(Image.fromarray(plane), 1, size) for plane in array])
    if len(array) not in (1, 3, 4):
        raise DataError(f"data.channels: {channels} can't be made of arrays with {len(array)} channels")
    last = array[0] if len(array) == 1 else np.ascontiguousarray(np.moveaxis(array, 0, -1))
    return _convert(Image.fromarray(last), channels, size)


def _convert(image: Image.Image, channels: int | None, size: tuple[int, int] | None) -> Pixels:
    channels = channels or (1 if image.mode in GREY_MODES else 3)
    if image.mode[0] in "IF":
        values, top = np.asarray(image).astype(np.float64), 1.0 if image.mode == "F" else 65535.0
        if not (values.min() >= 0 and values.max() <= top):
            raise ValueError(f"grey values outside 0 to {top:g}; save it with 8 or 16 bits")
        image = Image.fromarray((values * (255 / top)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels != 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    image = image if image.mode == mode else image.convert(mode)
    if size and image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], method=Image.Resampling.BICUBIC)
    return np.moveaxis(np.atleast_3d(np.asarray(image)), -1, 0)


@dataclass(frozen=True)
class Source:
    """Undecoded images of one split: rows[row numbers] gives paths, {"bytes", "path"} or uint8 arrays."""

    rows: Any
    fingerprint: str
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """Of a stream: the images', and the labels' if there are any."""
    length: int = 0
    """How many images a stream has, as far as is known; rows have a length of their own."""


def find_images(config: DataConfig) -> Source:
    name, path = config.name, Path(config.name).expanduser()
    if name == "digits":
        return _digits(config)
    if name and path.is_dir():
        return _folder(path, config)
    files = [str(path)] if path.is_file() else sorted(glob(name and str(path), recursive=True))  # noqa: PTH207
    kinds = sorted({Path(file).suffix for file in files})
    if kinds in ([".parquet"], [".arrow"]):
        return _table(config, kinds[0][1:], data_files=files)
    if kinds:
        raise DataError(f"data.name: {name}: give a folder, .parquet or .arrow files, not {', '.join(kinds)}")
    local = name.count("/") > 1 or name[:1] in "./~" or bool(set("*?[") & set(name))
    local = local or path.suffix.lower() in DATA_SUFFIXES | _image_suffixes()
    if not local and (path.parent == Path() or not path.parent.is_dir()):
        return _table(config, name, revision=config.revision)
    while not path.parent.is_dir():
        path = path.parent
    close = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    hint = f"; did you mean '{path.with_name(close[0])}'?" if close else ""
    raise DataError(f"data.name: no such folder or file: {name}{hint}")


def _digits(config: DataConfig) -> Source:
    """scikit-learn's digits, read from its file: importing it takes longer than all else here."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("data.name: digits come with scikit-learn, which is not installed: pip install scikit-learn")
    file = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    table = np.concatenate([table[part] for _, part in _parts({"train": len(table)}, config)])
    images = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Source(images, hash_of(table), torch.from_numpy(table[:, -1].copy()), tuple("0123456789"))


def _folder(path: Path, config: DataConfig) -> Source:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():  # of Dataset.save_to_disk
        return _table(config, SAVED, dataset_path=str(path))
    walk = [Path(top, name).relative_to(path) for top, _, names in os.walk(path, followlinks=True) for name in names]
    files = sorted(file for file in walk if not any(part.startswith(".") for part in file.parts))
    for kind in ("parquet", "arrow"):
        if any(file.suffix == f".{kind}" for file in files):
            return _table(config, kind, data_dir=str(path))
    suffixes = _image_suffixes()
    files = [file for file in files if file.suffix.lower() in suffixes]
    if not files:
        raise DataError(f"data.name: no images, parquet or arrow files in {path}")
    # Not datasets' imagefolder: it takes a class `test` beside a class `cat` for a split, and drops the cats.
    tops = {file.parts[0] if len(file.parts) > 1 else "" for file in files}
    depth = int({top.lower() for top in tops} <= SPLIT_FOLDERS)
    splits = {top: [file for file in files if file.parts[0] == top] for top in tops} if depth else {"train": files}
    parts = _parts({split: len(found) for split, found in splits.items()}, config)
    chosen = [file for split, part in parts for file in splits[split][part]]
    seen = [(file.as_posix(), (path / file).stat().st_size) for file in chosen]
    rows = np.array([str(path / file) for file in chosen], dtype=object)
    if not all(len(file.parts) > depth + 1 for file in files):
        return Source(rows, hash_of(seen))
    numbers = {name: number for number, name in enumerate(sorted({file.parts[depth] for file in files}))}
    return Source(rows, hash_of(seen), torch.tensor([numbers[file.parts[depth]] for file in chosen]), tuple(numbers))


def hash_of(*parts: Any) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.hexdigest()


def _parts(lengths: Mapping[str, int], config: DataConfig) -> list[tuple[str, slice]]:
    """The splits, and what of each, that `data.split` names."""
    if config.split in lengths:
        return [(config.split, slice(None))]
    known = f"; the splits of {config.name}: {', '.join(sorted(lengths))}"
    if not set("[+") & set(config.split):
        raise DataError(f"data.split: no split '{config.split}'{known}")
    from datasets import ReadInstruction

    try:
        parts = ReadInstruction.from_spec(config.split).to_absolute(dict(lengths))
    except Exception as error:
        raise DataError(f"data.split: {_first_line(error)}{known}") from error
    return [(part.splitname, slice(part.from_, part.to)) for part in parts]


def _table(config: DataConfig, path: str, **options: Any) -> Source:
    """What `datasets` loads; since version 4 it runs no code that comes with data."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()  # what matters comes as an exception
    try:
        if path == SAVED:
            found = datasets.load_from_disk(**options)
        elif config.streaming:
            builder = datasets.load_dataset_builder(path, **options)
            return _stream(config, builder, builder.as_streaming_dataset())
        else:
            found = datasets.load_dataset(path, **options)
    except DataError:
        raise
    except Exception as error:  # whatever its readers and the network raise
        cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" else None
        hint = "; is the network up?" if isinstance(error, ConnectionError) else ""
        raise DataError(f"data.name: {config.name}: {_first_line(cause or error)}{hint}") from error
    splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    parts = _parts({split: len(rows) for split, rows in splits.items()}, config)
    chosen = [splits[split].select(range(len(splits[split]))[part]) for split, part in parts]
    table = chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen)
    fingerprint = hash_of(table._fingerprint, config.image_column, config.label_column)
    return Source(_image_rows(table, config), fingerprint, *_labels(table, config))


def _stream(config: DataConfig, builder: Any, splits: Mapping[str, Any]) -> Source:
    """rows: one split as an IterableDataset, undecoded."""
    import datasets
    from datasets import ClassLabel, Image
    from pyarrow.parquet import read_metadata

    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.0  # 5 s at each epoch's end
    if config.split not in splits:
        known = f"; the splits of {config.name}: {', '.join(sorted(splits))}"
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
    seen = [(Path(file).name, Path(file).stat().st_size) for file in files] if local else files  # others have the commit
    number = builder.info.splits[config.split].num_examples if builder.info.splits else 0
    if local and not number and all(file.endswith(".parquet") for file in files):
        number = sum(read_metadata(file).num_rows for file in files)
    names, columns = ((), (image,)) if label is None else (tuple(table.features[label].names), (image, label))
    table = table.select_columns(list(columns)).cast_column(image, Image(decode=False))
    return Source(table, hash_of(seen, columns), None, names, columns, number)


def _column(key: str, name: str | None, found: Sequence[str], table: Any) -> str | None:
    """The column to take: the one that the recipe names, or the only one found."""
    if name is None and len(found) > 1:
        raise DataError(f"data.{key}: several columns would do; set it to one of: {', '.join(found)}")
    if name is not None and name not in table.column_names:
        listing = f"the columns: {', '.join(table.column_names)}"
        raise DataError(f"data.{key}: no column '{name}'; {did_you_mean(name, table.column_names)} {listing}")
    return name or next(iter(found), None)


def _image_column(table: Any, config: DataConfig) -> tuple[str, Any]:
    """Its name and its kind: a feature of `datasets`."""
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
    """The image column, undecoded."""
    from datasets import Array2D, Array3D, Image

    name, kind = _image_column(table, config)
    if isinstance(kind, Array2D | Array3D):
        if kind.dtype != "uint8":
            raise DataError(f"data.image_column: '{name}' holds {kind.dtype}; arrays must be uint8, 0 to 255")
        return table.with_format("numpy", columns=[name], dtype=np.uint8)
    return table.select_columns([name]).cast_column(name, Image(decode=False))


def _label_column(table: Any, config: DataConfig) -> str | None:
    from datasets import ClassLabel

    types = {key: str(getattr(kind, "dtype", "")) for key, kind in table.features.items()}
    found = [key for key, kind in table.features.items() if isinstance(kind, ClassLabel)]
    found = found or [key for key in ("label", "labels", "class") if "int" in types.get(key, "")][:1]
    return _column("label_column", config.label_column, found, table)


def _labels(table: Any, config: DataConfig) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels and class names: of a class-label column, integers from 0, or text."""
    name = _label_column(table, config)
    if name is None:
        return None, ()
    text = "string" in str(getattr(table.features[name], "dtype", ""))
    values = table.with_format("arrow", columns=[name])[:][name].to_pylist()
    bad = [at for at, x in enumerate(values) if not (isinstance(x, str) if text else isinstance(x, int) and x >= 0)]
    if bad:
        where = f"{len(bad)} of {len(values)} rows, first {values[bad[0]]} in row {bad[0]}"
        raise DataError(f"data.label_column: '{name}' has no class in {where}; take another split or column")
    names = tuple(sorted(set(values)) if text else getattr(table.features[name], "names", ()))
    numbers = {value: number for number, value in enumerate(names)}
    return torch.tensor([numbers[value] for value in values] if text else values, dtype=torch.int64), names


class Reader(Dataset[Any]):
    """Decodes a source's images, all to one shape; each worker has a copy."""

    def __init__(self, source: Source, config: DataConfig) -> None:
        self.rows, self.config, self.length = source.rows, config, len(source.rows)
        sample = np.linspace(0, self.length - 1, min(self.length, SURVEYED)).astype(np.int64).tolist()
        found = {row: _attempt(_shape, self.raw([row])[0]) for row in sample}
        shapes = {row: shape for row, shape in found.items() if not isinstance(shape, str)}
        if not shapes:
            raise self.fault(list(found.items()))
        self.first = next(iter(shapes))
        channels, *stored = shapes[self.first]
        if not isinstance(self.raw([self.first])[0], np.ndarray):
            channels = max(shape[0] for shape in shapes.values())
        height, width = config.size or stored
        self.shape: tuple[int, int, int] = (config.channels or channels, height, width)
        self.small = prod(stored) <= 2**14

    def raw(self, rows: list[int]) -> Any:
        """Paths, {"bytes", "path"} or uint8 arrays."""
        found = self.rows[rows]
        return next(iter(found.values())) if isinstance(found, dict) else found

    def name(self, row: int) -> str:
        raw = self.raw([row])[0]
        path = raw["path"] if isinstance(raw, Mapping) else raw
        return f"row {row} ({path})" if isinstance(path, str) else f"row {row}"

    def fault(self, faults: Faults) -> DataError:
        names = "; ".join(f"{self.name(row)}: {reason}" for row, reason in faults[:5])
        advice = "; data.on_error: skip leaves them out" if self.config.on_error == "fail" else ""
        return DataError(f"{len(faults)} of {self.length} images can't be read: {names}{advice}")

    def read(self, rows: Sequence[int], channels: int | None) -> list[Any]:
        """Pixels (c, h, w), or as text why they can't be read. Raises DataError if they don't fit the first's."""
        images = [_attempt(_decode, raw, channels, self.config.size) for raw in self.raw(list(rows))]
        for row, image in zip(rows, images, strict=True):
            if isinstance(image, str) or image.shape == self.shape:
                continue
            key = "image_size" if image.shape[1:] != self.shape[1:] else "channels"
            if key == "image_size" or {len(image), self.shape[0]} != {1, 3}:  # grey and colour fit together
                shapes = [
                    f"{self.name(at)} is {c}x{h}x{w}" for at, (c, h, w) in ((self.first, self.shape), (row, image.shape))
                ]
                raise DataError(f"{' but '.join(shapes)} (channels x height x width); set data.{key}")
        return images

    def read_all(self, meanwhile: Callable[[], object] = lambda: None) -> tuple[Pixels, Faults]:
        """All images (n, c, h, w), and those that can't be read. Colour found among grey makes all of them RGB.

        meanwhile: run in a thread while other processes decode, if there are enough images for that.
        """
        images, faults = np.empty((self.length, *self.shape), np.uint8), Faults()
        chunks = -(-self.length // CHUNK)

        def chunk(number: int) -> list[Any]:
            start = CHUNK * number
            return self.read(range(start, min(start + CHUNK, self.length)), self.config.channels)

        with ExitStack() as stack:
            if self.small and self.length >= MANY and can_fork():  # with small images threads wait for each other
                done = forked(chunk, chunks, cores())
                thread = Thread(target=meanwhile)
                thread.start()  # after the fork: a child must not find a lock held
                stack.callback(thread.join)
            else:
                done = stack.enter_context(ThreadPool(1 if self.small else os.cpu_count())).imap(chunk, range(chunks))
            for number, decoded in enumerate(done):
                for row, image in enumerate(decoded, CHUNK * number):
                    if isinstance(image, str):
                        faults.append((row, image))
                        continue
                    if len(image) > images.shape[1]:
                        images = images.repeat(3, axis=1)
                    images[row] = image
        return images, faults

    def read_some(self, rows: Index) -> tuple[Tensor, Index, Faults]:
        """Images (n, c, h, w), their rows, which are later ones for those that can't be read, and the latter."""
        images, used, faults = self.read(rows.tolist(), self.shape[0]), rows.copy(), Faults()
        for place, row in enumerate(rows.tolist()):
            while isinstance(images[place], str):
                faults.append((int(used[place]), images[place]))
                used[place] = (used[place] + 1) % self.length
                if self.config.on_error == "fail" or used[place] == row:
                    raise self.fault(faults)
                images[place] = self.read([int(used[place])], self.shape[0])[0]
        return torch.from_numpy(np.stack(images)), used, faults

    def __getitem__(self, order: tuple[Index, Flips]) -> Any:
        """A batch for the DataLoader, or the DataError: one raised in a worker would come back as a traceback."""
        try:
            return (*self.read_some(order[0]), order[1])
        except DataError as error:
            return error
