"""Stream images: `data.streaming: true` reads them as they come, for data that are larger than the disk or not here.

The order is a function, as in batches.py, of (seed, number of processes, position). Each epoch `datasets` shuffles the files
(or the row groups of few), reads ten of them in turn, and gives each process its own, or every n-th image where files can't
be shared out evenly. What comes is shuffled block by block, `data.shuffle_buffer` images in each, by a permutation of (seed,
process, epoch, block). So a run could go on by reading all up to where it was; a checkpoint has where the block began, as
`datasets` puts it, and a run that goes on reads that block again. Processes end their epochs apart: their shares differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from genhub.data.batches import CPU, TensorBatch, finish, tell_skipped
from genhub.data.decode import Faults, Flips, Index, Reader
from genhub.data.sources import ImageSource
from genhub.data.split import share_of
from genhub.data.workers import load_ahead
from genhub.errors import DataError
from genhub.ground.processes import ALONE, Share
from genhub.ground.randomness import seed_for
from genhub.interfaces.config import DataConfig, DataSpec

SURVEYED = 100
"""Number of first images that tell the shape of all."""
FILES = 10
"""Number of files that are read in turn; of fewer, their row groups are."""

Raw = list[dict[str, Any]]
Mark = dict[str, Any]
"""Position where a block begins, as JSON: epoch, its number there, the images that this process had before, and `datasets`'
state."""


@dataclass(eq=False)
class ImageStream:
    """Endless batches of a split that is read as it comes."""

    config: DataConfig
    spec: DataSpec
    _table: Any
    _decoder: RowDecoder
    skipped: Faults = field(default_factory=list)
    """Images left out so far (`data.on_error: skip`): place in the batch, and name with why it can't be read."""
    notes: tuple[str, ...] = ()
    """Lines to print on what is odd about the images."""
    _marks: deque[Mark] = field(default_factory=deque)
    _a_step: int = 0
    """Number of images of a step on this process."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a batch's tensors."""
        return ("images", "labels") if self.spec.num_classes else ("images",)

    def batches(
        self,
        share: Share = ALONE,
        *,
        seed: int,
        start_step: int = 0,
        device: torch.device = CPU,
        state: Mapping[str, Any] | None = None,
    ) -> Iterator[TensorBatch]:
        """Return batches as `ImageData.batches` does. Without `state`, all images up to `start_step` are read and dropped.

        Args:
            state: what `state(start_step)` gave, on this process and with as many.
        Raises:
            DataError: while iterating: an image can't be read, or this process gets none.
        """
        part = share_of(self.config.batch_size, share.world_size, share.accumulation)
        self._a_step = part * share.accumulation
        ahead = (2 * self.config.num_workers + 1) * part  # images that workers may have been given already
        self._marks = deque(maxlen=3 + ahead // self.config.shuffle_buffer)
        order = self._order(seed, share, start_step * self._a_step, part, state, self._marks)
        return self._batches(order, device)

    def state(self, step: int) -> dict[str, Any]:
        """Return the state, as JSON, from which the latest `batches` would start at a step without reading up to it."""
        return next(mark for mark in reversed(self._marks) if mark["position"] <= step * self._a_step)

    def rows(self, share: Share = ALONE, *, seed: int, step: int) -> Index:
        """Return how many images a process had before each of a step's, for messages: a stream has no row numbers."""
        number = share_of(self.config.batch_size, share.world_size)
        return np.arange(step * number, (step + 1) * number)

    def _blocks(self, seed: int, share: Share, mark: Mapping[str, Any] | None) -> Iterator[tuple[Mark, Raw]]:
        from datasets.distributed import split_dataset_by_node

        shuffled = self._table.shuffle(seed=seed_for(seed), buffer_size=1)  # of files; what is in them is shuffled here
        table = split_dataset_by_node(shuffled, share.rank, share.world_size)
        epoch, block, position = (mark["epoch"], mark["block"], mark["position"]) if mark else (0, 0, 0)
        if mark:
            table.load_state_dict(mark["stream"])
        while True:
            table.set_epoch(epoch)
            rows = iter(table)
            while True:
                at = {"epoch": epoch, "block": block, "position": position, "stream": table.state_dict()}
                found = list(islice(rows, self.config.shuffle_buffer))
                if not found:
                    break
                yield at, found
                block, position = block + 1, position + len(found)
            if not block:
                raise DataError(
                    f"data.name: {self.config.title} has no images for process {share.rank + 1} of {share.world_size}"
                )
            epoch, block = epoch + 1, 0

    def _order(
        self, seed: int, share: Share, start: int, size: int, state: Mapping[str, Any] | None, marks: deque[Mark]
    ) -> Iterator[tuple[Raw, Flips]]:
        """Yield batches of undecoded images, and which of them to mirror."""
        waiting, mirrored = Raw(), list[bool]()
        for mark, rows in self._blocks(seed, share, state):
            if mark["position"] + len(rows) <= start:
                continue
            marks.append(mark)
            generator = np.random.Generator(np.random.PCG64(seed_for(seed, share.rank, mark["epoch"], mark["block"])))
            first = max(0, start - mark["position"])
            waiting += [rows[at] for at in generator.permutation(len(rows))[first:]]
            mirrored += (generator.random(len(rows)) < 0.5)[first:].tolist()
            while len(waiting) >= size:
                yield waiting[:size], np.array(mirrored[:size]) if self.config.flip else None
                del waiting[:size], mirrored[:size]

    def _batches(self, order: Iterator[tuple[Raw, Flips]], device: torch.device) -> Iterator[TensorBatch]:
        for images, labels, flips, faults in load_ahead(self._decoder, order, self.config, device):
            tell_skipped(self.skipped, faults)
            yield finish(images, labels, flips, device)


class RowDecoder(Dataset[Any]):
    """Decoder of a stream's batches, in the workers."""

    def __init__(self, reader: Reader, image: str, label: str | None = None) -> None:
        self.reader, self.image, self.label = reader, image, label

    def __getitem__(self, item: tuple[Raw, Flips]) -> Any:
        """Return (images, labels, which to mirror, faults), or the DataError, as `Reader` does."""
        raw, flips = item
        reader = copy(self.reader)
        reader.rows, reader.length, reader.first = as_rows([row[self.image] for row in raw]).rows, len(raw), 0
        try:
            images, used, faults = reader.read_some(np.arange(len(raw)))
        except DataError as error:
            return error
        labels = None if self.label is None else torch.tensor([raw[at][self.label] for at in used.tolist()])
        return images, labels, None if flips is None else torch.from_numpy(flips), faults


def as_rows(images: list[Any], remote: bool = False) -> ImageSource:
    rows = np.empty(len(images), dtype=object)
    rows[:] = images
    return ImageSource(rows, place=_somewhere, remote=remote)


def _somewhere(_: int) -> str:
    return "an image of the stream"
