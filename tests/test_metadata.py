"""A folder of files with metadata: further columns of any kind, joined by the files' names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from image_files import class_names, fault, labels, load, noise, save
from test_modalities_signal import WAVE, wav

from genhub.data.open import open_data
from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig


def pictures(folder: Path, n: int = 6) -> Path:
    for number in range(n):
        save(folder / f"{number}.png", noise(number))
    return folder


def told(folder: Path, names: list[str], **columns: list[object]) -> Path:
    rows = [{"file_name": name} | {key: its[at] for key, its in columns.items()} for at, name in enumerate(names)]
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_columns_of_any_kind(tmp_path: Path) -> None:
    """In the order of the files, not of the rows."""
    turned = list(range(6))[::-1]
    folder = told(
        pictures(tmp_path), [f"{number}.png" for number in turned],
        caption=[f"this is no {number}" for number in turned], price=[None if number == 2 else number / 4 for number in turned],
        place=[[number, -number] for number in turned], kind=[["cat", "dog"][number % 2] for number in turned])  # fmt: skip
    data = load(folder, ("price", "place", "kind"), target="image", columns={"kind": "label"}, batch_size=6)
    assert set(data.available) == {"image", "caption", "price", "place", "kind"}
    assert data.notes == ()
    np.testing.assert_array_equal(data.kept([4])[0], noise(4).transpose(2, 0, 1))
    there = data.conditions(range(6))
    assert there.present["price"].tolist() == [number != 2 for number in range(6)]
    np.testing.assert_allclose(data.column("price").kept([5]), [1.25])
    np.testing.assert_allclose(data.column("place").kept(range(6))[:, 1], [-number for number in range(6)])
    assert labels(data) == [0, 1, 0, 1, 0, 1]
    caption = data.column("caption")
    assert [caption.modality.caption(kept) for kept in caption.kept([1, 3])] == ["this is no 1", "this is no 3"]
    assert load(folder, ("price",), target="image", split="train[4:]").column("price").kept([0]).tolist() == [1.0]


def test_a_csv_with_splits_and_folders(tmp_path: Path) -> None:
    """One table for all, or one a split; folders are classes where there are several, unless the table has labels."""
    for split, kind in ((split, kind) for split in ("train", "test") for kind in ("cat", "dog")):
        pictures(tmp_path / split / kind, 2)
    names = [f"{split}/{kind}/{at}.png" for split in ("test", "train") for kind in ("cat", "dog") for at in (0, 1)]
    (tmp_path / "metadata.csv").write_text(
        "file_name,price\n" + "".join(f"{name},{at}.5\n" for at, name in enumerate(names))
    )
    data = load(tmp_path, ("label", "price"))
    assert class_names(data) == ("cat", "dog")
    assert data.column("price").kept(range(4)).tolist() == [4.5, 5.5, 6.5, 7.5]
    assert load(tmp_path, ("price",), split="test").column("price").kept(range(4)).tolist() == [0.5, 1.5, 2.5, 3.5]
    (tmp_path / "metadata.csv").unlink()
    for split in ("train", "test"):
        lines = [f"{kind}/{at}.png,{split} {at}" for kind in ("cat", "dog") for at in (0, 1)]
        (tmp_path / split / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    assert class_names(load(tmp_path, ("label",))) == ("train 0", "train 1")
    one = pictures(tmp_path / "one" / "images")
    told(one.parent, [f"images/{number}.png" for number in range(6)], price=list(range(6)))
    assert load(one.parent, target="image").available == ("image", "price")  # a single folder is no class


def test_sounds(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.wav").write_bytes(wav(WAVE / 2**number))
    data = load(told(tmp_path, ["2.wav", "0.wav", "1.wav"], loud=[0.25, 1.0, 0.5]), ("loud",))
    assert (data.spec.target, data.spec.modality.shape) == ("signal", (2, 4))
    for number in range(3):
        assert abs(data.kept([number])).max() == data.column("loud").kept([number])[0] == 2.0**-number


def test_rows_and_files_that_do_not_fit(tmp_path: Path) -> None:
    folder = told(pictures(tmp_path), ["0.png", "5.png", "x.png", "y.png"], price=[0, 5, 6, 7])
    which = "metadata.jsonl: 2 of 4 rows name files that are not there: x.png, y.png"
    assert fault(folder, target="image") == f"data.name: {folder}: {which}; data.on_error: skip leaves them out"
    data = load(folder, ("price",), target="image", on_error="skip")
    assert data.num_rows == 6
    assert data.notes == (
        f"{folder}: {which}; they are left out",
        f"{folder}: metadata.jsonl: 4 of 6 files have no row: 1.png, 2.png, 3.png and 1 more",
    )
    assert data.conditions(range(6)).present["price"].tolist() == [True, False, False, False, False, True]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../secret.png", "row 1 names ../secret.png, which does not lie below its folder; refused"),
        ("a/../../secret.png", "row 1 names a/../../secret.png, which does not lie below its folder; refused"),
        ("/etc/secret.png", "row 1 names /etc/secret.png, which does not lie below its folder; refused"),
        ("0.png", "row 1 names 0.png, which another row names already"),
        ("./0.png", "row 1 names 0.png, which another row names already"),
        (None, "row 1 names no file in 'file_name'"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, name: str, message: str) -> None:
    save(tmp_path / "secret.png", noise(0))
    folder = told(pictures(tmp_path / "set"), ["0.png", name], price=[1, 2])
    assert fault(folder, on_error="skip") == f"data.name: {folder}/metadata.jsonl: {message}"


def test_tables_that_are_no_metadata(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set")
    (folder / "metadata.csv").write_text("file,price\n0.png,1\n")
    title = f"data.name: {folder}/metadata.csv: "
    assert fault(folder) == f"{title}has no column 'file_name', which says which file a row is of; it has file, price"
    (folder / "metadata.csv").write_text("file_name,image\n0.png,1\n")
    assert (
        fault(folder)
        == f"data.name: {folder}: metadata.csv has a column 'image', which is what the files themselves are; rename it"
    )
    (folder / "metadata.csv").write_bytes(b"file_name\n\xff\xfe,1,2\n")
    assert fault(folder).startswith(title)
    (folder / "metadata.csv").write_text("file_name\n0.png\n")
    assert load(folder).available == ("image",)
    with pytest.raises(
        DataError, match="can't be streamed: its files are read one by one when they are needed, and not copied;"
    ):
        open_data(DataConfig(name=str(folder), streaming=True))
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.csv").write_text("a\n1\n")
    assert (
        fault(other)
        == f"data.name: no images, sounds, parquet or arrow files in {other}; its tables: data.name='{other}/*.csv'"
    )
