"""Latents of the target, computed once by a frozen network and kept on the disk: `data.cache_latents: true`.

A folder of the cache, named by (the target's content, the network's weights and Config), has files of `SHARD` rows' latents
each, and as many more of the mirrored ones where `data.flip` is on. A file is made by whoever finds it missing or damaged
and nobody at it: processes of a run, and runs beside one another, share the work by the files' locks, in no collective. A
file appears whole, with a digest, so what a killed run has finished is used, and the rest is made by whoever comes next.
Latents are float32 in any precision of training, and computed in the same groups of rows whoever does it, so that their
bits don't hang on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import tee
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset

from genhub.data.batches import CPU, IN_MEMORY_BYTES, BatchMaker, Order, TableData, to_device
from genhub.data.raw import Index
from genhub.data.stream import StreamData
from genhub.data.workers import load_ahead
from genhub.errors import RecipeError
from genhub.ground.brief import line
from genhub.ground.console import Progress, say
from genhub.ground.digests import digest_of, hash_of
from genhub.ground.disk import cache_folder, made_once
from genhub.ground.finite import check_finite
from genhub.ground.processes import ALONE, Share, main_process
from genhub.ground.weights import is_sealed, save_sealed
from genhub.interfaces.columns import DataConfig, DataSpec
from genhub.interfaces.model import Batch, FrozenEncoder, Model

SHARD, GROUP = 1024, 32
"""Rows in a file, and in a call of the encoder."""
VERSION = 1
"""Number to raise when the content of a file changes: files of other versions are not used."""


def training_data(model: Model, data: TableData | StreamData) -> TableData | StreamData | CachedLatents:
    """Return the data for a trainer: the rows, or with `data.cache_latents` the latents that the model makes of them.

    Raises:
        RecipeError: the model makes nothing of them that could be kept.
    """
    if not data.config.cache_latents:
        return data
    encoder = model.frozen_encoder()
    if encoder is None:
        name = model.config.name or type(model).__name__
        raise RecipeError(
            f"data.cache_latents: this '{name}' learns from its target itself, and not from what a frozen "
            "network makes of them; leave it out"
        )
    assert isinstance(data, TableData)  # a stream is refused with the recipe
    return CachedLatents(model, encoder, data)


@dataclass(eq=False, repr=False)
class CachedLatents:
    """`TableData` whose batches have "latents" (b, ...) float32 in the place of x."""

    model: Model
    encoder: FrozenEncoder
    """The model's frozen encoder."""
    data: TableData

    def __repr__(self) -> str:
        return line(type(self).__name__, self.spec.title)

    @property
    def config(self) -> DataConfig:
        return self.data.config

    @property
    def spec(self) -> DataSpec:
        return self.data.spec

    @property
    def columns(self) -> tuple[str, ...]:
        return self.data.columns

    def state(self, step: int) -> dict[str, Any]:
        return self.data.state(step)

    def rows(self, share: Share = ALONE, *, seed: int, step: int) -> Index:
        return self.data.rows(share, seed=seed, step=step)

    def batches(
        self,
        share: Share = ALONE,
        *,
        seed: int,
        start_step: int = 0,
        device: torch.device = CPU,
        state: Mapping[str, Any] | None = None,
    ) -> Iterator[Batch]:
        """Return batches as `TableData.batches` does, of the same rows in the same order, with `cached["latents"]` and an
        empty x. Missing latents are made first, on the model's device: it may take long.

        Raises:
            NotFinite: the encoder makes NaN or infinity of a row.
            GenhubError: a file can't be written; or see `TableData.batches`.
        """
        order, maker = self.data.order(share, seed, start_step), self.data.maker(share, seed, device)
        return self._batches(self.table, order, maker, start_step)

    def _batches(self, table: Table, order: Order, maker: BatchMaker, start_step: int) -> Iterator[Batch]:
        order, again = tee(order)
        index = (rows if flips is None else rows + self.spec.num_rows * flips for rows, flips in order)
        accumulation = maker.share.accumulation
        read = table.read(index, self.config, maker.device)
        for number, (latents, whose) in enumerate(read, start_step * accumulation):
            _, flips = next(again)
            conditions = self.data.conditions_for(maker, whose, flips, number)
            latents = to_device(latents, maker.device)
            x = latents.new_empty((len(latents), 0))
            yield Batch(x, conditions, number // accumulation, {"latents": latents})

    @cached_property
    def table(self) -> Table:
        """All latents, of the rows and then of the mirrored ones; missing ones are made."""
        key = hash_of(VERSION, self.data.content, digest_of(self.encoder.networks), self.encoder.config)
        folder, shards = cache_folder() / "latents" / key, -(-self.spec.num_rows // SHARD)
        names = [
            f"{number:05d}{kind}.safetensors"
            for kind in ("", "-mirrored")[: 1 + self.config.flip]
            for number in range(shards)
        ]
        files = [folder / name for name in names]

        def make(number: int, file: Path) -> None:
            self._make(number % shards, number >= shards, file)

        make_files(files, make, "Latents ", f"those of {self.spec.num_rows:,} rows in {folder}")
        return Table(files, self.spec.num_rows)

    @torch.no_grad()
    def _make(self, shard: int, mirrored: bool, temporary: Path) -> None:
        rows = np.arange(SHARD * shard, min(SHARD * (shard + 1), self.spec.num_rows))
        groups = np.resize(rows, (-(-len(rows) // GROUP), GROUP))  # the last one filled up: sizes are rounded differently
        order = ((group, np.ones(GROUP, np.bool_) if mirrored else None) for group in groups)
        latents, whose = list[Tensor](), list[Tensor]()
        with in_float32():
            for x, index in self.data.read(order):
                found = self.encoder.encode(x.to(self.model.device)).float().cpu()
                latents.append(check_finite(found, f"data.cache_latents: latents of rows {index.min()} to {index.max()}"))
                whose.append(index)
        save_sealed({"latents": torch.cat(latents)[: len(rows)], "rows": torch.cat(whose)[: len(rows)]}, temporary)


def make_files(files: Sequence[Path], make: Callable[[int, Path], None], head: str, what: str) -> None:
    """Make the files of the cache that are missing or damaged, each by one of all the processes that want it.

    Args:
        make: is given a file's number, and where to write it.
        head: the first word of the line that is printed.
        what: is in the files, in words.
    """
    missing = [number for number, file in enumerate(files) if not is_sealed(file)]
    say(f"{head} {'computing' if missing else 'found'} {what}")
    progress = Progress(len(files), len(files) - len(missing), unit="file", shown=main_process() and bool(missing))
    with closing(progress):
        for wait in (False, True):  # first those that nobody is at; then those that others were at, and perhaps died
            for number in missing:
                made_once(files[number], partial(make, number), wait, there=is_sealed)
                progress.advance(sum(file.is_file() for file in files) if progress.shown else 0)


@contextmanager
def in_float32() -> Iterator[None]:
    """Compute in float32, not in TF32, which a run may choose for its own steps."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


class Table(Dataset[Any]):
    """Table of the latents in several files: in memory if they are few, else mapped, so that only what is used is read."""

    def __init__(self, files: Sequence[Path], length: int) -> None:
        """Open the files of `length` rows, and perhaps of as many mirrored ones behind them."""
        self.files, self.length = files, length
        whose = list[Tensor]()
        for file in files:
            with safe_open(file, "pt") as stored:
                self.shape: list[int] = stored.get_slice("latents").get_shape()[1:]
                whose.append(stored.get_tensor("rows").clone())
        self.whose = torch.cat(whose)
        """Numbers of the rows whose latents they are: later ones in place of those that can't be read."""

    def read(self, order: Iterator[Index], config: DataConfig, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each of `order`, the latents (b, ...) and the numbers (b,) of their rows."""
        size = 4 * len(self.whose) * prod(self.shape)
        if not (config.in_memory or (config.in_memory is None and size <= IN_MEMORY_BYTES)):
            yield from load_ahead(self, order, config, device)
            return
        latents = torch.cat(self._open())
        if device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] // 4:
            latents = latents.to(device)
        for rows in order:
            index = torch.from_numpy(rows)
            yield latents.index_select(0, to_device(index, latents.device)), self.whose.index_select(0, index)

    def __getitem__(self, rows: Index) -> tuple[Tensor, Tensor]:
        """Return a batch for the DataLoader."""
        mirrored, number = np.divmod(rows, self.length)
        files = mirrored * -(-self.length // SHARD) + number // SHARD
        found = [self._mapped[file][at] for file, at in zip(files.tolist(), (number % SHARD).tolist(), strict=True)]
        return torch.stack(found), self.whose[torch.from_numpy(rows)]

    @cached_property
    def _mapped(self) -> list[Tensor]:
        """The mapped files, which each worker opens for itself at its first batch."""
        return self._open()

    def _open(self) -> list[Tensor]:
        opened = []
        for file in self.files:
            with safe_open(file, "pt") as stored:
                opened.append(stored.get_tensor("latents"))
        return opened
