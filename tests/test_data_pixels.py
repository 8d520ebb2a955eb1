"""Data: how pictures of every kind become pixels, and the real sets."""

from __future__ import annotations

import io
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import shared_data
from image_files import (
    assert_same,
    bytes_of,
    class_names,
    fault,
    first_bytes,
    labels,
    load,
    noise,
    save,
    steps,
    ten_images,
)
from PIL import Image

from genhub.data.open import load_data
from genhub.errors import DataError
from genhub.ground.forks import can_fork, forked
from genhub.interfaces.columns import DataConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return ten_images(tmp_path)


# ---- conversion

RGBA = noise(1, channels=4)
WHITE = np.rint(RGBA[..., :3] * (RGBA[..., 3:] / 255) + 255 - RGBA[..., 3:])
GREY16 = np.linspace(0, 65535, 36).astype(np.uint16).reshape(6, 6)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(noise(1, channels=1)), noise(1, channels=1)[None]),
        (Image.fromarray(noise(1)), noise(1).transpose(2, 0, 1)),
        (Image.fromarray(noise(1, channels=1)).convert("1"), None),
        (Image.fromarray(RGBA), WHITE.transpose(2, 0, 1)),
        (Image.fromarray(noise(1, channels=1)).convert("LA"), noise(1, channels=1)[None]),
        (Image.fromarray(noise(1)).quantize(256), np.array(Image.fromarray(noise(1)).quantize(256).convert("RGB"))),
        (Image.fromarray(noise(1)).convert("CMYK"), noise(1).transpose(2, 0, 1)),
        (Image.fromarray(GREY16), np.rint(GREY16 / 257)[None]),
        (Image.fromarray(GREY16.astype(np.int32)), np.rint(GREY16 / 257)[None]),
        (Image.fromarray((GREY16 / 65535).astype(np.float32)), np.rint(GREY16 / 257)[None]),
    ],
    ids=["L", "RGB", "1", "RGBA", "LA", "P", "CMYK", "I;16", "I", "F"],
)
def test_modes(tmp_path: Path, image: Image.Image, expected: np.ndarray | None) -> None:
    tiff = image.mode in ("CMYK", "I", "F")
    save(tmp_path / f"x.{'tif' if tiff else 'png'}", image)
    found = first_bytes(tmp_path)
    if expected is None:
        assert found.shape == (1, 6, 6)
        assert set(np.unique(found)) == {0, 255}
        return
    expected = expected.transpose(2, 0, 1) if expected.shape[-1] == 3 else expected
    assert np.abs(found.astype(int) - expected).max() <= (1 if image.mode == "RGBA" else 0)
    assert first_bytes(tmp_path, image={"channels": 1}).shape == (1, 6, 6)
    assert first_bytes(tmp_path, image={"channels": 3}).shape == (3, 6, 6)
    with_alpha = first_bytes(tmp_path, image={"channels": 4})
    np.testing.assert_array_equal(with_alpha[3], RGBA[..., 3] if image.mode == "RGBA" else 255)


def test_grey_values_that_could_mean_anything_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "x.tif", Image.fromarray(np.full((4, 4), 300, np.float32)))
    assert "x.tif): grey values outside 0 to 1; value_range: auto scales them" in fault(tmp_path)


@pytest.mark.parametrize("position", [0, 3])
def test_grey_and_colour_mixed_become_rgb(tmp_path: Path, position: int) -> None:
    for i in range(4):
        save(tmp_path / f"{i}.png", noise(i, channels=3 if i == position else 1))
    for in_memory in (True, False):
        found = bytes_of(load(tmp_path, in_memory=in_memory))
        assert found.shape == (4, 3, 6, 6)
        np.testing.assert_array_equal(found[position], noise(position).transpose(2, 0, 1))
        np.testing.assert_array_equal(found[1], np.stack([noise(1, channels=1)] * 3))


def test_colour_that_the_survey_missed(tmp_path: Path) -> None:
    """Among 1,600 images the one that is not sampled: RGB if all are read first, else grey."""
    sampled = set(np.linspace(0, 1599, 1000).astype(int))
    odd = min(set(range(1600)) - sampled)
    for i in range(1600):
        save(tmp_path / f"{i:04}.bmp", noise(i, 2, 2, channels=3 if i == odd else 1))
    assert load(tmp_path).spec.modality.shape == (3, 2, 2)
    streamed = load(tmp_path, in_memory=False)
    assert streamed.spec.modality.shape == (1, 2, 2)
    assert streamed.x([odd]).shape == (1, 1, 2, 2)


def test_orientation_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying; upright after a quarter turn to the right
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:, :8] = 255
    save(tmp_path / "a.jpg", upright, exif=exif, quality=95)
    found = first_bytes(tmp_path)
    assert found.shape == (3, 16, 8)
    assert found[:, :8].min() > 250
    assert found[:, 8:].max() < 5


def test_resizing_covers_centres_and_antialiases(tmp_path: Path) -> None:
    wide = np.zeros((64, 128), np.uint8)
    wide[:, 32:96] = np.indices((64, 64)).sum(0) % 2 * 255  # a chequerboard, which must become grey
    save(tmp_path / "a.png", wide)
    found = first_bytes(tmp_path, image={"size": 8})
    assert found.shape == (1, 8, 8)
    assert (np.abs(found[0, 1:-1, 1:-1].astype(int) - 127) < 8).all()
    assert first_bytes(tmp_path, image={"size": (3, 5)}).shape == (1, 3, 5)


def test_fingerprint_follows_the_content(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "copy"
    for file in folder.rglob("*.png"):
        save(copy / file.relative_to(folder), Image.open(file))
    for in_memory in (True, False):
        one, other = (load(each, ("label",), in_memory=in_memory) for each in (folder, copy))
        assert one.spec.fingerprint == other.spec.fingerprint
    before = load(folder, ("label",)).spec.fingerprint
    assert load(folder, ("label",), image={"channels": 1}).spec.fingerprint != before
    (folder / "cat" / "0.png").rename(folder / "dog" / "0.png")  # another label
    assert load(folder, ("label",)).spec.fingerprint != before


# ---- real data


def test_real_mnist() -> None:
    data = load(shared_data("mnist") / "test.parquet")
    assert data.spec.num_rows == 10_000
    assert data.spec.modality.shape == (1, 28, 28)
    assert len(class_names(data)) == 10
    assert next(data.batches(seed=0)).x.shape == (64, 1, 28, 28)
    assert np.bincount(labels(data)).min() > 800


def test_real_cifar() -> None:
    data = load(shared_data("cifar10_jpeg"), split="test[:500]", batch_size=50)
    assert data.spec.modality.shape == (3, 32, 32)
    assert "airplane" in class_names(data)
    streamed = load(shared_data("cifar10_jpeg"), split="test[:500]", batch_size=50, in_memory=False)
    assert_same(steps(data, 2, seed=0), steps(streamed, 2, seed=0))


def test_real_digits_are_the_built_in_ones() -> None:
    ours, theirs = bytes_of(load("digits")), bytes_of(load(shared_data("digits8"), split="train+test"))
    assert sorted(image.tobytes() for image in ours) == sorted(image.tobytes() for image in theirs)


# ---- decoding in forked processes


@pytest.mark.skipif(not can_fork(), reason="forks")
def test_many_small_images_are_decoded_by_processes_to_the_same_bytes(tmp_path: Path) -> None:
    contents = [io.BytesIO() for _ in range(5100)]
    for number, content in enumerate(contents):
        Image.fromarray(np.full((4, 4), number % 256, np.uint8)).save(content, "PNG")
    raw = [content.getvalue() for content in contents]
    raw[4321] = b"no image"
    table = datasets.Dataset.from_dict({"image": [{"bytes": content, "path": None} for content in raw]})
    table.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / "train.parquet"))
    assert "row 4321" in fault(tmp_path)
    data = load_data(DataConfig(name=str(tmp_path), on_error="skip"))
    rows = [number % 256 for number in range(5100) if number != 4321]
    assert np.array_equal(bytes_of(data)[:, 0, 0, 0], rows)
    assert [row for row, _ in data.skipped] == [4321]


@pytest.mark.skipif(not can_fork(), reason="forks")
def test_a_process_that_dies_leaves_its_work_to_the_parent() -> None:
    parent = os.getpid()

    def square(number: int) -> int:
        if number == 4 and os.getpid() != parent:
            os._exit(9)
        if number == 9:
            raise DataError("nine")
        return number * number

    results = forked(square, 12, processes=3)
    assert [next(results) for _ in range(9)] == [number**2 for number in range(9)]
    with pytest.raises(DataError, match="nine"):
        next(results)
