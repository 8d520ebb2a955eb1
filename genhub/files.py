"""Drawn images to files: PNGs, one npz, one parquet, one grid; from memory, or as they are drawn."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.disk import write_whole
from genhub.errors import InputError
from genhub.interfaces import GenerativeModel
from genhub.manifest import read_json
from genhub.sampling import PART, draw_blocks, draw_parts, drawn_at_once, image_grid, labels_for, picture

if TYPE_CHECKING:
    from accelerate import Accelerator

RECORD = "samples.json"
"""Beside PNGs, or the parts of a file that is being drawn: what they were drawn from."""


def save_images(images: Tensor, out: Path, labels: Sequence[int] | None = None) -> Path:
    """Write (n, c, h, w) uint8: `x.npz` gets the arrays `images` (n, h, w, c) and `labels`, `x.parquet` the columns `image`
    and `label`, `x.png` a grid, a folder one PNG an image. Fewer labels than images are repeated in turn.

    Raises:
        InputError: another ending, or a place that can't be written.
    """
    with _writable(out):
        (out.parent if out.suffix else out).mkdir(parents=True, exist_ok=True)
        if out.suffix == ".png":
            image_grid(images).save(out)
        elif out.suffix in WRITERS:
            repeated = None if labels is None else np.resize(np.asarray(labels), len(images))
            WRITERS[out.suffix]([images], len(images), repeated, out)
        else:
            _write_pngs(out, set(), range(len(images)), images)
    return out


def draw_to(
    model: GenerativeModel, n: int, out: Path, *, identity: Mapping[str, Any], seed: int = 0,
    labels: Sequence[int] | None = None, batch_size: int | None = None, options: Mapping[str, Any] | None = None,
    accelerator: Accelerator | None = None, on_progress: Callable[[int], None] = lambda drawn: None,
) -> None:  # fmt: skip
    """Draw n images into a folder of PNGs, an npz or a parquet file, with little more than a batch of them in memory. What
    an earlier call left unfinished is gone on with; PNGs that are there are not drawn again, and a larger n adds to them.

    Args:
        identity: what the images depend on, as JSON: the model's hash, seed, labels, options.
    Raises:
        InputError: another ending, a place that can't be written, or a folder of other images.
    """
    main = accelerator is None or accelerator.is_main_process
    drawn_in = out.with_name(f".{out.name}.parts") if out.suffix in WRITERS else out
    given: dict[str, Any] = {"seed": seed, "labels": labels, "batch_size": batch_size, "options": options,
                             "accelerator": accelerator, "on_progress": on_progress}  # fmt: skip
    with _writable(out):
        if main:
            if drawn_in.is_dir() and _record(drawn_in) != identity:
                if drawn_in == out and any(out.iterdir()):
                    raise InputError(f"--out {out}: holds other things than these images; choose another folder")
                shutil.rmtree(drawn_in)  # of another drawing, which nobody came back to
            drawn_in.mkdir(parents=True, exist_ok=True)
            write_whole(drawn_in / RECORD, json.dumps(identity) + "\n")
        if accelerator:
            accelerator.wait_for_everyone()
        if drawn_in == out:
            there = {int(file.stem) for file in out.glob("*.png") if file.stem.isdigit()}
            step = batch_size or drawn_at_once(model)
            blocks = [range(start, min(start + step, n)) for start in range(0, n, step)]
            draw_blocks(model, blocks, there.issuperset, partial(_write_pngs, out, there), **given)
            return
        files = draw_parts(model, n, drawn_in, **given)
        if main:
            wanted, temporary = labels_for(model, n, labels), drawn_in / out.name
            parts = (torch.from_numpy(np.load(file)[: n - at * PART]) for at, file in enumerate(files))
            WRITERS[out.suffix](parts, n, None if wanted is None else wanted.numpy(), temporary)
            temporary.replace(out)
            shutil.rmtree(drawn_in)


# What lies on the disk


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


def _record(folder: Path) -> Any:
    return read_json(folder / RECORD) if (folder / RECORD).is_file() else None


def _write_pngs(folder: Path, there: Collection[int], numbers: range, images: Tensor) -> None:
    for number, image in zip(numbers, images, strict=True):
        if number not in there:
            temporary = folder / f".{number:06d}.tmp"
            picture(image).save(temporary, format="PNG")
            temporary.replace(folder / f"{number:06d}.png")


Blocks = Iterable[Tensor]
"""(b, c, h, w) uint8, one after another."""


def _write_npz(blocks: Blocks, n: int, labels: NDArray[np.int64] | None, file: Path) -> None:
    """What `np.savez_compressed` writes, without having all of it in memory."""
    blocks = iter(blocks)
    first = next(blocks)
    _, channels, height, width = first.shape
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": (n, height, width, channels)}
            np.lib.format.write_array_header_1_0(stream, header)
            for block in chain([first], blocks):
                stream.write(block.permute(0, 2, 3, 1).numpy().tobytes())
        if labels is not None:
            with archive.open("labels.npy", "w") as stream:
                np.save(stream, labels, allow_pickle=False)


def _write_parquet(blocks: Blocks, n: int, labels: NDArray[np.int64] | None, file: Path) -> None:
    """A data set as `datasets` and the Hub know it: PNGs in a column `image`, and `label` where there are labels."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    features = {"image": {"_type": "Image"}} | ({} if labels is None else {"label": {"_type": "Value", "dtype": "int64"}})
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = [("image", image)] + ([] if labels is None else [("label", pyarrow.int64())])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema, start = pyarrow.schema(columns, metadata=metadata), 0
    with ParquetWriter(file, schema) as writer:
        for block in blocks:
            rows = {"image": [{"bytes": _png(image), "path": None} for image in block]}
            if labels is not None:
                rows["label"] = labels[start : start + len(block)].tolist()
            writer.write_table(pyarrow.table(rows, schema=schema))
            start += len(block)


def _png(image: Tensor) -> bytes:
    if len(image) not in (1, 3, 4):
        raise InputError(f"--out: a PNG has 1, 3 or 4 channels, not {len(image)}; x.npz keeps them all")
    stream = BytesIO()
    picture(image).save(stream, format="PNG")
    return stream.getvalue()


WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}
