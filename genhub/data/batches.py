"""Make batches in [-1, 1] of images, and of their labels if there are any.

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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.data.decode import Faults, Flips, Index, Reader, Span
from genhub.data.split import share_of
from genhub.data.workers import load_ahead
from genhub.errors import DataError
from genhub.ground.console import warn
from genhub.ground.processes import ALONE, Share
from genhub.ground.randomness import seed_for
from genhub.interfaces.config import DataConfig, DataSpec

TensorBatch = dict[str, Tensor]
"""Part of a step's images: "images" (b, c, h, w) float32 in [-1, 1] and, with labels, "labels" (b,) int64."""

CPU = torch.device("cpu")
IN_MEMORY_BYTES = 2**30
LOOKED_AT, NAMED = 64, 5
"""Number of images looked at for the range of values in use, where not all are in memory; and of left out ones named."""

Order = Iterator[tuple[Index, Flips]]
Decoded = Iterator[tuple[Tensor, Tensor, Tensor | None]]  # uint8 images, their labels' places, which to mirror


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


def few(names: Sequence[str]) -> str:
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
    """Copy a tensor to a device: asynchronously on CUDA, which is safe for memory that is not pinned, too."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def _normalise(images: Tensor) -> Tensor:
    return images.div(127.5).sub_(1)


def finish(images: Tensor, labels: Tensor | None, flips: Tensor | None, device: torch.device) -> TensorBatch:
    """Return a batch made of uint8 images (b, c, h, w), those marked in `flips` (b,) mirrored."""
    images = to_device(images, device)
    if flips is not None:
        images = torch.where(to_device(flips, device)[:, None, None, None], images.flip(-1), images)
    batch = {"images": _normalise(images)}
    return batch if labels is None else batch | {"labels": to_device(labels, device)}


@dataclass(eq=False)
class ImageData:
    """Images of a split: in endless batches whose order is known beforehand, or picked by number."""

    config: DataConfig
    spec: DataSpec
    labels: Tensor | None
    """Labels (N,) int64, if the data has any."""
    content: str
    """Cache key for data derived from the images: `spec.fingerprint`, and of images that are not in memory also what
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
        self,
        share: Share = ALONE,
        *,
        seed: int,
        start_step: int = 0,
        device: torch.device = CPU,
        state: Mapping[str, Any] | None = None,
    ) -> Iterator[TensorBatch]:
        """Return endless micro-batches from `start_step` on, `share.accumulation` of them a step on each rank. `state` is
        for streams.

        Each holds batch_size / (share.world_size * share.accumulation) images, on `device`: "images" (b, c, h, w) float32 in
        [-1, 1], contiguous, and "labels" (b,) int64.

        Raises:
            DataError: batch_size is no multiple of world_size * accumulation; or, while iterating over images that are
                not kept in memory, one can't be read.
        """
        order = self.order(share, seed, start_step)
        return self._batches(order, device)

    def order(self, share: Share, seed: int, start_step: int) -> Order:
        """Return, for each micro-batch, the numbers of its images and which of them to mirror."""
        part, starts = self._starts(start_step, share)
        return (self._order(seed, start, part) for start in starts)

    def read(self, order: Order) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each of `order`, the images (b, c, h, w) in [-1, 1] and their numbers (b,): later ones in the place of
        those that can't be read."""
        for images, index, flips in self._decoded(order, CPU):
            yield finish(images, None, flips, CPU)["images"], index

    def state(self, step: int) -> dict[str, Any]:
        """Return the state from which `batches` starts at a step: nothing, as the order is a function of the step."""
        return {}

    def rows(self, share: Share = ALONE, *, seed: int, step: int) -> Index:
        """Return the row numbers in the split of a rank's images in a step, its micro-batches one after another."""
        part, starts = self._starts(step, share)
        index = [self._order(seed, start, part)[0] for start in islice(starts, share.accumulation)]
        return np.take(self._kept, np.concatenate(index))

    def images(self, indices: Sequence[int] | Index | Tensor) -> Tensor:
        """Return the images with these numbers, below spec.num_images: (n, c, h, w) float32 in [-1, 1], never mirrored."""
        index = np.asarray(indices, dtype=np.int64)
        if isinstance(self._images, Reader):
            return _normalise(self._images.read_some(index)[0])
        return _normalise(self._images[torch.from_numpy(index)].cpu())

    def _starts(self, step: int, share: Share) -> tuple[int, Iterator[int]]:
        """Return the size of a micro-batch, and the positions where this rank's begin."""
        whole, part = self.config.batch_size, share_of(self.config.batch_size, share.world_size, share.accumulation)
        turns = ((at, m) for at in count(step) for m in range(share.accumulation))
        return part, (at * whole + (m * share.world_size + share.rank) * part for at, m in turns)

    def _order(self, seed: int, position: int, size: int) -> tuple[Index, Flips]:
        """Return the numbers of the images at `size` positions from `position` on, and which of them to mirror."""
        index, flips = list[Index](), list[NDArray[np.bool_]]()
        while size:
            epoch, first = divmod(position, self.spec.num_images)
            permutation, mirrored = _epoch(self.spec.num_images, self.config.flip, seed, epoch)
            index.append(permutation[first : first + size])
            if mirrored is not None:
                flips.append(mirrored[first : first + size])
            position, size = position + len(index[-1]), size - len(index[-1])
        return _joined(index), _joined(flips) if flips else None

    def _batches(self, order: Order, device: torch.device) -> Iterator[TensorBatch]:
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
