"""Images, and labels if there are any, from wherever they lie to batches in [-1, 1].

The order is a function, not a state: position p of a run (step * batch_size + place in the batch) is in epoch p // N
and shows image permutation(seed, epoch)[p % N]. So a run can start at any step, with any number of processes and
workers, and sees the same images, mirrored or not. Batches run on over the ends of epochs: one that crosses an end, or
is larger than the data, may hold an image twice.

Images that take at most 1 GiB are decoded once and kept as bytes; more are decoded by worker processes when needed.
Both give the same pixels but where only reading everything first can tell: without `data.channels`, a large set is grey
if 1,000 evenly spaced images are (colour found later becomes grey); and with `on_error: skip` its unreadable images are
replaced by the next readable ones, where a set in memory leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.config import STORED_CONTENT, DataConfig, DataSpec, described, share_of
from genhub.contents import content_of
from genhub.digests import hash_of
from genhub.errors import DataError
from genhub.images import SURVEYED, Faults, Flips, Index, Reader, Span
from genhub.logs import warn
from genhub.seeds import seed_for
from genhub.sources import Source, find_images
from genhub.workers import load_ahead

Batch = dict[str, Tensor]
"""Part of a step's images: "images" (b, c, h, w) float32 in [-1, 1] and, with labels, "labels" (b,) int64."""

CPU = torch.device("cpu")
IN_MEMORY_BYTES = 2**30
LOOKED_AT, NAMED = 64, 5
"""Number of images looked at for the range of values in use, where not all are in memory; and of left out ones named."""

Order = Iterator[tuple[Index, Flips]]
Decoded = Iterator[tuple[Tensor, Tensor, Tensor | None]]  # uint8 images, their labels' places, which to mirror


def load_data(
    config: DataConfig, meanwhile: Callable[[], object] = lambda: None, known: DataSpec | None = None
) -> ImageData:
    """Find the images that a recipe's `data` names, and decode them if they are to be kept in memory.

    Args:
        meanwhile: run in a thread while other processes decode, where it is worth it: slow imports.
        known: what a model was trained on: labels get the numbers that they had there, where it has them all.
    Raises:
        DataError: there are none, they are a stream, or they can't be read or don't fit together: which, and what to do.
    """
    if config.streaming:
        raise DataError(
            "data.streaming: this needs images by number, which a stream doesn't have; add data.streaming=false, and "
            "perhaps data.split=train[:10000]"
        )
    source = find_images(config)
    for key, had in [("image_column", "image"), ("label_column", "label")] if isinstance(source.rows, np.ndarray) else []:
        if getattr(config, key) not in (None, had):
            raise DataError(f"data.{key}: {config.title} is no table; its only columns are image and label")
    if not len(source.rows):
        raise DataError(f"data.name: {config.title} has no images in split {config.split}")
    reader = Reader(source, config)
    (labels, names), faults = _numbered_as(known, source), Faults()
    images: Tensor | Reader = reader
    shape, kept = reader.shape, np.arange(reader.length)
    in_memory = config.in_memory or (config.in_memory is None and reader.length * prod(shape) <= IN_MEMORY_BYTES)
    span = find_range(reader, range(reader.length) if in_memory else reader.spread(SURVEYED))
    if in_memory:
        pixels, faults = reader.read_all(meanwhile)
        if faults and (config.on_error == "fail" or len(faults) == reader.length):
            raise reader.fault(faults)
        if faults:
            kept = np.delete(kept, [row for row, _ in faults])
            pixels, labels = pixels[kept], None if labels is None else labels[kept]
        images, shape = torch.from_numpy(pixels), (pixels.shape[1], *shape[1:])
        fingerprint = content = hash_of(pixels.shape, pixels, None if labels is None else labels.numpy())
    else:
        numbers = None if labels is None else labels.numpy()
        fingerprint = STORED_CONTENT + hash_of(content_of(reader), config.size, config.channels, span, numbers)
        content = hash_of(fingerprint, config.on_error)
    notes = [f"{config.title}: passed over {_few(source.passed_over)}: no regular file, or it leads back"]
    notes = notes if source.passed_over else []
    if not in_memory:
        notes += unused_range(reader, reader.spread(LOOKED_AT))
    elif len(kept) and int(pixels[:, :3].max()) - int(pixels[:, :3].min()) <= 64:  # all are looked at again, exactly
        notes += unused_range(reader, kept.tolist())
    spec = described(
        name=config.title, split=config.split, shape=shape, num_images=len(kept), fingerprint=fingerprint,
        class_names=names, value_range=span, num_classes=None if labels is None else len(names),
    )  # fmt: skip
    return ImageData(reader.config, spec, labels, content, reader.named(faults), kept, images, tuple(notes))


def _numbered_as(known: DataSpec | None, source: Source) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return labels and class names, numbered as in the data that a model was trained on, if all of them were there: another
    split may lack some."""
    names = known.class_names or tuple(map(str, range(known.num_classes or 0))) if known else ()
    if source.labels is None or names == source.class_names or not set(source.class_names) <= set(names):
        return source.labels, source.class_names
    return torch.tensor([names.index(name) for name in source.class_names])[source.labels], names


def find_range(reader: Reader, rows: Sequence[int]) -> Span:
    """Return the values that are black and white: with `data.value_range: auto` the least and largest in these rows.

    Raises:
        DataError: they hold one value alone.
    """
    if reader.config.value_range != "auto":
        return reader.config.value_range
    low, high = reader.extent(rows)
    if low == high:
        raise DataError(f"data.value_range: auto: all images hold the value {low:g} alone; give [low, high]")
    reader.config = reader.config.model_copy(update={"value_range": (low, high)})
    return low, high


def unused_range(reader: Reader, rows: Sequence[int]) -> Iterator[str]:
    """Yield a warning if images use less than a quarter of their type's range of values, and `data.value_range` is not
    set."""
    if reader.config.value_range is None:
        (low, high), top = reader.extent(rows), reader.top()
        if 0 < high - low < top / 4:
            yield (
                f"{reader.config.title}: its values are {low:g} to {high:g}, and 0 to {top:g} are taken for black to white: "
                f"few shades are left; data.value_range=auto, or =[{low:g},{high:g}], scales them"
            )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def tell_skipped(before: Faults, more: Iterable[tuple[int, str]]) -> None:
    """Add to the images that were left out before, and name the first few as they are met."""
    for row, text in more:
        before.append((row, text))
        if len(before) <= NAMED:
            warn(f"left out {text}")


@lru_cache(maxsize=4)
def _epoch(length: int, flip: bool, seed: int, epoch: int) -> tuple[Index, Flips]:
    generator = np.random.Generator(np.random.PCG64(seed_for(seed, epoch)))
    return generator.permutation(length), generator.random(length) < 0.5 if flip else None


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """There without waiting for what the device is at: CUDA has read memory that is not pinned when the call returns."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def _normalise(images: Tensor) -> Tensor:
    return images.div(127.5).sub_(1)


def finish(images: Tensor, labels: Tensor | None, flips: Tensor | None, device: torch.device) -> Batch:
    """A batch of uint8 images (b, c, h, w), those of them mirrored that `flips` (b,) says."""
    images = to_device(images, device)
    if flips is not None:
        images = torch.where(to_device(flips, device)[:, None, None, None], images.flip(-1), images)
    batch = {"images": _normalise(images)}
    return batch if labels is None else batch | {"labels": to_device(labels, device)}


@dataclass(eq=False)
class ImageData:
    """The images of a split: in endless batches whose order is known beforehand, or picked by number."""

    config: DataConfig
    spec: DataSpec
    labels: Tensor | None
    """(N,) int64, if the data has labels."""
    content: str
    """Key in the cache of what is computed from the images: `spec.fingerprint`, and of images that are not in memory what
    becomes of unreadable ones."""
    skipped: Faults
    """Images left out so far (`data.on_error: skip`): row number, and name with why it can't be read."""
    _kept: Index
    _images: Tensor | Reader
    notes: tuple[str, ...] = ()
    """Lines to print on what is odd about the images."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a batch's tensors."""
        return ("images",) if self.labels is None else ("images", "labels")

    def batches(
        self, *, seed: int, start_step: int = 0, rank: int = 0, world_size: int = 1, accumulation: int = 1,
        device: torch.device = CPU, state: Mapping[str, Any] | None = None,
    ) -> Iterator[Batch]:  # fmt: skip
        """Endless micro-batches from `start_step` on, `accumulation` of them a step on each rank. `state` is for streams.

        Each holds batch_size / (world_size * accumulation) images, on `device`: "images" (b, c, h, w) float32 in
        [-1, 1], contiguous, and "labels" (b,) int64.

        Raises:
            DataError: batch_size is no multiple of world_size * accumulation; or, while iterating over images that are
                not kept in memory, one can't be read.
        """
        order = self.order(seed=seed, start_step=start_step, rank=rank, world_size=world_size, accumulation=accumulation)
        return self._batches(order, device)

    def order(self, *, seed: int, start_step: int, rank: int, world_size: int, accumulation: int) -> Order:
        """Of each micro-batch, which images it shows, by number, and which of them mirrored."""
        part, starts = self._starts(start_step, rank, world_size, accumulation)
        return (self._order(seed, start, part) for start in starts)

    def read(self, order: Order) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of each of `order` (b, c, h, w) in [-1, 1], and which they are, (b,): later ones in the place of those
        that can't be read."""
        for images, index, flips in self._decoded(order, CPU):
            yield finish(images, None, flips, CPU)["images"], index

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps for `batches` to start at a step: nothing."""
        return {}

    def rows(self, *, seed: int, step: int, rank: int = 0, world_size: int = 1, accumulation: int = 1) -> Index:
        """Row numbers in the split of a rank's images in a step, its micro-batches one after another."""
        part, starts = self._starts(step, rank, world_size, accumulation)
        index = [self._order(seed, start, part)[0] for start in islice(starts, accumulation)]
        return np.take(self._kept, np.concatenate(index))

    def images(self, indices: Sequence[int] | Index | Tensor) -> Tensor:
        """The images with these numbers, below spec.num_images: (n, c, h, w) float32 in [-1, 1], never mirrored."""
        index = np.asarray(indices, dtype=np.int64)
        if isinstance(self._images, Reader):
            return _normalise(self._images.read_some(index)[0])
        return _normalise(self._images[torch.from_numpy(index)].cpu())

    def _starts(self, step: int, rank: int, world_size: int, accumulation: int) -> tuple[int, Iterator[int]]:
        """The size of a micro-batch, and the positions where this rank's begin."""
        whole, part = self.config.batch_size, share_of(self.config.batch_size, world_size, accumulation)
        return part, (at * whole + (m * world_size + rank) * part for at in count(step) for m in range(accumulation))

    def _order(self, seed: int, position: int, size: int) -> tuple[Index, Flips]:
        """Which images the positions from `position` on show, and which of them mirrored."""
        index, flips = list[Index](), list[NDArray[np.bool_]]()
        while size:
            epoch, first = divmod(position, self.spec.num_images)
            permutation, mirrored = _epoch(self.spec.num_images, self.config.flip, seed, epoch)
            index.append(permutation[first : first + size])
            if mirrored is not None:
                flips.append(mirrored[first : first + size])
            position, size = position + len(index[-1]), size - len(index[-1])
        return _joined(index), _joined(flips) if flips else None

    def _batches(self, order: Order, device: torch.device) -> Iterator[Batch]:
        for images, index, flips in self._decoded(order, device):
            yield finish(images, None if self.labels is None else self.labels.index_select(0, index), flips, device)

    def _decoded(self, order: Order, device: torch.device) -> Decoded:
        if isinstance(self._images, Tensor):
            if device.type == "cuda" and self._images.nbytes <= torch.cuda.mem_get_info(device)[0] // 4:
                self._images = self._images.to(device)
            images = self._images
            for rows, flips in order:
                index = torch.from_numpy(rows)
                found = images.index_select(0, to_device(index, images.device))
                yield found, index, None if flips is None else torch.from_numpy(flips)
            return
        for item in load_ahead(self._images, order, self.config, device):
            found, index, faults, mirrored = item
            tell_skipped(self.skipped, sorted({(row, text) for row, text in faults} - set(self.skipped)))
            yield found, index, mirrored
