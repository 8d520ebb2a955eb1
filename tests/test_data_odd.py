"""Data that are no data: objects in a recipe, folders without end, pipes, devices, bombs; and the names of what is left out."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from itertools import count
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from image_files import class_names, config, fault, load, noise, save, table, ten_images

import genhub
from genhub.data import footers
from genhub.data.open import open_data
from genhub.recipe.recipe import read_recipe


class Endless(torch.utils.data.Dataset):
    """As a map-style data set is written: whoever iterates it never ends."""

    def __getitem__(self, number: int) -> Any:
        raise AssertionError("it was looked into")


OBJECTS: dict[str, Any] = {
    "Dataset": Endless(), "generator": (number for number in count()), "array": np.zeros((100, 8, 8), np.uint8),
    "tensor": torch.zeros(9), "DataFrame": pd.DataFrame({"a": [1]}), "table": table(2), "bytes": b"digits" * 10_000,
    "function": open, "set": {1}, "object": object(),
}  # fmt: skip


def keys(content: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """All key paths of a recipe, sections among them."""
    return [found for key, value in content.items() for found in
            [(*path, key), *(keys(value, (*path, key)) if isinstance(value, dict) else [])]]  # fmt: skip


EVERY_KEY = keys(read_recipe({"model": {"name": "ddpm"}, "evaluate": {}, "hub": {"repo_id": "a/b"}}).dump())


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_for_any_key_of_a_recipe_is_one_line(kind: str) -> None:
    assert len(EVERY_KEY) > 70
    for *sections, last in EVERY_KEY:
        recipe: dict[str, Any] = {"model": {"name": "ddpm"}, "hub": {"repo_id": "a/b"}}
        into = recipe
        for section in sections:
            into = into.setdefault(section, {})
        into[last] = OBJECTS[kind]
        with pytest.raises(genhub.RecipeError) as caught:
            read_recipe(recipe)
        message = str(caught.value)
        assert message.startswith(f"recipe: {'.'.join([*sections, last])}: can't be an object of class "), message
        assert "\n" not in message
        assert len(message) < 200


def test_what_data_name_takes_is_said() -> None:
    with pytest.raises(genhub.RecipeError) as caught:
        genhub.train({"model": {"name": "ddpm"}, "data": {"name": Endless()}})
    assert str(caught.value) == (
        "recipe: data.name: can't be an object of class Endless; it takes a folder, parquet or arrow files, a Hub data set's "
        "id or digits"
    )


def test_each_folder_once_and_regular_files_only(tmp_path: Path) -> None:
    folder = ten_images(tmp_path)
    before = load(folder).spec
    (folder / "cat" / "here").symlink_to(".")
    (folder / "dog" / "above").symlink_to("..")
    os.mkfifo(folder / "cat" / "pipe.png")
    (folder / "cat" / "zero.png").symlink_to("/dev/zero")
    data = load(folder)
    assert data.spec == before
    (note,) = data.notes
    assert note.startswith(
        f"{folder}: passed over {folder}/cat/here, {folder}/cat/pipe.png, {folder}/cat/zero.png and 1 more"
    )
    assert load(folder, in_memory=False).num_rows == 10
    (folder / "cat" / "gone.png").symlink_to("nothing")  # an image that is missing is not passed over
    assert "gone.png): the file is missing" in fault(folder)


def test_a_link_to_another_folder_is_followed(tmp_path: Path) -> None:
    folder = ten_images(tmp_path)
    save(tmp_path / "elsewhere" / "x.png", noise(0))
    (folder / "fox").symlink_to(tmp_path / "elsewhere")
    assert class_names(load(folder)) == ("cat", "dog", "fox")


def test_a_loop_or_a_pipe_among_tables(tmp_path: Path) -> None:
    table(4).to_parquet(str(tmp_path / "x.parquet"))
    (tmp_path / "loop").symlink_to(".")
    assert fault(tmp_path) == (
        f"data.name: {tmp_path}/loop is no regular file, or leads back; take it out of a folder of tables"
    )
    assert load(tmp_path / "**" / "*.parquet").num_rows == 4
    assert load([tmp_path / "**" / "*.parquet"]).num_rows == 4
    (tmp_path / "loop").unlink()
    os.mkfifo(tmp_path / "y.parquet")
    assert f"{tmp_path}/y.parquet is no regular file" in fault(tmp_path)
    assert "no such folder or file" in fault(tmp_path / "y.parquet")
    assert "no such file" in fault([tmp_path / "y.parquet"])
    assert load(tmp_path / "*.parquet").num_rows == 4


def test_a_row_that_names_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": None, "path": str(tmp_path / "pipe.png")}], image)
    pq.write_table(pa.table({"image": rows}), tmp_path / "x.parquet")
    for in_memory in (True, False):
        message = fault(tmp_path / "x.parquet", image="image", in_memory=in_memory)
        assert message.startswith("data.columns.image: ")
        assert f"row 0 of {tmp_path}/x.parquet (" in message
        assert "no regular file" in message


# ---- bombs


def png(path: Path, width: int, height: int, bits: int, rows: int = 1) -> Path:
    """A grey PNG of zeros that says how large it is, and has so many of its rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packed = zlib.compress(bytes(rows * (1 + width * bits // 8)))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_a_png_of_too_many_pixels(tmp_path: Path, bits: int) -> None:
    png(tmp_path / "bomb.png", 16_000, 8_000, bits)
    save(tmp_path / "ok.png", noise(0))
    message = fault(tmp_path)
    assert message.startswith(f"data.columns.image: 1 of 2 rows can't be read: row 0 ({tmp_path}/bomb.png): ")
    assert "bomb" in message.partition("): ")[2]
    for in_memory in (True, False):
        data = load(tmp_path, in_memory=in_memory, on_error="skip", batch_size=2, num_workers=0)
        next(data.batches(seed=0))
        assert "bomb.png" in data.skipped[0][1]
    rows = {"image": [{"bytes": (tmp_path / "bomb.png").read_bytes(), "path": None}]}
    datasets.Dataset.from_dict(rows, datasets.Features(image=datasets.Image())).to_parquet(str(tmp_path / "x.parquet"))
    with pytest.raises(genhub.DataError, match="bomb"):
        open_data(config(tmp_path / "x.parquet", streaming=True))


def test_a_large_16_bit_image_takes_a_few_bytes_a_pixel(tmp_path: Path) -> None:
    png(tmp_path / "large.png", 3_000, 3_000, 16, rows=3_000)
    tracemalloc.start()
    load(tmp_path, image={"size": 8})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3_000 * 3_000 * 8  # it took three times this


@pytest.mark.parametrize("streaming", [False, True])
def test_a_small_parquet_file_that_fills_the_memory(
    tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here from 1 MiB on, and not from 1 GiB."""
    monkeypatch.setattr(footers, "MOST_GROUP", 2**20)
    file = tmp_path / "bomb.parquet"
    images = pa.array(
        [{"bytes": bytes(2**22), "path": None}] * 3, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    pq.write_table(pa.table({"image": images}), file, compression="zstd", use_dictionary=False)
    with pytest.raises(genhub.DataError) as caught:
        open_data(config(file, image="image", streaming=streaming))
    size = file.stat().st_size
    assert str(caught.value).startswith(f"data.name: {file}: {size:,} bytes that become ")
    assert "a decompression bomb?" in str(caught.value)


# ---- what is left out has a name


def test_what_is_left_out_of_a_table_is_named_by_file_and_row(tmp_path: Path) -> None:
    rows = table(6).cast_column("image", datasets.Image(decode=False)).to_dict()
    rows["image"][4]["bytes"] = b"nothing"
    broken = datasets.Dataset.from_dict(rows, table(6).features)
    broken.select(range(3)).to_parquet(str(tmp_path / "a.parquet"))
    broken.select(range(3, 6)).to_parquet(str(tmp_path / "b.parquet"))
    for keys_ in ({}, {"split": "train[2:]"}, {"in_memory": False, "num_workers": 0, "batch_size": 6}):
        data = load(tmp_path / "*.parquet", on_error="skip", **keys_)
        next(data.batches(seed=0))
        (text,) = {text for _, text in data.skipped}
        assert text == f"row 1 of {tmp_path}/b.parquet (4.png): not an image of a known format"


def test_what_is_left_out_while_training_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "0.png", noise(0))
    for number in range(1, 9):
        (tmp_path / f"{number}.png").write_text("hello")
    data = load(tmp_path, on_error="skip", in_memory=False, num_workers=0, batch_size=9)
    batches = data.batches(seed=0)
    next(batches), next(batches)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 5
    assert all(f"({tmp_path}/" in line and "not an image" in line for line in said)
    assert len(data.skipped) == 8
