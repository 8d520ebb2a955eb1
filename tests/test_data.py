"""Data at its public surface: real files in a temporary folder, no mocks."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from genhub.config import DataConfig
from genhub.data import ImageData, load_data
from genhub.errors import DataError
from genhub.forks import can_fork, forked

REAL = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """datasets converts parquet files into its cache: not the user's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def load(name: object, **keys: Any) -> ImageData:
    return load_data(DataConfig(name=[str(each) for each in name] if isinstance(name, list) else str(name), **keys))


def fault(name: object, **keys: Any) -> str:
    """The message of the DataError that loading raises; always one line."""
    with pytest.raises(DataError) as caught:
        load(name, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def noise(number: int, height: int = 6, width: int = 6, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, **keys: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **keys)
    return path


def bytes_of(data: ImageData) -> np.ndarray:
    """All images as (n, c, h, w) uint8."""
    images = data.images(range(data.spec.num_images))
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1
    return ((images + 1) * 127.5).round().to(torch.uint8).numpy()


def first_bytes(path: Path, **keys: Any) -> np.ndarray:
    """The first image as (c, h, w), in memory and streamed alike."""
    kept, streamed = (bytes_of(load(path, in_memory=x, **keys))[0] for x in (True, False))
    np.testing.assert_array_equal(kept, streamed)
    return kept


@pytest.fixture
def folder(tmp_path: Path) -> Path:
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


# ---- order


def steps(data: ImageData, number: int, **keys: Any) -> list[dict[str, Tensor]]:
    """Whole batches of the first steps from start_step on, all ranks and parts put together in their order."""
    world, parts = keys.pop("world_size", 1), keys.pop("accumulation", 1)
    ranks = [
        islice(data.batches(rank=r, world_size=world, accumulation=parts, **keys), number * parts) for r in range(world)
    ]
    micro = [batch for group in zip(*ranks, strict=True) for batch in group]
    whole = [micro[i : i + world * parts] for i in range(0, len(micro), world * parts)]
    return [{key: torch.cat([part[key] for part in step]) for key in step[0]} for step in whole]


def assert_same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load("digits")


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9), st.integers(0, 5))
def test_order_is_pure_and_covers_each_epoch_once(
    number: int, part: int, world: int, accumulation: int, start: int, seed: int
) -> None:
    size = part * world * accumulation
    data = load("digits", split=f"train[:{number}]", batch_size=size, flip=True)
    spread = steps(data, 4, seed=seed, start_step=start, world_size=world, accumulation=accumulation)
    assert_same(spread, steps(data, 4, seed=seed, start_step=start))
    for step, batch in enumerate(spread, start):
        rows = data.rows(seed=seed, step=step)
        torch.testing.assert_close(batch["labels"], data.labels[torch.from_numpy(rows)])  # type: ignore[index]
        ranks = [
            data.rows(seed=seed, step=step, rank=r, world_size=world, accumulation=accumulation).reshape(accumulation, -1)
            for r in range(world)
        ]
        np.testing.assert_array_equal(np.concatenate(ranks, axis=1).ravel(), rows)
    total = -(-3 * number // size)
    order = np.concatenate([data.rows(seed=seed, step=step) for step in range(total)])
    for epoch in range(3):
        assert sorted(order[epoch * number : (epoch + 1) * number]) == list(range(number))


def test_a_restart_continues(digits: ImageData) -> None:
    whole = steps(digits, 40, seed=3)  # 40 batches of 64 cross the end of an epoch of 1797
    assert_same(whole[29:], steps(digits, 11, seed=3, start_step=29))


def test_seeds_and_epochs_differ(digits: ImageData) -> None:
    rows = [digits.rows(seed=seed, step=step) for seed, step in [(0, 0), (1, 0), (0, 1), (0, 1000)]]
    assert len({tuple(each) for each in rows}) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_equals_memory(folder: Path, workers: int) -> None:
    kept = load(folder, batch_size=4, flip=True)
    streamed = load(folder, batch_size=4, flip=True, in_memory=False, num_workers=workers)
    assert_same(steps(kept, 6, seed=1), steps(streamed, 6, seed=1))
    assert_same(steps(kept, 3, seed=1, start_step=2), steps(streamed, 3, seed=1, start_step=2, world_size=2))
    assert torch.equal(kept.images([3, 1]), streamed.images([3, 1]))
    assert kept.spec.model_copy(update={"fingerprint": ""}) == streamed.spec.model_copy(update={"fingerprint": ""})


@pytest.mark.parametrize("in_memory", [True, False])
def test_torchs_random_state_is_left_alone(folder: Path, in_memory: bool) -> None:
    data = load(folder, batch_size=4, flip=True, in_memory=in_memory, num_workers=1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(islice(data.batches(seed=0), 4))
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])


def test_flips_mirror_half_of_the_images() -> None:
    plain, flipped = (load("digits", batch_size=599, flip=flip) for flip in (False, True))
    mirrored = []
    for a, b in zip(steps(plain, 6, seed=0), steps(flipped, 6, seed=0), strict=True):
        same = (a["images"] == b["images"]).flatten(1).all(1)
        turned = (a["images"].flip(-1) == b["images"]).flatten(1).all(1)
        assert (same | turned).all()
        mirrored.append(turned & ~same)
    share = torch.cat(mirrored).float().mean()
    assert 0.45 < share < 0.55
    assert not torch.equal(torch.cat(mirrored[:3]), torch.cat(mirrored[3:]))  # another epoch, other images


def test_batches_have_the_promised_form(folder: Path) -> None:
    batch = next(load(folder, batch_size=4).batches(seed=0))
    assert batch["images"].shape == (4, 3, 6, 6)
    assert batch["images"].dtype == torch.float32
    assert batch["images"].is_contiguous()
    assert batch["labels"].dtype == torch.int64


def test_a_batch_may_be_larger_than_the_data() -> None:
    data = load("digits", split="train[:3]", batch_size=8)
    assert next(data.batches(seed=0))["images"].shape == (8, 1, 8, 8)
    assert sorted(data.rows(seed=0, step=0)[:6]) == [0, 0, 1, 1, 2, 2]


def test_indivisible_batch(digits: ImageData) -> None:
    with pytest.raises(DataError, match=r"data.batch_size: 64 .* 3 processes x 2 .*: 66"):
        digits.batches(seed=0, world_size=3, accumulation=2)


def test_workers_outlive_a_signal_to_the_process_group(folder: Path) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach all processes; the trainer finishes its step and saves."""
    code = (
        "import os, signal, sys; from genhub.config import DataConfig; from genhub.data import load_data\n"
        "for each in (signal.SIGINT, signal.SIGTERM): signal.signal(each, lambda *_: None)\n"
        "data = load_data(DataConfig(name=sys.argv[1], in_memory=False, batch_size=2))\n"
        "batches = data.batches(seed=0)\n"
        "for i in range(12):\n"
        "    next(batches)\n"
        "    if i == 3: os.killpg(0, signal.SIGINT); os.killpg(0, signal.SIGTERM)\n"
        "print('done')"
    )
    run = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(run, capture_output=True, text=True, start_new_session=True, timeout=60, check=False)
    assert done.stdout == "done\n", done.stderr
    assert "Traceback" not in done.stderr


# ---- sources


def test_digits_are_scikit_learns(digits: ImageData) -> None:
    from sklearn.datasets import load_digits

    given = load_digits()
    assert digits.labels is not None
    np.testing.assert_array_equal(digits.labels, given.target)
    np.testing.assert_array_equal(bytes_of(digits)[:, 0], np.rint(given.images * 255 / 16))
    spec = digits.spec
    assert (spec.name, spec.split, spec.shape, spec.num_images) == ("digits", "train", (1, 8, 8), 1797)
    assert spec.num_classes == 10
    assert spec.class_names == tuple("0123456789")
    assert digits.columns == ("images", "labels")
    assert load("digits", image_size=[16, 12], channels=3).spec.shape == (3, 16, 12)
    assert load("digits", split="train[10%:20%]").spec.num_images == 179
    assert fault("digits", split="test") == "data.split: no split 'test'; the splits of digits: train"


def test_digits_need_neither_datasets_nor_pandas() -> None:
    code = (
        "import sys; from genhub.config import DataConfig; from genhub.data import load_data;"
        "d = load_data(DataConfig()); next(d.batches(seed=0)); print(d.spec.fingerprint);"
        "sys.exit(', '.join({'datasets', 'pandas', 'sklearn'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == load("digits").spec.fingerprint  # the same in another process


def test_folder_with_classes(folder: Path) -> None:
    data = load(folder)
    assert data.spec.class_names == ("cat", "dog")
    assert data.spec.num_classes == 2
    assert data.labels is not None
    assert data.labels.tolist() == [0] * 4 + [1] * 6
    np.testing.assert_array_equal(bytes_of(data), np.stack([noise(i).transpose(2, 0, 1) for i in range(10)]))


def test_a_class_may_be_named_like_a_split(tmp_path: Path) -> None:
    for name in ("test", "train", "bus"):
        save(tmp_path / name / "0.png", noise(0))
    assert load(tmp_path).spec.class_names == ("bus", "test", "train")


def test_flat_folder(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"test_{i}.png", noise(i, 5, 8, channels=1))
    (tmp_path / "notes.txt").write_text("not an image")
    data = load(tmp_path)
    assert data.spec.shape == (1, 5, 8)
    assert data.spec.num_images == 3
    assert data.labels is None
    assert data.columns == ("images",)
    assert list(next(data.batches(seed=0))) == ["images"]
    assert "data.label_column" in fault(tmp_path, label_column="kind")


@pytest.mark.parametrize("classes", [True, False])
def test_folder_with_splits(tmp_path: Path, classes: bool) -> None:
    for split, number in [("train", 4), ("test", 2)]:
        for i in range(number):
            save(tmp_path / split / ("ab"[i % 2] if classes else "") / f"{i}.png", noise(i))
    assert load(tmp_path).spec.num_images == 4
    data = load(tmp_path, split="test")
    assert data.spec.num_images == 2
    assert data.spec.class_names == (("a", "b") if classes else ())
    assert load(tmp_path, split="train+test").spec.num_images == 6
    assert fault(tmp_path, split="validation").endswith(f"the splits of {tmp_path}: test, train")
    assert "data.split" in fault(tmp_path, split="train[5")
    assert "data.split" in fault(tmp_path, split="trian[:5]")


def tables(tmp_path: Path, kind: str) -> Path:
    folder = tmp_path / kind
    folder.mkdir()
    if kind == "parquet":
        table().to_parquet(str(folder / "train.parquet"))
        table(4).to_parquet(str(folder / "test.parquet"))
    elif kind == "shards":
        table(10).select(range(7)).to_parquet(str(folder / "x-0.parquet"))
        table(10).select(range(7, 10)).to_parquet(str(folder / "x-1.parquet"))
    elif kind == "saved":
        table().save_to_disk(str(folder))
    elif kind == "saved-splits":
        datasets.DatasetDict(train=table(), test=table(4)).save_to_disk(str(folder))
    else:
        table().save_to_disk(str(tmp_path / "tmp"))
        next((tmp_path / "tmp").glob("*.arrow")).rename(folder / "some.arrow")
    return folder


@pytest.mark.parametrize("kind", ["parquet", "shards", "saved", "saved-splits", "arrow"])
def test_tables(tmp_path: Path, kind: str) -> None:
    path = tables(tmp_path, kind)
    data = load(path, batch_size=4)
    assert data.spec.shape == (3, 6, 6)
    assert data.spec.class_names == ("even", "odd")
    np.testing.assert_array_equal(bytes_of(data), np.stack([noise(i).transpose(2, 0, 1) for i in range(10)]))
    assert data.labels is not None
    assert data.labels.tolist() == [i % 2 for i in range(10)]
    assert_same(steps(data, 3, seed=0), steps(load(path, batch_size=4, in_memory=False, num_workers=1), 3, seed=0))
    assert bytes_of(load(path, split="train[2:5]"))[0].tolist() == noise(2).transpose(2, 0, 1).tolist()
    splits = {"test", "train"} if kind in ("parquet", "saved-splits") else {"train"}
    assert fault(path, split="tset").endswith(": " + ", ".join(sorted(splits)))
    if "test" in splits:
        assert load(path, split="test").spec.num_images == 4


def test_files_and_globs(tmp_path: Path) -> None:
    path = tables(tmp_path, "shards")
    assert load(path / "x-1.parquet").spec.num_images == 3
    assert load(path / "x-*.parquet").spec.num_images == 10
    assert "no such folder or file" in fault(path / "y-*.parquet")
    (path / "x-2.txt").write_text("")
    assert fault(path / "x-2.txt").endswith("not .txt")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_list_of_files_and_globs(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tables(tmp_path, "shards")
    if kind == "arrow":
        for file in path.glob("*.parquet"):
            datasets.Dataset.from_parquet(str(file)).save_to_disk(str(tmp_path / "tmp"))
            next((tmp_path / "tmp").glob("*.arrow")).rename(file.with_suffix(".arrow"))
            file.unlink()
    monkeypatch.chdir(path)
    both = [f"x-1.{kind}", f"{path}/x-[0]*.{kind}"]
    data = load(both, split="train[:9]", batch_size=4)
    order = [7, 8, 9, 0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(bytes_of(data), np.stack([noise(i).transpose(2, 0, 1) for i in order]))
    assert data.labels is not None
    assert data.labels.tolist() == [i % 2 for i in order]
    assert data.spec.name == f"x-1.{kind} + {path}/x-[0]*.{kind}"
    mapped = [load(names, in_memory=False) for names in (both, both, both[::-1], both[1:])]
    np.testing.assert_array_equal(bytes_of(mapped[0])[:9], bytes_of(data))
    assert len({each.spec.fingerprint for each in mapped}) == 3  # in another order they are other data
    assert DataConfig(name=["a", "b", "c", "d", "e"]).title == "a + b + c and 2 more"


def test_a_list_names_what_is_wrong_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tables(tmp_path, "shards"))
    assert fault(["x-0.parquet", "x-9.parquet"]) == "data.name.1: no such file: x-9.parquet; did you mean 'x-1.parquet'?"
    assert fault(["y-*.parquet"]).startswith("data.name.0: no such file: y-*.parquet")
    assert fault(["x-1.parquet", "x-*.parquet"]) == "data.name.1: x-1.parquet is in data.name.0 already"
    Path("x.txt").write_text("")
    Path("more").mkdir()
    for name in ("x.txt", "more"):
        message = f"data.name.1: {name}: a list is of .parquet or .arrow files and globs; a folder is named alone"
        assert fault(["x-0.parquet", name]) == message
    table().save_to_disk("saved")
    assert fault(["x-0.parquet", "saved/*.arrow"]).endswith(
        ".arrow is no .parquet file, and x-0.parquet is; give files of one format"
    )
    Path("bad.parquet").write_bytes(b"PAR1 and nothing else")
    assert fault(["x-0.parquet", "bad.parquet"]).startswith("data.name.1: bad.parquet: ")
    assert fault("*.parquet").startswith("data.name: bad.parquet: ")
    table(4, more=[1, 2, 3, 4]).to_parquet("other.parquet")
    assert fault(["x-0.parquet", "other.parquet"]) == (
        "data.name.1: other.parquet has the columns image, label, more, and x-0.parquet has image, label"
    )
    swapped = table(4).cast_column("label", datasets.ClassLabel(names=["odd", "even"]))
    swapped.to_parquet("swapped.parquet")
    message = "data.name.1: swapped.parquet: the classes of 'label' are not those of x-0.parquet, in their order"
    assert fault(["x-0.parquet", "swapped.parquet"]) == message


@pytest.mark.parametrize(
    ("shape", "expected"), [((5, 6, 7), (5, 6, 7)), ((6, 7, 5), (5, 6, 7)), ((2, 6, 7), (2, 6, 7)), ((6, 7), (1, 6, 7))]
)
def test_array_columns(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    feature = (datasets.Array2D if len(shape) == 2 else datasets.Array3D)(shape, "uint8")
    rows = {"pixels": list(arrays)}
    datasets.Dataset.from_dict(rows, datasets.Features(pixels=feature)).to_parquet(str(tmp_path / "a.parquet"))
    data = load(tmp_path / "a.parquet", batch_size=3)
    assert data.spec.shape == expected
    channels_first = arrays.reshape(3, *expected) if shape[-1] != 5 else np.moveaxis(arrays, -1, 1)
    np.testing.assert_array_equal(bytes_of(data), channels_first)
    streamed = load(tmp_path / "a.parquet", batch_size=3, in_memory=False, num_workers=0)
    assert_same(steps(data, 2, seed=0), steps(streamed, 2, seed=0))
    assert load(tmp_path / "a.parquet", image_size=4).spec.shape == (expected[0], 4, 4)
    if expected[0] == 5:
        assert "data.channels: 3 can't be made of arrays with 5 channels" in fault(tmp_path / "a.parquet", channels=3)


def test_arrays_of_other_types_are_refused(tmp_path: Path) -> None:
    features = datasets.Features(pixels=datasets.Array2D((2, 2), "float32"))
    datasets.Dataset.from_dict({"pixels": [np.zeros((2, 2))]}, features).to_parquet(str(tmp_path / "a.parquet"))
    assert "'pixels' holds float32; arrays must be uint8" in fault(tmp_path / "a.parquet")


def test_choice_of_columns(tmp_path: Path) -> None:
    found = table(4, kind=["b", "a", "b", "a"], number=[3, 0, 1, 2], open=[0, -1, 1, -1])
    raw = found.cast_column("image", datasets.Image(decode=False))["image"][:]
    found = found.add_column("second", raw).cast_column("second", datasets.Image())
    found.to_parquet(str(tmp_path / "t.parquet"))
    path = tmp_path / "t.parquet"
    assert "data.image_column: several columns would do; set it to one of: image, second" in fault(path)
    assert "no column 'imgae'; did you mean 'image'?" in fault(path, image_column="imgae")
    assert "'kind' holds no images; the columns: image, label," in fault(path, image_column="kind")
    text = load(path, image_column="second", label_column="kind")
    assert text.spec.class_names == ("a", "b")
    assert text.labels is not None
    assert text.labels.tolist() == [1, 0, 1, 0]
    numbers = load(path, image_column="image", label_column="number")
    assert numbers.spec.num_classes == 4
    assert numbers.spec.class_names == ()
    assert load(path, image_column="image").spec.class_names == ("even", "odd")
    assert "'open' has no class in 2 of 4 rows, first -1 in row 1" in fault(path, image_column="image", label_column="open")
    assert "no column 'lable'; did you mean 'label'?" in fault(path, image_column="image", label_column="lable")
    found.remove_columns(["image", "second"]).to_parquet(str(tmp_path / "none.parquet"))
    assert "no column is marked as images; the columns: label, kind" in fault(tmp_path / "none.parquet")


def test_integer_label_column(tmp_path: Path) -> None:
    table(4).remove_columns("label").add_column("class", [0, 2, 1, 0]).to_parquet(str(tmp_path / "t.parquet"))
    assert load(tmp_path / "t.parquet").spec.num_classes == 3


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
    assert first_bytes(tmp_path, channels=1).shape == (1, 6, 6)
    assert first_bytes(tmp_path, channels=3).shape == (3, 6, 6)
    with_alpha = first_bytes(tmp_path, channels=4)
    np.testing.assert_array_equal(with_alpha[3], RGBA[..., 3] if image.mode == "RGBA" else 255)


def test_grey_values_that_could_mean_anything_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "x.tif", Image.fromarray(np.full((4, 4), 300, np.float32)))
    assert "x.tif): grey values outside 0 to 1; save it with 8 or 16 bits" in fault(tmp_path)


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
    assert load(tmp_path).spec.shape == (3, 2, 2)
    streamed = load(tmp_path, in_memory=False)
    assert streamed.spec.shape == (1, 2, 2)
    assert streamed.images([odd]).shape == (1, 1, 2, 2)


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
    found = first_bytes(tmp_path, image_size=8)
    assert found.shape == (1, 8, 8)
    assert (np.abs(found[0, 1:-1, 1:-1].astype(int) - 127) < 8).all()
    assert first_bytes(tmp_path, image_size=(3, 5)).shape == (1, 3, 5)


def test_fingerprint_follows_the_content(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "copy"
    for file in folder.rglob("*.png"):
        save(copy / file.relative_to(folder), Image.open(file))
    for in_memory in (True, False):
        assert load(folder, in_memory=in_memory).spec.fingerprint == load(copy, in_memory=in_memory).spec.fingerprint
    before = load(folder).spec.fingerprint
    assert load(folder, channels=1).spec.fingerprint != before
    (folder / "cat" / "0.png").rename(folder / "dog" / "0.png")  # another label
    assert load(folder).spec.fingerprint != before


# ---- faults


def test_things_that_are_not_there(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault(tmp_path / "sett") == f"data.name: no such folder or file: {tmp_path}/sett; did you mean '{folder}'?"
    assert fault(tmp_path / "sett" / "train").endswith(f"did you mean '{folder}'?")
    monkeypatch.chdir(tmp_path)
    assert fault("./zzz") == "data.name: no such folder or file: ./zzz"
    assert "did you mean 'set/cat'?" in fault("set/cta")
    assert "no such folder or file" in fault("some.parquet")
    assert "no such folder or file" in fault("")
    (tmp_path / "empty").mkdir()
    assert fault("empty") == "data.name: no images, parquet or arrow files in empty"
    (tmp_path / "empty" / "x.txt").write_text("x")
    assert "no images" in fault("empty")
    assert "has no images in split train[20:30]" in fault("set", split="train[20:30]")
    table(2).select([]).to_parquet("none.parquet")
    assert fault("none.parquet") == 'data.name: none.parquet: Instruction "train" corresponds to no data!'
    Path("bad.parquet").write_bytes(b"PAR1 and nothing else")
    assert fault("bad.parquet").startswith("data.name: bad.parquet: ")


def test_no_network() -> None:
    code = (
        "from genhub.config import DataConfig; from genhub.data import load_data; from genhub.errors import DataError\n"
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
    assert message.startswith(f"2 of 10 images can't be read: row 2 ({damaged}/cat/2.png): ")
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
    with pytest.raises(DataError, match=r"^1 of 10 images can't be read: row [23] .*on_error: skip leaves them out$"):
        next(data.batches(seed=0))


def test_unreadable_images_are_left_out(damaged: Path) -> None:
    data = load(damaged, on_error="skip", batch_size=4)
    assert [row for row, _ in data.skipped] == [2, 3]
    assert data.spec.num_images == 8
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(bytes_of(data)[2], noise(4).transpose(2, 0, 1))
    rows = np.concatenate([data.rows(seed=0, step=step) for step in range(2)])
    assert sorted(rows) == [0, 1, 4, 5, 6, 7, 8, 9]


def test_unreadable_images_are_replaced_when_streamed(damaged: Path) -> None:
    runs = []
    for workers in (0, 2):
        data = load(damaged, on_error="skip", in_memory=False, num_workers=workers, batch_size=10)
        runs.append(steps(data, 2, seed=0))
        assert sorted({row for row, _ in data.skipped}) == [2, 3]
        place = data.rows(seed=0, step=0).tolist().index(2)
        assert torch.equal(runs[-1][0]["images"][place], data.images([4])[0])
        assert runs[-1][0]["labels"][place] == 1
    assert_same(*runs)


def test_unreadable_rows_of_a_table(tmp_path: Path) -> None:
    rows = table(3).cast_column("image", datasets.Image(decode=False)).to_dict()
    rows["image"][0]["bytes"], rows["image"][1] = b"nothing", None
    datasets.Dataset.from_dict(rows, table(3).features).to_parquet(str(tmp_path / "t.parquet"))
    message = fault(tmp_path / "t.parquet")
    assert "row 0 (0.png): not an image of a known format; row 1: there is no image;" in message


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
        f"row 0 ({folder}/cat/0.png) is 3x6x6 but row 7 ({folder}/dog/7.png) is 3x6x9 (channels x height x width); "
        "set data.image_size"
    )
    assert load(folder, image_size=6, in_memory=in_memory).spec.shape == (3, 6, 6)


def test_one_image(tmp_path: Path) -> None:
    save(tmp_path / "only.png", noise(0))
    for in_memory in (True, False):
        data = load(tmp_path, batch_size=3, in_memory=in_memory, num_workers=0)
        assert next(data.batches(seed=0))["images"].shape == (3, 3, 6, 6)


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


# ---- real data


@pytest.fixture
def real() -> Path:
    if not REAL.is_dir():
        pytest.skip(f"the image sets are not here: {REAL}")
    return REAL


def test_real_mnist(real: Path) -> None:
    data = load(real / "mnist" / "test.parquet")
    assert data.spec.num_images == 10_000
    assert data.spec.shape == (1, 28, 28)
    assert data.spec.num_classes == 10
    assert next(data.batches(seed=0))["images"].shape == (64, 1, 28, 28)
    assert data.labels is not None
    assert data.labels.bincount().min() > 800


def test_real_cifar(real: Path) -> None:
    data = load(real / "cifar10_jpeg", split="test[:500]", batch_size=50)
    assert data.spec.shape == (3, 32, 32)
    assert "airplane" in data.spec.class_names
    streamed = load(real / "cifar10_jpeg", split="test[:500]", batch_size=50, in_memory=False)
    assert_same(steps(data, 2, seed=0), steps(streamed, 2, seed=0))


def test_real_digits_are_the_built_in_ones(real: Path) -> None:
    ours, theirs = bytes_of(load("digits")), bytes_of(load(real / "digits8", split="train+test"))
    assert sorted(image.tobytes() for image in ours) == sorted(image.tobytes() for image in theirs)


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
    seen = []
    data = load_data(DataConfig(name=str(tmp_path), on_error="skip"), meanwhile=lambda: seen.append(os.getpid()))
    assert seen == [os.getpid()]
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
