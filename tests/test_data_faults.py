"""Data that is not there, damaged, or not what was asked for: what is said of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from image_files import assert_same, bytes_of, fault, labels, load, noise, save, steps, table, ten_images
from PIL import Image

from genhub.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return ten_images(tmp_path)


def test_things_that_are_not_there(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault(tmp_path / "sett") == f"data.name: no such folder or file: {tmp_path}/sett; did you mean '{folder}'?"
    assert fault(tmp_path / "sett" / "train").endswith(f"did you mean '{folder}'?")
    monkeypatch.chdir(tmp_path)
    assert fault("./zzz") == "data.name: no such folder or file: ./zzz"
    assert "did you mean 'set/cat'?" in fault("set/cta")
    assert "no such folder or file" in fault("some.parquet")
    assert "no such folder or file" in fault("")
    (tmp_path / "empty").mkdir()
    assert fault("empty") == "data.name: no images, sounds, parquet or arrow files in empty"
    (tmp_path / "empty" / "x.txt").write_text("x")
    assert "no images" in fault("empty")
    assert "has no rows in split train[20:30]" in fault("set", split="train[20:30]")
    table(2).select([]).to_parquet("none.parquet")
    assert fault("none.parquet") == 'data.name: none.parquet: Instruction "train" corresponds to no data!'
    Path("bad.parquet").write_bytes(b"PAR1 and nothing else")
    assert fault("bad.parquet").startswith("data.name: bad.parquet: ")


@pytest.mark.slow
def test_no_network() -> None:
    code = (
        "from genhub.interfaces.columns import DataConfig; from genhub.data.open import load_data; from genhub.errors import DataError\n"
        "try: load_data(DataConfig(name='org/name'))\n"
        "except DataError as error: print(error)"
    )
    run = [sys.executable, "-c", code]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("data.name: org/name: "), done.stderr
    assert done.stdout.count("\n") == 1


@pytest.fixture
def damaged(folder: Path) -> Path:
    """The folder with row 2 truncated and row 3 no image at all."""
    content = (folder / "cat" / "2.png").read_bytes()
    (folder / "cat" / "2.png").write_bytes(content[:-40])
    (folder / "cat" / "3.png").write_text("hello")
    return folder


def test_unreadable_images_are_named_before_training(damaged: Path) -> None:
    message = fault(damaged)
    assert message.startswith(f"data.columns.image: 2 of 10 rows can't be read: row 2 ({damaged}/cat/2.png): ")
    assert f"row 3 ({damaged}/cat/3.png): not an image of a known format" in message
    assert message.endswith("; data.on_error: skip leaves them out")


def test_at_most_five_unreadable_images_are_named(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.png").write_text("hello")
    save(tmp_path / "x.png", noise(0))
    assert fault(tmp_path).count("not an image") == 5
    assert "9 of 10" in fault(tmp_path)
    (tmp_path / "x.png").unlink()
    assert "9 of 9" in fault(tmp_path, on_error="skip")
    assert "9 of 9" in fault(tmp_path, in_memory=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_named_at_access_when_streamed(damaged: Path, workers: int) -> None:
    data = load(damaged, in_memory=False, num_workers=workers, batch_size=10)
    with pytest.raises(
        DataError, match=r"^data.columns.image: 1 of 10 rows can't be read: row [23] .*on_error: skip leaves them out$"
    ):
        next(data.batches(seed=0))


def test_unreadable_images_are_left_out(damaged: Path) -> None:
    data = load(damaged, on_error="skip", batch_size=4)
    assert [row for row, _ in data.skipped] == [2, 3]
    assert data.num_rows == 8
    assert labels(data) == [0, 0, 1, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(bytes_of(data)[2], noise(4).transpose(2, 0, 1))
    rows = np.concatenate([data.rows(seed=0, step=step) for step in range(2)])
    assert sorted(rows) == [0, 1, 4, 5, 6, 7, 8, 9]


def test_unreadable_images_are_replaced_when_streamed(damaged: Path) -> None:
    runs = []
    for workers in (0, 2):
        data = load(damaged, ("label",), on_error="skip", in_memory=False, num_workers=workers, batch_size=10)
        runs.append(steps(data, 2, seed=0))
        assert sorted({row for row, _ in data.skipped}) == [2, 3]
        place = data.rows(seed=0, step=0).tolist().index(2)
        assert torch.equal(runs[-1][0]["x"][place], data.x([4])[0])
        assert runs[-1][0]["label"][place] == 1
    assert_same(*runs)


def test_unreadable_rows_of_a_table(tmp_path: Path) -> None:
    rows = table(3).cast_column("image", datasets.Image(decode=False)).to_dict()
    rows["image"][0]["bytes"], rows["image"][1]["bytes"] = b"nothing", b""
    datasets.Dataset.from_dict(rows, table(3).features).to_parquet(str(tmp_path / "t.parquet"))
    message = fault(tmp_path / "t.parquet")
    file = tmp_path / "t.parquet"
    assert (
        f": row 0 of {file} (0.png): not an image of a known format; row 1 of {file} (1.png): not an image of a known format;"
        in message
    )


@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_without_the_target_are_left_out_and_counted(tmp_path: Path, in_memory: bool) -> None:
    rows = table(5).cast_column("image", datasets.Image(decode=False)).to_dict()
    images = [rows["image"][0], None, rows["image"][2], {"bytes": None, "path": None}, rows["image"][4]]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, struct), "label": rows["label"]}), tmp_path / "t.parquet")
    data = load(tmp_path / "t.parquet", ("label",), image="image", in_memory=in_memory, num_workers=0, batch_size=3)
    assert data.notes == ("2 of 5 rows have no image, and are left out",)
    assert data.num_rows == 3
    assert labels(data) == [0, 0, 0]
    assert sorted(data.rows(seed=0, step=0)) == [0, 2, 4]
    np.testing.assert_array_equal(bytes_of(data)[1], noise(2).transpose(2, 0, 1))


def test_no_row_has_the_target(tmp_path: Path) -> None:
    features = table(2).features
    rows = {"image": [None, None], "label": [0, 1]}
    datasets.Dataset.from_dict(rows, features).to_parquet(str(tmp_path / "t.parquet"))
    message = fault(tmp_path / "t.parquet", target="image", columns={"image": "image"})
    assert message == f"data.target: no row of {tmp_path}/t.parquet has a value of 'image'"


@pytest.mark.parametrize("in_memory", [True, False])
def test_different_sizes(folder: Path, in_memory: bool) -> None:
    save(folder / "dog" / "7.png", noise(7, 6, 9))
    data_or_message = ""
    try:
        data = load(folder, in_memory=in_memory, num_workers=0, batch_size=10)
        next(data.batches(seed=0))
    except DataError as error:
        data_or_message = str(error)
    assert data_or_message == (
        f"data.columns.image: row 0 ({folder}/cat/0.png) is 3x6x6 but row 7 ({folder}/dog/7.png) is 3x6x9; "
        "set data.columns.image.size"
    )
    assert load(folder, image={"size": 6}, in_memory=in_memory).spec.modality.shape == (3, 6, 6)


def test_one_image(tmp_path: Path) -> None:
    save(tmp_path / "only.png", noise(0))
    for in_memory in (True, False):
        data = load(tmp_path, batch_size=3, in_memory=in_memory, num_workers=0)
        assert next(data.batches(seed=0)).x.shape == (3, 3, 6, 6)


def test_decompression_bombs(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    save(tmp_path / "big.png", Image.new("1", (10_000, 9_000)))  # Pillow warns
    save(tmp_path / "huge.png", Image.new("1", (20_000, 9_000)))  # Pillow raises
    save(tmp_path / "ok.png", noise(0))
    message = fault(tmp_path)
    assert "2 of 3" in message
    assert "big.png" in message
    assert "huge.png" in message
    assert "bomb" in message
    assert not [each for each in recwarn if issubclass(each.category, Image.DecompressionBombWarning)]


def test_formats_that_run_programs_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")
    assert "not an image of a known format" in fault(tmp_path)
