"""Images that are not kept in memory are known by their content: another image is noticed, however it was put there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from image_files import config, load, noise, save, table

import genhub
from genhub.data import contents
from genhub.data.open import open_data
from genhub.ground.disk import cache_folder


def known_as(path: Path, **keys: object) -> str:
    features = load(path, in_memory=False, **keys)
    conditions = tuple(name for name in features.available if name == "label")
    return load(path, conditions, in_memory=False, **keys).spec.fingerprint


def uncompressed(path: Path, number: int, time: int | None = None) -> None:
    """A picture whose file is as long as any other's of its size."""
    save(path, noise(number), compress_level=0)
    if time is not None:
        os.utime(path, ns=(time, time))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        uncompressed(tmp_path / "set" / "ab"[number % 2] / f"{number}.png", number, time=10**18)
    return tmp_path / "set"


@pytest.mark.parametrize("keys", [{}, {"split": "train[:3]"}, {"image": {"size": 4}}])
def test_another_image_of_the_same_name_size_and_time(folder: Path, keys: dict) -> None:
    before, file = known_as(folder, **keys), folder / "a" / "0.png"
    size = file.stat().st_size
    uncompressed(file, 9, time=10**18)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (size, 10**18)
    other = known_as(folder, **keys)
    assert other != before
    uncompressed(file, 0)
    assert known_as(folder, **keys) == before  # back again, at another time
    os.replace(folder / "a", folder / "c")  # noqa: PTH105
    assert known_as(folder, **keys) != before  # the same images in other classes


def test_the_same_images_at_another_place(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert known_as(folder) == known_as(tmp_path / "copy")


def test_images_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, read = known_as(folder), []
    hash_of_file = contents.file_hash
    monkeypatch.setattr(contents, "file_hash", lambda path: read.append(path) or hash_of_file(path))
    assert known_as(folder) == before
    assert not read
    for file in (cache_folder() / "contents").iterdir():
        if file.suffix == ".txt":
            file.write_bytes(bytes(file.stat().st_size))  # a damaged cache is none
    assert known_as(folder) == before
    assert len(read) == 4


def test_a_cache_that_can_not_be_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = known_as(folder)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "file" / "cache"))
    assert known_as(folder) == before


def saved(path: Path, first: int) -> None:
    """A table whose fingerprint, as `datasets` keeps it, is the same whatever is in it."""
    shutil.rmtree(path, ignore_errors=True)
    rows = table(4).select([first, 1, 2, 3])
    rows._fingerprint = "same"
    rows.save_to_disk(str(path))


def named(path: Path, first: int) -> None:
    """A table that has paths in the images' place."""
    shutil.rmtree(path, ignore_errors=True)
    uncompressed(path.parent / "0.png", first, time=10**18)
    found = datasets.Dataset.from_dict({"image": [str(path.parent / "0.png")] * 2}).cast_column("image", datasets.Image())
    found._fingerprint = "same"
    found.save_to_disk(str(path))


@pytest.mark.parametrize("write", [saved, named])
def test_tables(tmp_path: Path, write) -> None:
    write(tmp_path / "set", 0)
    before = known_as(tmp_path / "set")
    write(tmp_path / "set", 3)
    assert known_as(tmp_path / "set") != before
    write(tmp_path / "set", 0)
    assert known_as(tmp_path / "set") == before


def test_arrays(tmp_path: Path) -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (3, 5, 5), dtype=np.uint8)

    def fingerprint(values: np.ndarray, name: str) -> str:
        feature = datasets.Features(pixels=datasets.Array2D((5, 5), "uint8"))
        datasets.Dataset.from_dict({"pixels": list(values)}, feature).to_parquet(str(tmp_path / name))
        return known_as(tmp_path / name)

    first = fingerprint(arrays, "a.parquet")
    assert fingerprint(arrays, "b.parquet") == first
    assert fingerprint(arrays[::-1], "c.parquet") != first


def test_a_stream_of_other_shards_of_the_same_name_and_size(tmp_path: Path) -> None:
    def fingerprint() -> str:
        return open_data(config(tmp_path / "*.parquet", streaming=True)).spec.fingerprint

    table(4).to_parquet(str(tmp_path / "x.parquet"))
    before, raw = fingerprint(), (tmp_path / "x.parquet").read_bytes()
    at = raw.index(b"IDAT") - 12  # in a PNG's header
    (tmp_path / "x.parquet").write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    assert fingerprint() != before


def test_a_run_notices_replaced_images(folder: Path, tiny: dict) -> None:
    tiny["data"] = {
        "name": str(folder),
        "in_memory": False,
        "num_workers": 0,
        "batch_size": 2,
        "columns": {"image": {"size": 8}},
    }
    tiny["trainer"] |= {"max_steps": 1, "save_every": 1}
    genhub.train(tiny)
    uncompressed(folder / "a" / "0.png", 9, time=10**18)
    with pytest.raises(genhub.RecipeError, match="data: the values or the order of image have changed since"):
        genhub.train(tiny, ["trainer.max_steps=2"])
    uncompressed(folder / "a" / "0.png", 0)
    genhub.train(tiny, ["trainer.max_steps=2"])


def test_features_are_of_the_images_that_are_there(folder: Path) -> None:
    """What is computed of real images and kept is kept by their fingerprint."""
    before = load(folder, in_memory=False)
    uncompressed(folder / "a" / "0.png", 9, time=10**18)
    after = load(folder, in_memory=False)
    assert before.spec.fingerprint != after.spec.fingerprint
    assert before.content != after.content
