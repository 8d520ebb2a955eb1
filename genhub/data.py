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

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from genhub.config import DataConfig, DataSpec, share_of
from genhub.digests import hash_of
from genhub.errors import DataError
from genhub.images import Faults, Flips, Index, Reader
from genhub.seeds import seed_for
from genhub.sources import find_images
from genhub.workers import load_ahead

Batch = dict[str, Tensor]
"""Part of a step's images: "images" (b, c, h, w) float32 in [-1, 1] and, with labels, "labels" (b,) int64."""

CPU = torch.device("cpu")
IN_MEMORY_BYTES = 2**30

Order = Iterator[tuple[Index, Flips]]
Decoded = Iterator[tuple[Tensor, Tensor, Tensor | None]]  # uint8 images, their labels' places, which to mirror


def load_data(config: DataConfig, meanwhile: Callable[[], object] = lambda: None) -> ImageData:
    """Find the images that a recipe's `data` names, and decode them if they are to be kept in memory.

    Args:
        meanwhile: run in a thread while other processes decode, where it is worth it: slow imports.
    Raises:
        DataError: there are none, they are a stream, or they can't be read or don't fit together: which, and what to do.
    """
    if config.streaming:
        raise DataError(
            "data.streaming: this needs images by number, which a stream doesn't have; add data.streaming=false, and "
            "perhaps data.split=train[:10000]"
        )
    # For good, because filters are not per thread: an image so large that Pillow only warns of it can't be read.
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    source = find_images(config)
    for key, had in [("image_column", "image"), ("label_column", "label")] if isinstance(source.rows, np.ndarray) else []:
        if getattr(config, key) not in (None, had):
            raise DataError(f"data.{key}: {config.title} is no table; its only columns are image and label")
    if not len(source.rows):
        raise DataError(f"data.name: {config.title} has no images in split {config.split}")
    reader, labels, faults = Reader(source, config), source.labels, Faults()
    images: Tensor | Reader = reader
    shape, kept = reader.shape, np.arange(reader.length)
    fingerprint = hash_of(source.fingerprint, config.size, config.channels)
    content = hash_of(fingerprint, source.written, config.on_error)
    if config.in_memory or (config.in_memory is None and reader.length * prod(shape) <= IN_MEMORY_BYTES):
        pixels, faults = reader.read_all(meanwhile)
        if faults and (config.on_error == "fail" or len(faults) == reader.length):
            raise reader.fault(faults)
        if faults:
            kept = np.delete(kept, [row for row, _ in faults])
            pixels, labels = pixels[kept], None if labels is None else labels[kept]
        images, shape = torch.from_numpy(pixels), (pixels.shape[1], *shape[1:])
        fingerprint = content = hash_of(pixels.shape, pixels, None if labels is None else labels.numpy())
    spec = DataSpec(
        name=config.title, split=config.split, shape=shape, num_images=len(kept), fingerprint=fingerprint,
        class_names=source.class_names,
        num_classes=None if labels is None else max(len(source.class_names), int(labels.max()) + 1),
    )  # fmt: skip
    return ImageData(config, spec, labels, content, faults, kept, images)


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
    """What is computed of the images and kept is kept by this: as `spec.fingerprint`, but for files that were not read yet
    it changes when one is written again."""
    skipped: Faults
    """Row numbers of images that were left out so far (`data.on_error: skip`), and why they can't be read."""
    _kept: Index
    _images: Tensor | Reader

    @property
    def columns(self) -> tuple[str, ...]:
        """What a batch holds."""
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
            self.skipped += sorted({(row, reason) for row, reason in faults} - set(self.skipped))
            yield found, index, mirrored
