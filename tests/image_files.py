"""What the tests of data read: pictures and tables that they write, and the checks that they share."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from genhub.data.batches import TableData
from genhub.data.open import load_data
from genhub.errors import DataError
from genhub.ground.processes import Share
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.model import Batch


def load(name: object, conditions: tuple[str, ...] = (), **keys: Any) -> TableData:
    return load_data(config(name, **keys), conditions)


def config(name: object, **keys: Any) -> DataConfig:
    """A section `data`; `image` are the keys of the column of that name."""
    if image := keys.pop("image", None):
        keys["columns"] = {"image": image} | keys.get("columns", {})
    return DataConfig(name=[str(each) for each in name] if isinstance(name, list) else str(name), **keys)


def labels(data: TableData) -> list[int]:
    assert data.labels is not None
    return data.labels.kept(range(data.num_rows)).tolist()


def class_names(data: TableData) -> tuple[str, ...]:
    return data.labels.modality.names if data.labels else ()  # type: ignore[attr-defined]


def fault(name: object, conditions: tuple[str, ...] = (), **keys: Any) -> str:
    """The message of the DataError that loading raises; always one line."""
    with pytest.raises(DataError) as caught:
        load(name, conditions, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def noise(number: int, height: int = 6, width: int = 6, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, **keys: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **keys)
    return path


def bytes_of(data: TableData) -> np.ndarray:
    """All images as (n, c, h, w) uint8."""
    images = data.x(range(data.num_rows))
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1
    found = ((images + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(found, data.kept(range(data.num_rows)))
    assert torch.equal(found, data.own(range(data.num_rows)))
    return found.numpy()


def first_bytes(path: Path, **keys: Any) -> np.ndarray:
    """The first image as (c, h, w), in memory and streamed alike."""
    kept, streamed = (bytes_of(load(path, in_memory=x, **keys))[0] for x in (True, False))
    np.testing.assert_array_equal(kept, streamed)
    return kept


def ten_images(tmp_path: Path) -> Path:
    """10 colour images in two classes, file names in the order of their numbers."""
    for i in range(10):
        save(tmp_path / "set" / ("cat" if i < 4 else "dog") / f"{i}.png", noise(i))
    return tmp_path / "set"


def table(n: int = 10, **columns: Any) -> datasets.Dataset:
    """A table with an image column of bytes and a class-label column."""

    def png(number: int) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.fromarray(noise(number)).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": f"{number}.png"}

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["even", "odd"]))
    plain = {"image": [png(i) for i in range(n)], "label": [i % 2 for i in range(n)]}
    found = datasets.Dataset.from_dict(plain, features=features)
    for name, values in columns.items():
        found = found.add_column(name, values)
    return found


def steps(data: TableData, number: int, **keys: Any) -> list[dict[str, Tensor]]:
    """Whole batches of the first steps from start_step on, all ranks and parts put together in their order: x, and the
    conditions by name."""
    world, parts, first = keys.pop("world_size", 1), keys.pop("accumulation", 1), keys.get("start_step", 0)
    ranks = [islice(data.batches(Share(r, world, parts), **keys), number * parts) for r in range(world)]
    micro = [batch for group in zip(*ranks, strict=True) for batch in group]
    assert [batch.step for batch in micro] == [first + i // (world * parts) for i in range(len(micro))]
    whole = [micro[i : i + world * parts] for i in range(0, len(micro), world * parts)]
    return [joined(step) for step in whole]


def joined(parts: list[Batch]) -> dict[str, Tensor]:
    conditions = Conditions.joined([part.conditions for part in parts])
    assert all(present.all() for present in conditions.present.values())
    return {"x": torch.cat([part.x for part in parts]), **conditions.values}


def assert_same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
