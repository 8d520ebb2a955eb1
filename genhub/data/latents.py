"""Latents of images, computed once by a frozen network and kept on the disk: `data.cache_latents: true`.

A folder of the cache, named by (the images' content, the network's weights and Config), has files of `SHARD` images' latents
each, and as many more of the mirrored images where `data.flip` is on. A file is made by whoever finds it missing or damaged
and nobody at it: processes of a run, and runs beside one another, share the work by the files' locks, in no collective. A
file appears whole, with a digest, so what a killed run has finished is used, and the rest is made by whoever comes next.
Latents are float32 in any precision of training, and computed in the same groups of images whoever does it, so that their
bits don't hang on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset

from genhub.data.batches import CPU, IN_MEMORY_BYTES, ImageData, Order, TensorBatch, to_device
from genhub.data.decode import Index
from genhub.data.stream import ImageStream
from genhub.data.workers import load_ahead
from genhub.errors import RecipeError
from genhub.ground.console import Progress, say
from genhub.ground.digests import digest_of, hash_of
from genhub.ground.disk import cache_folder, made_once
from genhub.ground.finite import check_finite
from genhub.ground.processes import ALONE, Share, main_process
from genhub.ground.weights import is_sealed, save_sealed
from genhub.interfaces.config import DataConfig, DataSpec
from genhub.interfaces.model import FrozenEncoder, Model

SHARD, GROUP = 1024, 32
"""Images in a file, and in a call of the encoder."""
VERSION = 1
"""Number to raise when the content of a file changes: files of other versions are not used."""


def training_data(model: Model, data: ImageData | ImageStream) -> ImageData | ImageStream | CachedLatents:
    """Return the data for a trainer: the images, or with `data.cache_latents` the latents that the model makes of them.

    Raises:
        RecipeError: the model makes nothing of them that could be kept.
    """
    if not data.config.cache_latents:
        return data
    encoder = model.frozen_encoder()
    if encoder is None:
        name = model.config.name or type(model).__name__
        raise RecipeError(
            f"data.cache_latents: this '{name}' learns from the images themselves, and not from what a frozen "
            "network makes of them; leave it out"
        )
    assert isinstance(data, ImageData)  # a stream is refused with the recipe
    return CachedLatents(model, encoder, data)


@dataclass(eq=False)
class CachedLatents:
    """`ImageData` whose batches have "latents" (b, ...) float32 in the images' place."""

    model: Model
    encoder: FrozenEncoder
    """The model's frozen encoder."""
    images: ImageData

    @property
    def config(self) -> DataConfig:
        return self.images.config

    @property
    def spec(self) -> DataSpec:
        return self.images.spec

    @property
    def columns(self) -> tuple[str, ...]:
        return ("latents", *self.images.columns[1:])

    def state(self, step: int) -> dict[str, Any]:
        return self.images.state(step)

    def rows(self, share: Share = ALONE, *, seed: int, step: int) -> Index:
        return self.images.rows(share, seed=seed, step=step)

    def batches(
        self,
        share: Share = ALONE,
        *,
        seed: int,
        start_step: int = 0,
        device: torch.device = CPU,
        state: Mapping[str, Any] | None = None,
    ) -> Iterator[TensorBatch]:
        """Return batches as `ImageData.batches` does, of the same images in the same order. Missing latents are made first,
        on the model's device: it may take long.

        Raises:
            NotFinite: the encoder makes NaN or infinity of an image.
            GenhubError: a file can't be written; or see `ImageData.batches`.
        """
        order = self.images.order(share, seed, start_step)
        return self._batches(self.table, order, device)

    def _batches(self, table: Table, order: Order, device: torch.device) -> Iterator[TensorBatch]:
        labels, mirrored = self.images.labels, self.spec.num_images
        index = (rows if flips is None else rows + mirrored * flips for rows, flips in order)
        for latents, whose in table.read(index, self.config, device):
            batch = {"latents": to_device(latents, device)}
            yield batch if labels is None else batch | {"labels": to_device(labels.index_select(0, whose), device)}

    @cached_property
    def table(self) -> Table:
        """All latents, of the images and then of the mirrored ones; missing ones are made."""
        key = hash_of(VERSION, self.images.content, digest_of(self.encoder.networks), self.encoder.config)
        folder, shards = cache_folder() / "latents" / key, -(-self.spec.num_images // SHARD)
        names = [
            f"{number:05d}{kind}.safetensors"
            for kind in ("", "-mirrored")[: 1 + self.config.flip]
            for number in range(shards)
        ]
        files = [folder / name for name in names]
        missing = [number for number, file in enumerate(files) if not is_sealed(file)]
        say(f"Latents  {'computing' if missing else 'found'} those of {self.spec.num_images:,} images in {folder}")
        progress = Progress(len(files), len(files) - len(missing), unit="file", shown=main_process() and bool(missing))
        with closing(progress):
            for wait in (False, True):  # first those that nobody is at; then those that others were at, and perhaps died
                for number in missing:
                    make = partial(self._make, number % shards, number >= shards)
                    made_once(files[number], make, wait, there=is_sealed)
                    progress.advance(sum(file.is_file() for file in files) if progress.shown else 0)
        return Table(files, self.spec.num_images)

    @torch.no_grad()
    def _make(self, shard: int, mirrored: bool, temporary: Path) -> None:
        rows = np.arange(SHARD * shard, min(SHARD * (shard + 1), self.spec.num_images))
        groups = np.resize(rows, (-(-len(rows) // GROUP), GROUP))  # the last one filled up: sizes are rounded differently
        order = ((group, np.ones(GROUP, np.bool_) if mirrored else None) for group in groups)
        latents, whose = list[Tensor](), list[Tensor]()
        with _in_float32():
            for images, index in self.images.read(order):
                found = self.encoder.encode(images.to(self.model.device)).float().cpu()
                latents.append(check_finite(found, f"data.cache_latents: latents of rows {index.min()} to {index.max()}"))
                whose.append(index)
        save_sealed({"latents": torch.cat(latents)[: len(rows)], "rows": torch.cat(whose)[: len(rows)]}, temporary)


@contextmanager
def _in_float32() -> Iterator[None]:
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
        """Open the files of `length` images, and perhaps of as many mirrored ones behind them."""
        self.files, self.length = files, length
        whose = list[Tensor]()
        for file in files:
            with safe_open(file, "pt") as stored:
                self.shape: list[int] = stored.get_slice("latents").get_shape()[1:]
                whose.append(stored.get_tensor("rows").clone())
        self.whose = torch.cat(whose)
        """Numbers (rows,) of the images whose latents they are: not the rows' own where those images can't be read."""

    def read(self, order: Iterator[Index], config: DataConfig, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for each of `order`, the latents (b, ...) and the numbers (b,) of their images."""
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
        mirrored, image = np.divmod(rows, self.length)
        files = mirrored * -(-self.length // SHARD) + image // SHARD
        found = [self._mapped[file][at] for file, at in zip(files.tolist(), (image % SHARD).tolist(), strict=True)]
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
