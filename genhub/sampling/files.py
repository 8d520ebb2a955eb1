"""Write images to files: PNGs, one npz, one parquet, one grid; from memory, or as they are drawn."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from genhub.errors import CheckpointError, InputError, NotFinite
from genhub.ground.disk import LOCK, OWNER, all_whole, locked, remove_leftovers, saving, whole, write_whole
from genhub.ground.processes import Together
from genhub.interfaces.config import DataSpec
from genhub.interfaces.model import Model
from genhub.sampling.draw import PART, draw_blocks, draw_parts, drawn_at_once, read_part
from genhub.sampling.pictures import image_grid, picture
from genhub.sampling.request import Drawing
from genhub.store.manifest import read_json

PNG_CHANNELS = (1, 3, 4)
RECORD = "samples.json"
"""File beside PNGs, or beside the parts of a file that is being drawn, that says what they were drawn from."""


def save_images(images: Tensor, out: Path, labels: Sequence[int] | None = None, *, of: DataSpec | None = None) -> Path:
    """Write (n, c, h, w) uint8: `x.npz` gets the arrays `images` (n, h, w, c) and `labels`, `x.parquet` the columns `image`
    and `label`, `x.png` a grid, a folder one PNG an image. Fewer labels than images are repeated in turn.

    Args:
        labels: the images' classes, by number.
        of: what the model was trained on. `label` then is a class label with its names, and `label_names` an array of the
            npz; `value_range` is there, too, if the data have one: low + images / 255 * (high - low) is in their units.

    Raises:
        InputError: another ending, or a place that can't be written.
        GenhubError: the disk is full.
    """
    folder = out.parent if out.suffix else out
    with _writable(out):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    with saving(out):
        if out.suffix == ".png":
            with whole(out) as temporary:
                image_grid(images).save(temporary, format="PNG")
        elif out.suffix in WRITERS:
            repeated = None if labels is None else np.resize(np.asarray(labels), len(images))
            with whole(out) as temporary:
                WRITERS[out.suffix]([images], len(images), repeated, of, temporary)
        else:
            _write_pngs(out, set(), range(len(images)), images)
    return out


def is_grid(out: Path) -> bool:
    """Whether `out` is one picture, which takes all images at once."""
    return out.suffix == ".png" and not out.is_dir()


def draw_to(
    model: Model,
    drawing: Drawing,
    out: Path,
    *,
    together: Together | None = None,
    on_progress: Callable[[int], None] = lambda drawn: None,
) -> None:
    """Draw images into a folder of PNGs, an npz or a parquet file, with little more than a batch of them in memory. What an
    earlier call left unfinished is gone on with; PNGs that are there, undamaged, are not drawn again, and a larger n adds
    to them.

    Raises:
        InputError: another ending, a place that can't be written, a folder of other images, or another process draws there.
        NotFinite: see `sample_images`; what was drawn before stays, for the next call.
        GenhubError: the disk is full; what was drawn is kept.
    """
    main, n = together is None or together.main, drawing.n
    drawn_in = out.with_name(f".{out.name}.parts") if out.suffix in WRITERS else out
    with ExitStack() as held:
        if main:
            held.enter_context(_undone_if_empty(drawn_in))
            held.enter_context(_claimed(drawn_in, out, drawing.identity(model)))
        if together:
            together.wait()
        held.enter_context(saving(out))
        if drawn_in == out:
            there = {int(file.stem) for file in out.glob("*.png") if file.stem.isdigit() and _is_png(file)}
            step = drawing.batch_size or drawn_at_once(model)
            blocks = [range(start, min(start + step, n)) for start in range(0, n, step)]
            missing = [block for block in blocks if not there.issuperset(block)]
            write = partial(_write_pngs, out, there)
            draw_blocks(model, drawing, missing, write, together=together, on_progress=on_progress)
            return
        files = draw_parts(model, drawing, drawn_in, together=together, on_progress=on_progress)
        if main:
            labels = drawing.labels_of(model)
            parts = (read_part(file)[: n - at * PART] for at, file in enumerate(files))
            with whole(out) as temporary:
                WRITERS[out.suffix](parts, n, None if labels is None else labels.cpu().numpy(), model.trained_on, temporary)
            shutil.rmtree(drawn_in)


def read_images(out: Path, n: int) -> Tensor:
    """Return the first n images that `draw_to` wrote, (n, c, h, w) uint8. A folder's PNGs have one, three or four channels:
    see `is_lossless`."""
    if out.suffix == ".npz":
        with np.load(out) as arrays:
            return torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).contiguous()
    if out.suffix == ".parquet":
        from pyarrow.parquet import read_table

        rows = read_table(out, columns=["image"])["image"].to_pylist()
        return torch.stack([_pixels(BytesIO(row["bytes"])) for row in rows])
    return torch.stack([_pixels(out / png_name(number)) for number in range(n)])


def is_lossless(out: Path, channels: int) -> bool:
    """Whether `read_images` gives back what was drawn: not from a grid, nor from PNGs that show some channels of more."""
    return not is_grid(out) and (out.suffix in WRITERS or channels in PNG_CHANNELS)


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
        InputError: `out` has another ending, or can't be written.
    """
    if out.suffix and out.suffix not in (".png", *WRITERS) and not out.is_dir():
        raise InputError(f"--out {out}: give x.png (a grid), x.npz (arrays), x.parquet or a folder (one PNG an image)")
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
        raise InputError(f"--out {folder}: holds other things than these images; choose another folder")


def _record(folder: Path) -> Any:
    """Return the record of what the images in a folder were drawn from; None if there is none that can be read."""
    try:
        return read_json(folder / RECORD)
    except CheckpointError:  # missing or damaged
        return None


def png_name(number: int) -> str:
    """Return the name of an image's file in a folder of PNGs."""
    return f"{number:06d}.png"


def _pixels(png: Path | BytesIO) -> Tensor:
    """Return (c, h, w) uint8, the inverse of `picture` where a PNG has room for all channels."""
    with Image.open(png) as image:
        array = np.array(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def _write_pngs(folder: Path, there: Collection[int], numbers: range, images: Tensor) -> None:
    missing = {number: image for number, image in zip(numbers, images, strict=True) if number not in there}
    with all_whole([folder / png_name(number) for number in missing]) as temporaries:
        for image, temporary in zip(missing.values(), temporaries, strict=True):
            picture(image).save(temporary, format="PNG")


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


Blocks = Iterable[Tensor]
"""Blocks of images, (b, c, h, w) uint8, one after another."""


def _write_npz(blocks: Blocks, n: int, labels: NDArray[np.int64] | None, of: DataSpec | None, temporary: Path) -> None:
    """Write a file as `np.savez_compressed` does, without having all of it in memory."""
    blocks = iter(blocks)
    first = next(blocks)
    _, channels, height, width = first.shape
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": (n, height, width, channels)}
            np.lib.format.write_array_header_1_0(stream, header)
            for block in chain([first], blocks):
                stream.write(block.permute(0, 2, 3, 1).numpy().tobytes())
        more = {} if labels is None else {"labels": labels}
        if of and of.class_names and labels is not None:
            more["label_names"] = np.array(of.class_names)
        if of and of.value_range:
            more["value_range"] = np.array(of.value_range)
        for name, array in more.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.save(stream, array, allow_pickle=False)


def _write_parquet(blocks: Blocks, n: int, labels: NDArray[np.int64] | None, of: DataSpec | None, temporary: Path) -> None:
    """Write a data set as `datasets` and the Hub know it: PNGs in a column `image`, and `label` where there are labels."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    number: dict[str, Any] = {"_type": "Value", "dtype": "int64"}
    label = {"_type": "ClassLabel", "names": list(of.class_names)} if of and of.class_names else number
    features = {"image": {"_type": "Image"}} | ({} if labels is None else {"label": label})
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = [("image", image)] + ([] if labels is None else [("label", pyarrow.int64())])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema, start = pyarrow.schema(columns, metadata=metadata), 0
    with ParquetWriter(temporary, schema) as writer:
        for block in blocks:
            rows = {"image": [{"bytes": _png(image), "path": None} for image in block]}
            if labels is not None:
                rows["label"] = labels[start : start + len(block)].tolist()
            writer.write_table(pyarrow.table(rows, schema=schema))
            start += len(block)


def _png(image: Tensor) -> bytes:
    if len(image) not in PNG_CHANNELS:
        raise InputError(f"--out: a PNG has 1, 3 or 4 channels, not {len(image)}; x.npz keeps them all")
    stream = BytesIO()
    picture(image).save(stream, format="PNG")
    return stream.getvalue()


WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}
