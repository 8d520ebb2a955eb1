"""Output of a frozen encoder for a column's distinct values, such as captions: computed once, and kept on the disk.

A folder of the cache, named by (the encoder, the values), has files of `SHARD` values' each, made like those of latents: see
there. Values are encoded in the same groups whoever does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from genhub.data.batches import IN_MEMORY_BYTES, Column, TableData, to_device
from genhub.data.latents import GROUP, SHARD, in_float32, make_files
from genhub.data.wordings import Keys
from genhub.ground.digests import hash_of
from genhub.ground.disk import cache_folder
from genhub.ground.finite import check_finite
from genhub.ground.weights import save_sealed
from genhub.interfaces.modality import ConditionEncoder
from genhub.interfaces.model import Model

VERSION = 1
"""Number to raise when the content of a file changes: files of other versions are not used."""
BLOCK = 10_000
"""Rows whose values are read at a time."""


def with_encoders(model: Model, data: TableData) -> TableData:
    """Return the data with what a model's frozen encoders make of its conditions, each distinct value once. Nothing is
    computed until the first batch."""
    data.encoded = {
        name: EncodedColumn(data.column(name), model, encoder)
        for name in data.spec.conditions
        if (encoder := model.conditions[name].encoder()) is not None
    }
    return data


@dataclass(eq=False)
class EncodedColumn:
    """Function from kept values of a column (b, *shape) to what a frozen encoder made of them, (b, ...) float32."""

    column: Column
    model: Model
    encoder: ConditionEncoder

    def __call__(self, kept: Tensor, device: torch.device) -> Tensor:
        number, _ = self._keys.find(kept)
        if isinstance(self._made, Tensor):
            if device.type == "cuda" and self._made.nbytes <= torch.cuda.mem_get_info(device)[0] // 4:
                self._made = self._made.to(device)
            return to_device(self._made.index_select(0, number.to(self._made.device)), device)
        places = (divmod(each, SHARD) for each in number.tolist())
        return to_device(torch.stack([self._made[file][at] for file, at in places]), device)

    @cached_property
    def _keys(self) -> Keys:
        """All values that a row may have."""
        modality, rows = self.column.modality, range(self.column.num_rows)
        forms = modality.wordings()
        if forms is not None:
            return Keys(torch.from_numpy(np.unique(forms.reshape(-1, *modality.shape), axis=0)))
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        found = [np.unique(self.column.kept(block).numpy(), axis=0) for block in blocks]
        return Keys(torch.from_numpy(np.unique(np.concatenate(found), axis=0)))

    @cached_property
    def _made(self) -> Tensor | list[Tensor]:
        """Output of the encoder for each key: in memory, or mapped where it is more than 1 GiB. It is made where missing."""
        values = self._keys.values
        folder = cache_folder() / "encoded" / hash_of(VERSION, self.encoder.digest, values.shape, values.numpy())
        files = [folder / f"{number:05d}.safetensors" for number in range(-(-len(values) // SHARD))]
        make_files(files, self._make, "Encoded ", f"{len(values):,} values of {self.column.name} in {folder}")
        made = [_opened(file) for file in files]
        few = 4 * len(values) * prod(self.encoder.shape) <= IN_MEMORY_BYTES
        return torch.cat(made) if few else made

    def _make(self, shard: int, temporary: Path) -> None:
        values = self.column.modality.to_batch(self._keys.values[SHARD * shard : SHARD * (shard + 1)])
        groups = np.resize(np.arange(len(values)), (-(-len(values) // GROUP), GROUP))  # the last one filled up
        with in_float32():
            found = [self._of(values[group]) for group in groups]
        save_sealed({"made": torch.cat(found)[: len(values)]}, temporary)

    def _of(self, values: Tensor) -> Tensor:
        made = self.encoder.encode(values, self.model.device).cpu()
        return check_finite(made, f"data.columns.{self.column.name}: what {self.encoder.name} makes of it")


def _opened(file: Path) -> Tensor:
    with safe_open(file, "pt") as stored:
        made: Tensor = stored.get_tensor("made")
    return made
