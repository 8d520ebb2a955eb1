"""Make batches of the target of a split's rows, and of their conditions if there are any.

The order is a function, not a state: position p of a run (step * batch_size + place in the batch) is in epoch p // N
and shows row permutation(seed, epoch)[p % N]. So a run can start at any step, with any number of processes and
workers, and sees the same rows, mirrored or not. Batches run on over the ends of epochs: one that crosses an end, or
is larger than the data, may hold a row twice.

Columns that take at most 1 GiB together are read once and kept; more are read by worker processes when needed, but single
numbers and classes, which are always kept. Both give the same values but where only reading everything first can tell: a
large set is grey if 1,000 evenly spaced images are (colour found later becomes grey); and with `on_error: skip` its
unreadable rows are replaced by the next readable ones, where a set in memory leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.conditioning.guidance import dropped
from genhub.data.raw import Index
from genhub.data.reading import Faults, Flips, RowReader
from genhub.data.split import share_of
from genhub.data.split_columns import SplitColumns
from genhub.data.wordings import Wordings
from genhub.data.workers import load_ahead
from genhub.errors import DataError
from genhub.ground.brief import line
from genhub.ground.console import warn
from genhub.ground.processes import ALONE, Share
from genhub.ground.randomness import seed_for, seed_in_turn
from genhub.interfaces.columns import DataConfig, DataSpec
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.modality import Modality
from genhub.interfaces.model import Batch

CPU = torch.device("cpu")
IN_MEMORY_BYTES = 2**30
NAMED = 5
"""Number of left out rows that are named."""
DROPOUT_STREAM = 2**32 + 2
"""Number that keeps the dropout of conditions apart from the seeds of training steps, images and choices."""

Order = Iterator[tuple[Index, Flips]]
Indices = Sequence[int] | Index | Tensor
Tensors = Mapping[str, Tensor]
Encoders = Mapping[str, Callable[[Tensor, torch.device], Tensor]]
"""By column, functions from kept values (b, *shape) to what a frozen encoder made of them, on a device."""


def tell_skipped(before: Faults, more: Iterable[tuple[int, str]]) -> None:
    """Add to the rows that were left out before, and name the first few as they are met."""
    for row, text in more:
        before.append((row, text))
        if len(before) <= NAMED:
            warn(f"left out {text}")


def check_flip(config: DataConfig, modalities: Mapping[str, Modality]) -> None:
    """
    Raises:
        DataError: `data.flip` is on, and there is nothing to mirror.
    """
    if config.flip and not any(modality.mirrors for modality in modalities.values()):
        kinds = ", ".join(f"{name} is a {modality.modality}" for name, modality in modalities.items())
        raise DataError(f"data.flip: there is no image to mirror: {kinds}; leave it out")


@lru_cache(maxsize=4)
def _epoch(length: int, flip: bool, seed: int, epoch: int) -> tuple[Index, Flips]:
    generator = np.random.Generator(np.random.PCG64(seed_for(seed, epoch)))
    return generator.permutation(length), generator.random(length) < 0.5 if flip else None


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device: asynchronously on CUDA, which is safe for memory that is not pinned, too."""
    return tensor.to(device, non_blocking=device.type == "cuda")


@dataclass(frozen=True)
class BatchMaker:
    """From kept values of some rows to a batch on a device."""

    spec: DataSpec
    device: torch.device
    batch_size: int = 1
    dropout: float | Mapping[str, float] = 0.0
    """`model.condition_dropout`."""
    seed: int = 0
    share: Share = ALONE
    encoded: Encoders = field(default_factory=dict)

    def batch(self, values: Tensors, present: Tensors, flips: Tensor | None, number: int) -> Batch:
        """Return a micro-batch.

        Args:
            values: by column, as kept.
            present: by condition, (b,) bool.
            flips: which rows to mirror.
            number: of the micro-batch on this process, from the run's first step on.
        """
        x = self._of(self.spec.modality, values[self.spec.target], flips)
        return Batch(x, self.conditions(values, present, flips, number), number // self.share.accumulation)

    def conditions(self, values: Tensors, present: Tensors, flips: Tensor | None, number: int) -> Conditions:
        """Return the conditions of a micro-batch, with dropout."""
        if not self.spec.conditions:
            return Conditions()
        conditions = self.of_rows(values, present, flips, self._positions(number))
        if not self.dropout:
            return conditions
        generator = torch.Generator().manual_seed(seed_in_turn(self.seed, DROPOUT_STREAM, self.share.rank, number))
        return dropped(conditions, self.dropout, generator)

    def of_rows(self, values: Tensors, present: Tensors, flips: Tensor | None, positions: Index) -> Conditions:
        """Return the conditions of rows at these positions of a run, none dropped."""
        found, cached = {}, {}
        for name, modality in self.spec.conditions.items():
            kept = values[name]
            if name in self._wordings:
                kept = self._wordings[name].of(kept, positions[: len(kept)], self.seed)
            found[name] = self._of(modality, kept, flips)
            if name in self.encoded:
                cached[name] = self.encoded[name](kept, self.device)
        return Conditions(found, {name: to_device(present[name], self.device) for name in found}, cached)

    @cached_property
    def _wordings(self) -> dict[str, Wordings]:
        found = {name: modality.wordings() for name, modality in self.spec.conditions.items()}
        return {name: Wordings(forms) for name, forms in found.items() if forms is not None}

    def _positions(self, number: int) -> Index:
        """Return the positions in the run of a micro-batch's rows."""
        step, turn = divmod(number, self.share.accumulation)
        part = share_of(self.batch_size, self.share.world_size, self.share.accumulation)
        first = step * self.batch_size + (turn * self.share.world_size + self.share.rank) * part
        return np.arange(first, first + part)

    def _of(self, modality: Modality, kept: Tensor, flips: Tensor | None) -> Tensor:
        x = modality.to_batch(to_device(kept, self.device))
        if flips is None or not modality.mirrors:
            return x
        return torch.where(to_device(flips, self.device).view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)


@dataclass(eq=False)
class Column:
    """Column of a split: its values by the numbers of rows."""

    name: str
    modality: Modality
    _values: Tensor | None
    """All values (N, *shape) as kept, where they are in memory."""
    _present: Tensor
    """(N,) bool: which rows have a value, as far as is known before they are read."""
    _reader: RowReader

    @property
    def num_rows(self) -> int:
        return len(self._present)

    def kept(self, indices: Indices) -> Tensor:
        """Return the values of the rows with these numbers as they are kept, (n, *shape): zeros where a row has none."""
        index = as_index(indices)
        if self._values is not None:
            kept = self._values[torch.from_numpy(index)].cpu()
        else:
            kept = torch.from_numpy(self._reader.read(index)[0][self.name])
        return kept if self._wordings is None else self._wordings.of(kept, index, 0)

    @cached_property
    def _wordings(self) -> Wordings | None:
        forms = self.modality.wordings()
        return None if forms is None else Wordings(forms)

    def present(self, indices: Indices) -> Tensor:
        """Return which of the rows with these numbers have a value, (n,) bool."""
        return self._present[torch.from_numpy(as_index(indices))]


def as_index(indices: Indices) -> Index:
    return np.asarray(indices, dtype=np.int64)


@dataclass(eq=False, repr=False)
class TableData:
    """Rows of a split: in endless batches whose order is known beforehand, or picked by number."""

    config: DataConfig
    spec: DataSpec
    content: str
    """Cache key for data derived from the target: its fingerprint, and of rows that are not in memory also what becomes of
    unreadable ones."""
    skipped: Faults
    """Rows left out so far (`data.on_error: skip`): row number, and name with why it can't be read."""
    notes: tuple[str, ...]
    """Lines to print on what is odd about the data."""
    _rows: Index
    """The row in the split of each number."""
    _columns: SplitColumns
    _values: dict[str, Tensor]
    """Columns in memory: (N, *shape) as kept."""
    _present: dict[str, Tensor]
    """By column in use: (N,) bool."""
    _reader: RowReader
    """Reader of the columns that aren't in memory; it has none where all are."""
    condition_dropout: float | Mapping[str, float] = 0.0
    """`model.condition_dropout`: share of rows whose conditions `batches` drops."""
    encoded: Encoders = field(default_factory=dict)
    """Frozen encoders of conditions, whose outputs batches have; see `encoded.py`."""
    _opened: dict[str, Column] = field(default_factory=dict)

    def __repr__(self) -> str:
        return line(type(self).__name__, self.spec.title)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns in a batch: the target and its conditions."""
        return tuple(self.spec.columns)

    @property
    def available(self) -> tuple[str, ...]:
        """Names of all columns whose modality is recognised, in use or not."""
        return self._columns.names

    @property
    def num_rows(self) -> int:
        return self.spec.num_rows

    def batches(
        self,
        share: Share = ALONE,
        *,
        seed: int,
        start_step: int = 0,
        device: torch.device = CPU,
        state: Mapping[str, Any] | None = None,
    ) -> Iterator[Batch]:
        """Return endless micro-batches from `start_step` on, `share.accumulation` of them a step on each rank. `state` is
        for streams.

        Each holds batch_size / (share.world_size * share.accumulation) rows, on `device`: x (b, *shape) as the target's
        modality gives it to networks, contiguous, and the conditions, of which `condition_dropout` is dropped.

        Raises:
            DataError: batch_size is no multiple of world_size * accumulation; or, while iterating over rows that are
                not kept in memory, one can't be read.
        """
        order = self.order(share, seed, start_step)
        return self._batches(order, self.maker(share, seed, device), start_step * share.accumulation)

    def maker(self, share: Share, seed: int, device: torch.device) -> BatchMaker:
        return BatchMaker(self.spec, device, self.config.batch_size, self.condition_dropout, seed, share, self.encoded)

    def order(self, share: Share, seed: int, start_step: int) -> Order:
        """Return, for each micro-batch, the numbers of its rows and which of them to mirror."""
        part, starts = self._starts(start_step, share)
        return (self._order(seed, start, part) for start in starts)

    def read(self, order: Order) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each of `order`, x (b, *shape) as in a batch and the numbers of the rows (b,): later ones in the place
        of those that can't be read."""
        maker = self.maker(ALONE, 0, CPU)
        for values, present, index, flips in self._read(order, CPU):
            yield maker.batch(values, present, flips, 0).x, index

    def conditions_for(self, maker: BatchMaker, index: Tensor, flips: Flips, number: int) -> Conditions:
        """Return the conditions of a micro-batch of these rows, some of them mirrored, with dropout."""
        if not self.spec.conditions:
            return Conditions()
        in_memory = self._reader.columns.keys() <= {self.spec.target}
        values, present = self._with_kept({}, {}, index) if in_memory else self._at(index)
        return maker.conditions(values, present, None if flips is None else torch.from_numpy(flips), number)

    def state(self, step: int) -> dict[str, Any]:
        """Return the state from which `batches` starts at a step: nothing, as the order is a function of the step."""
        return {}

    def rows(self, share: Share = ALONE, *, seed: int, step: int) -> Index:
        """Return the row numbers in the split of a rank's part of a step, its micro-batches one after another."""
        part, starts = self._starts(step, share)
        index = [self._order(seed, start, part)[0] for start in islice(starts, share.accumulation)]
        return np.take(self._rows, np.concatenate(index))

    def x(self, indices: Indices) -> Tensor:
        """Return the targets of the rows with these numbers, below num_rows, as in a batch: (n, *shape) float32, never
        mirrored."""
        return self.spec.modality.to_batch(self.kept(indices))

    def kept(self, indices: Indices) -> Tensor:
        """Return the targets of the rows with these numbers as they are kept: uint8 for 8-bit images."""
        return self._at(indices)[0][self.spec.target]

    def own(self, indices: Indices) -> Tensor:
        """Return the targets of the rows with these numbers in the column's own units."""
        return self.spec.modality.from_batch(self.x(indices))

    def conditions(self, indices: Indices) -> Conditions:
        """Return the conditions of the rows with these numbers, none dropped."""
        values, present = self._at(indices)
        return self._plain.of_rows(values, present, None, as_index(indices))

    @cached_property
    def _plain(self) -> BatchMaker:
        return BatchMaker(self.spec, CPU, encoded=self.encoded)

    def column(self, name: str) -> Column:
        """Return a recognised column, in use or not; what is not known of it is learnt now.

        Raises:
            DataError: there is no such column, or it can't be what it looks like.
        """
        if name not in self._opened:
            stored, modality = self._columns.stored(name), self.spec.columns.get(name)
            modality = modality or self._columns.modality(name, self.spec.target)
            reader = RowReader({name: (stored, modality)}, self._rows, self.config.on_error)
            present = self._present.get(name)
            present = torch.from_numpy(~stored.stored.missing()[self._rows]) if present is None else present
            self._opened[name] = Column(name, modality, self._values.get(name), present, reader)
        return self._opened[name]

    def formula(self, name: str) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
        """Return the function of targets (n, *shape), in their own units, that gives the values of a column; None where
        nobody knows one."""
        return self._columns.formula(name, self.spec.target) if name in self.available else None

    def made_from(self, name: str) -> tuple[str, ...]:
        """Return the names of the stored columns that a column is made from."""
        return self._columns.made_from(name)

    @cached_property
    def labels(self) -> Column | None:
        """The first column of classes that isn't the target, in use or not."""
        others = [*self.spec.conditions, *(name for name in self.available if name not in self.spec.columns)]
        return next((column for name in others if (column := self._if_classes(name))), None)

    def _if_classes(self, name: str) -> Column | None:
        column = self.column(name) if self._columns.can_be_classes(name) else None
        return column if column and column.modality.classes > 1 else None  # one class is nothing to tell apart

    def _starts(self, step: int, share: Share) -> tuple[int, Iterator[int]]:
        """Return the size of a micro-batch, and the positions where this rank's begin."""
        whole, part = self.config.batch_size, share_of(self.config.batch_size, share.world_size, share.accumulation)
        turns = ((at, m) for at in count(step) for m in range(share.accumulation))
        return part, (at * whole + (m * share.world_size + share.rank) * part for at, m in turns)

    def _order(self, seed: int, position: int, size: int) -> tuple[Index, Flips]:
        """Return the numbers of the rows at `size` positions from `position` on, and which of them to mirror."""
        index, flips = list[Index](), list[NDArray[np.bool_]]()
        while size:
            epoch, first = divmod(position, self.spec.num_rows)
            permutation, mirrored = _epoch(self.spec.num_rows, self.config.flip, seed, epoch)
            index.append(permutation[first : first + size])
            if mirrored is not None:
                flips.append(mirrored[first : first + size])
            position, size = position + len(index[-1]), size - len(index[-1])
        return _joined(index), _joined(flips) if flips else None

    def _at(self, indices: Indices) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the values and which are present, on the CPU, of the rows with these numbers: later ones in the place of
        those that can't be read."""
        index = as_index(indices)
        values, present, used, _ = self._reader.read(index)
        tensors = {name: torch.from_numpy(value) for name, value in values.items()}
        there = {name: torch.from_numpy(value) for name, value in present.items()}
        return self._with_kept(tensors, there, torch.from_numpy(used))

    def _with_kept(self, values: Tensors, present: Tensors, index: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return values read now together with those of the columns in memory."""
        kept = {name: every.index_select(0, to_device(index, every.device)) for name, every in self._values.items()}
        there = {name: self._present[name].index_select(0, index) for name in self._values if name != self.spec.target}
        return {**values, **kept}, {**present, **there}

    def _batches(self, order: Order, maker: BatchMaker, first: int) -> Iterator[Batch]:
        for number, (values, present, _, flips) in enumerate(self._read(order, maker.device), first):
            yield maker.batch(values, present, flips, number)

    def _read(self, order: Order, device: torch.device) -> Iterator[tuple[Tensors, Tensors, Tensor, Tensor | None]]:
        """Yield values and which are present by column, the rows' numbers, and which to mirror."""
        if not self._reader.columns:
            size = sum(tensor.nbytes for tensor in self._values.values())
            if device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] // 4:
                self._values = {name: tensor.to(device) for name, tensor in self._values.items()}
            for rows, flips in order:
                index = torch.from_numpy(rows)
                yield *self._with_kept({}, {}, index), index, None if flips is None else torch.from_numpy(flips)
            return
        names = tuple(self._reader.columns)
        for item in load_ahead(self._reader, order, self.config, device):
            values, present = item[: len(names)], item[len(names) : 2 * len(names)]
            index, faults, mirrored = item[2 * len(names) :]
            tell_skipped(self.skipped, sorted({(row, text) for row, text in faults} - set(self.skipped)))
            found = dict(zip(names, values, strict=True)), dict(zip(names, present, strict=True))
            yield *self._with_kept(*found, index), index, mirrored
