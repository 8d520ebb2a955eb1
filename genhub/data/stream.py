"""Stream rows: `data.streaming: true` reads them as they come, for data that are larger than the disk or not here.

The order is a function, as in batches.py, of (seed, number of processes, position). Each epoch `datasets` shuffles the files
(or the row groups of few), reads ten of them in turn, and gives each process its own, or every n-th row where files can't
be shared out evenly. What comes is shuffled block by block, `data.shuffle_buffer` rows in each, by a permutation of (seed,
process, epoch, block). So a run could go on by reading all up to where it was; a checkpoint has where the block began, as
`datasets` puts it, and a run that goes on reads that block again. Processes end their epochs apart: their shares differ.
Rows without the target's value are passed over as if they weren't there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from genhub.data.batches import CPU, BatchMaker, check_flip, tell_skipped
from genhub.data.raw import Index, StoredColumn, as_objects, first_line
from genhub.data.reading import Faults, Flips, RowReader
from genhub.data.split import share_of
from genhub.data.split_columns import SplitColumns, derived, sources_of
from genhub.data.tables import StreamSource, checked, undecoded
from genhub.data.workers import load_ahead
from genhub.errors import DataError
from genhub.ground.brief import line
from genhub.ground.digests import hash_of
from genhub.ground.processes import ALONE, Share
from genhub.ground.randomness import seed_for
from genhub.interfaces.columns import DataConfig, DataSpec, ModelData, described
from genhub.interfaces.modality import Modality
from genhub.interfaces.model import Batch

LEARNT_FROM, LEARNT_BYTES = 10_000, 2**26
"""Number of first rows from which columns are learnt, and the bytes at which fewer do."""
FILES = 10
"""Number of files that are read in turn; of fewer, their row groups are."""

Raw = list[dict[str, Any]]
Mark = dict[str, Any]
"""Position where a block begins, as JSON: epoch, its number there, the rows that this process had before, and `datasets`'
state."""


def open_stream(source: StreamSource, config: DataConfig, conditions: Sequence[str], known: ModelData | None) -> StreamData:
    """Open a stream; what is not known of its columns is learnt from its first rows.

    Raises:
        DataError: they can't be read, or don't say what classes there are.
    """
    table = undecoded(source.table, source.features)
    seen = SplitColumns(
        _stored(list(islice(_rows(table, config), 10)), source, config, list(source.features)), config, known
    )
    target = seen.target()
    names = (target, *seen.conditions(conditions, target))
    used = sorted({source for name in names for source in sources_of(name, config.columns.get(name))})
    table = undecoded(source.table.select_columns(used), {name: source.features[name] for name in used})
    table = table if table.num_shards >= FILES else table.reshard()
    said = {name: keys for name, keys in config.columns.items() if name in names}
    first = _stored(_first(table, config), source, config, used)
    columns = SplitColumns(first, config.model_copy(update={"columns": said}), known)
    modalities = {name: _learnt(columns, name, target) for name in names}
    check_flip(config, modalities)
    prints = {
        name: hash_of(source.seen, sources_of(name, said.get(name)), modality.model_dump_json(), config.shuffle_buffer)
        for name, modality in modalities.items()
    }
    spec = described(name=config.title, split=config.split, target=target, columns=modalities, num_rows=source.length,
                     fingerprints=prints)  # fmt: skip
    notes = [f"data.columns.{name}: {note}" for name in names if not columns.is_known(name, target)
             for note in modalities[name].notes(columns.stored(name))]  # fmt: skip
    decoder = RowDecoder(source, config, modalities)
    return StreamData(config, spec, table, decoder, notes=tuple(notes), available=seen.names)


def first_columns(source: StreamSource, config: DataConfig) -> dict[str, StoredColumn]:
    """Return the columns of a stream's first rows."""
    return _stored(_first(undecoded(source.table, source.features), config), source, config, list(source.features))


def _stored(rows: Raw, source: StreamSource, config: DataConfig, names: Sequence[str]) -> dict[str, StoredColumn]:
    """Return rows of a stream as columns."""
    found = {name: as_objects(checked([row[name] for row in rows], source.remote)) for name in names}
    return {
        name: StoredColumn(name, config.title, its, source.features[name], _somewhere, source.remote)
        for name, its in found.items()
    }


def _somewhere(_: int) -> str:
    return "a row of the stream"


def _rows(table: Any, config: DataConfig) -> Iterator[dict[str, Any]]:
    """Yield a stream's rows.

    Raises:
        DataError: while iterating: they can't be read any further.
    """
    try:
        yield from table
    except Exception as error:  # whatever readers and the network raise
        reason, _, _ = first_line(error).partition(" in row ")  # of the part that was read at once, not of the file
        raise DataError(f"data.name: {config.title}: {reason}") from error


def _first(table: Any, config: DataConfig) -> Raw:
    """Return a stream's first rows."""
    rows, size = Raw(), 0
    for row in islice(_rows(table, config), LEARNT_FROM):
        rows.append(row)
        size += sum(_size(value) for value in row.values())
        if size > LEARNT_BYTES:
            break
    return rows


def _size(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(_size(inner) for inner in value.values())
    return len(value) if isinstance(value, bytes | str | list) else 8


def _learnt(columns: SplitColumns, name: str, target: str) -> Modality:
    modality, said = columns.modality(name, target), columns.config.columns.get(name)
    if columns.is_known(name, target) or not modality.classes:
        return modality
    if not hasattr(columns.stored(name).feature, "names") and not (said and said.model_extra):
        raise DataError(
            f"data.columns.{name}: doesn't say what classes there are; a stream needs a ClassLabel, or their names: "
            "{modality: label, names: [...]}"
        )
    return modality


@dataclass(eq=False, repr=False)
class StreamData:
    """Endless batches of a split that is read as it comes."""

    config: DataConfig
    spec: DataSpec
    _table: Any
    _decoder: RowDecoder
    skipped: Faults = field(default_factory=list)
    """Rows left out so far (`data.on_error: skip`): place in the batch, and name with why it can't be read."""
    notes: tuple[str, ...] = ()
    """Lines to print on what is odd about the data."""
    available: tuple[str, ...] = ()
    """Names of all columns whose modality is recognised, in use or not."""
    condition_dropout: float | Mapping[str, float] = 0.0
    """`model.condition_dropout`: share of rows whose conditions `batches` drops."""
    _marks: deque[Mark] = field(default_factory=deque)
    _a_step: int = 0
    """Number of rows of a step on this process."""

    def __repr__(self) -> str:
        return line(type(self).__name__, self.spec.title)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns in a batch: the target and its conditions."""
        return tuple(self.spec.columns)

    def batches(
        self,
        share: Share = ALONE,
        *,
        seed: int,
        start_step: int = 0,
        device: torch.device = CPU,
        state: Mapping[str, Any] | None = None,
    ) -> Iterator[Batch]:
        """Return batches as `TableData.batches` does. Without `state`, all rows up to `start_step` are read and dropped.

        Args:
            state: what `state(start_step)` gave, on this process and with as many.
        Raises:
            DataError: while iterating: a row can't be read, or this process gets none.
        """
        part = share_of(self.config.batch_size, share.world_size, share.accumulation)
        self._a_step = part * share.accumulation
        ahead = (2 * self.config.num_workers + 1) * part  # rows that workers may have been given already
        self._marks = deque(maxlen=3 + ahead // self.config.shuffle_buffer)
        order = self._order(seed, share, start_step * self._a_step, part, state, self._marks)
        maker = BatchMaker(self.spec, device, self.config.batch_size, self.condition_dropout, seed, share)
        return self._batches(order, maker, start_step * share.accumulation)

    def state(self, step: int) -> dict[str, Any]:
        """Return the state, as JSON, from which the latest `batches` would start at a step without reading up to it."""
        return next(mark for mark in reversed(self._marks) if mark["position"] <= step * self._a_step)

    def rows(self, share: Share = ALONE, *, seed: int, step: int) -> Index:
        """Return how many rows a process had before each of a step's, for messages: a stream has no row numbers."""
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
            rows = (row for row in _rows(table, self.config) if self._decoder.has_target(row))
            while True:
                at = {"epoch": epoch, "block": block, "position": position, "stream": table.state_dict()}
                found = list(islice(rows, self.config.shuffle_buffer))
                if not found:
                    break
                yield at, found
                block, position = block + 1, position + len(found)
            if not block:
                raise DataError(
                    f"data.name: {self.config.title} has no rows for process {share.rank + 1} of {share.world_size}"
                )
            epoch, block = epoch + 1, 0

    def _order(
        self, seed: int, share: Share, start: int, size: int, state: Mapping[str, Any] | None, marks: deque[Mark]
    ) -> Iterator[tuple[Raw, Flips]]:
        """Yield batches of undecoded rows, and which of them to mirror."""
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

    def _batches(self, order: Iterator[tuple[Raw, Flips]], maker: BatchMaker, first: int) -> Iterator[Batch]:
        names = self.columns
        for number, item in enumerate(load_ahead(self._decoder, order, self.config, maker.device), first):
            values, present, (flips, faults) = item[: len(names)], item[len(names) : -2], item[-2:]
            tell_skipped(self.skipped, faults)
            values, present = dict(zip(names, values, strict=True)), dict(zip(names, present, strict=True))
            yield maker.batch(values, present, flips, number)


class RowDecoder(Dataset[Any]):
    """Decoder of a stream's batches, in the workers."""

    def __init__(self, source: StreamSource, config: DataConfig, modalities: Mapping[str, Modality]) -> None:
        """
        Args:
            modalities: of the target, which is the first, and of the conditions.
        """
        self.source, self.config, self.modalities = source, config, modalities

    def has_target(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has a value of the target."""
        target = next(iter(self.modalities))
        return not self._column(target, [dict(row)]).stored.missing()[0]

    def _column(self, name: str, rows: Raw) -> StoredColumn:
        said = self.config.columns.get(name)
        return derived(name, said, _stored(rows, self.source, self.config, sources_of(name, said)))

    def __getitem__(self, item: tuple[Raw, Flips]) -> Any:
        """Return (values..., present..., which to mirror, faults), or the DataError, as `RowReader` does."""
        raw, flips = item
        try:
            columns = {name: (self._column(name, raw), modality) for name, modality in self.modalities.items()}
            every = np.arange(len(raw))
            values, present, _, faults = RowReader(columns, every, self.config.on_error).read(every)
        except DataError as error:
            return error
        return (*values.values(), *present.values(), None if flips is None else torch.from_numpy(flips), faults)
