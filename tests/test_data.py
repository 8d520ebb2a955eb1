"""Data at its public surface: order and sources. Real files in a temporary folder, no mocks."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import assert_same, bytes_of, class_names, fault, labels, load, noise, save, steps, table, ten_images

from genhub.data.batches import TableData
from genhub.errors import DataError
from genhub.ground.processes import Share
from genhub.interfaces.columns import DataConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return ten_images(tmp_path)


@pytest.fixture(scope="module")
def digits() -> TableData:
    return load("digits", ("label",))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9), st.integers(0, 5))
def test_order_is_pure_and_covers_each_epoch_once(
    number: int, part: int, world: int, accumulation: int, start: int, seed: int
) -> None:
    size = part * world * accumulation
    data = load("digits", ("label", "ink"), split=f"train[:{number}]", batch_size=size, flip=True)
    spread = steps(data, 4, seed=seed, start_step=start, world_size=world, accumulation=accumulation)
    assert_same(spread, steps(data, 4, seed=seed, start_step=start))
    for step, batch in enumerate(spread, start):
        rows = data.rows(seed=seed, step=step)
        for name in ("label", "ink"):
            assert torch.equal(batch[name], data.conditions(rows).values[name])
        ranks = [
            data.rows(Share(r, world, accumulation), seed=seed, step=step).reshape(accumulation, -1) for r in range(world)
        ]
        np.testing.assert_array_equal(np.concatenate(ranks, axis=1).ravel(), rows)
    total = -(-3 * number // size)
    order = np.concatenate([data.rows(seed=seed, step=step) for step in range(total)])
    for epoch in range(3):
        assert sorted(order[epoch * number : (epoch + 1) * number]) == list(range(number))


def test_a_restart_continues(digits: TableData) -> None:
    whole = steps(digits, 40, seed=3)  # 40 batches of 64 cross the end of an epoch of 1797
    assert_same(whole[29:], steps(digits, 11, seed=3, start_step=29))


def test_seeds_and_epochs_differ(digits: TableData) -> None:
    rows = [digits.rows(seed=seed, step=step) for seed, step in [(0, 0), (1, 0), (0, 1), (0, 1000)]]
    assert len({tuple(each) for each in rows}) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_equals_memory(folder: Path, workers: int) -> None:
    kept = load(folder, ("label",), batch_size=4, flip=True)
    streamed = load(folder, ("label",), batch_size=4, flip=True, in_memory=False, num_workers=workers)
    assert_same(steps(kept, 6, seed=1), steps(streamed, 6, seed=1))
    assert_same(steps(kept, 3, seed=1, start_step=2), steps(streamed, 3, seed=1, start_step=2, world_size=2))
    assert torch.equal(kept.x([3, 1]), streamed.x([3, 1]))
    assert kept.spec.model_copy(update={"fingerprints": {}}) == streamed.spec.model_copy(update={"fingerprints": {}})
    assert kept.spec.fingerprints["label"] == streamed.spec.fingerprints["label"]


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
        same = (a["x"] == b["x"]).flatten(1).all(1)
        turned = (a["x"].flip(-1) == b["x"]).flatten(1).all(1)
        assert (same | turned).all()
        mirrored.append(turned & ~same)
    share = torch.cat(mirrored).float().mean()
    assert 0.45 < share < 0.55
    assert not torch.equal(torch.cat(mirrored[:3]), torch.cat(mirrored[3:]))  # another epoch, other images


def test_batches_have_the_promised_form(folder: Path) -> None:
    batch = next(load(folder, ("label",), batch_size=4).batches(seed=0))
    assert batch.x.shape == (4, 3, 6, 6)
    assert batch.x.dtype == torch.float32
    assert batch.x.is_contiguous()
    assert batch.conditions.values["label"].dtype == torch.int64
    assert batch.conditions.present["label"].all()
    assert batch.step == 0
    assert next(load(folder, batch_size=4).batches(seed=0)).conditions.values == {}


def test_a_batch_may_be_larger_than_the_data() -> None:
    data = load("digits", split="train[:3]", batch_size=8)
    assert next(data.batches(seed=0)).x.shape == (8, 1, 8, 8)
    assert sorted(data.rows(seed=0, step=0)[:6]) == [0, 0, 1, 1, 2, 2]


def test_indivisible_batch(digits: TableData) -> None:
    with pytest.raises(DataError, match=r"data.batch_size: 64 .* 3 processes x 2 .*: 66"):
        digits.batches(Share(0, 3, 2), seed=0)


@pytest.mark.slow
def test_workers_outlive_a_signal_to_the_process_group(folder: Path) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach all processes; the trainer finishes its step and saves."""
    code = (
        "import os, signal, sys; from genhub.interfaces.columns import DataConfig; from genhub.data.open import load_data\n"
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


def test_digits_are_scikit_learns(digits: TableData) -> None:
    from sklearn.datasets import load_digits

    given = load_digits()
    np.testing.assert_array_equal(labels(digits), given.target)
    np.testing.assert_allclose(digits.column("ink").kept(range(1797)), given.images.mean((1, 2)) / 16, rtol=1e-6)
    np.testing.assert_array_equal(bytes_of(digits)[:, 0], np.rint(given.images * 255 / 16))
    spec = digits.spec
    assert (spec.name, spec.split, spec.target, spec.num_rows) == ("digits", "train", "image", 1797)
    assert spec.modality.shape == (1, 8, 8)
    assert spec.conditions["label"].classes == 10
    assert class_names(digits) == tuple("0123456789")
    assert digits.columns == ("image", "label")
    assert digits.available == ("image", "label", "ink")
    assert load("digits", image={"size": [16, 12], "channels": 3}).spec.modality.shape == (3, 16, 12)
    assert load("digits", split="train[10%:20%]").num_rows == 179
    assert fault("digits", split="test") == "data.split: no split 'test'; the splits of digits: train"


def test_digits_need_neither_datasets_nor_pandas() -> None:
    code = (
        "import sys; from genhub.interfaces.columns import DataConfig; from genhub.data.open import load_data;"
        "d = load_data(DataConfig()); next(d.batches(seed=0)); print(d.spec.fingerprint);"
        "sys.exit(', '.join({'datasets', 'pandas', 'sklearn'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == load("digits").spec.fingerprint  # the same in another process


def test_folder_with_classes(folder: Path) -> None:
    data = load(folder)
    assert class_names(data) == ("cat", "dog")
    assert labels(data) == [0] * 4 + [1] * 6
    np.testing.assert_array_equal(bytes_of(data), np.stack([noise(i).transpose(2, 0, 1) for i in range(10)]))


def test_a_class_may_be_named_like_a_split(tmp_path: Path) -> None:
    for name in ("test", "train", "bus"):
        save(tmp_path / name / "0.png", noise(0))
    assert class_names(load(tmp_path)) == ("bus", "test", "train")


def test_flat_folder(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"test_{i}.png", noise(i, 5, 8, channels=1))
    (tmp_path / "notes.txt").write_text("not an image")
    data = load(tmp_path)
    assert data.spec.modality.shape == (1, 5, 8)
    assert data.num_rows == 3
    assert data.labels is None
    assert data.columns == data.available == ("image",)
    assert fault(tmp_path, ("kind",)) == f"model.conditions: {tmp_path} has no column 'kind'; known: image"


@pytest.mark.parametrize("classes", [True, False])
def test_folder_with_splits(tmp_path: Path, classes: bool) -> None:
    for split, number in [("train", 4), ("test", 2)]:
        for i in range(number):
            save(tmp_path / split / ("ab"[i % 2] if classes else "") / f"{i}.png", noise(i))
    assert load(tmp_path).num_rows == 4
    data = load(tmp_path, split="test")
    assert data.num_rows == 2
    assert class_names(data) == (("a", "b") if classes else ())
    assert load(tmp_path, split="train+test").num_rows == 6
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
    data = load(path, ("label",), batch_size=4)
    assert data.spec.modality.shape == (3, 6, 6)
    assert class_names(data) == ("even", "odd")
    np.testing.assert_array_equal(bytes_of(data), np.stack([noise(i).transpose(2, 0, 1) for i in range(10)]))
    assert labels(data) == [i % 2 for i in range(10)]
    assert_same(
        steps(data, 3, seed=0), steps(load(path, ("label",), batch_size=4, in_memory=False, num_workers=1), 3, seed=0)
    )
    assert bytes_of(load(path, split="train[2:5]"))[0].tolist() == noise(2).transpose(2, 0, 1).tolist()
    splits = {"test", "train"} if kind in ("parquet", "saved-splits") else {"train"}
    assert fault(path, split="tset").endswith(": " + ", ".join(sorted(splits)))
    if "test" in splits:
        assert load(path, split="test").num_rows == 4


def test_files_and_globs(tmp_path: Path) -> None:
    path = tables(tmp_path, "shards")
    assert load(path / "x-1.parquet").num_rows == 3
    assert load(path / "x-*.parquet").num_rows == 10
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
    assert labels(data) == [i % 2 for i in order]
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
        message = f"data.name.1: {name}: a list is of .parquet, .arrow, .csv, .jsonl or .json files and globs; a folder is named alone"
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
    assert data.spec.modality.shape == expected
    channels_first = arrays.reshape(3, *expected) if shape[-1] != 5 else np.moveaxis(arrays, -1, 1)
    np.testing.assert_array_equal(bytes_of(data), channels_first)
    streamed = load(tmp_path / "a.parquet", batch_size=3, in_memory=False, num_workers=0)
    assert_same(steps(data, 2, seed=0), steps(streamed, 2, seed=0))
    small = load(tmp_path / "a.parquet", columns={"pixels": {"modality": "image", "size": 4}})
    assert small.spec.modality.shape == (expected[0], 4, 4)
    if expected[0] == 5:
        message = fault(tmp_path / "a.parquet", columns={"pixels": {"modality": "image", "channels": 3}})
        assert message.startswith("data.columns.pixels: ")
        assert "3 channels can't be made of arrays with 5" in message


def test_choice_of_columns(tmp_path: Path) -> None:
    found = table(4, kind=["b", "a", "b", "a"], number=[3, 0, 1, 2], open=[0, -1, 1, -1])
    raw = found.cast_column("image", datasets.Image(decode=False))["image"][:]
    found = found.add_column("second", raw).cast_column("second", datasets.Image())
    found.to_parquet(str(tmp_path / "t.parquet"))
    path = tmp_path / "t.parquet"
    assert fault(path) == "data.target: several columns would do; set it to one of: image, second"
    assert fault(path, target="imgae") == (
        f"data.target: {path} has no column 'imgae'; did you mean 'image'? the columns: image, label, kind, number, open, second"
    )
    assert fault(path, target="label") == "data.target: 'label' is a label, which can be a condition alone"
    text = load(path, ("kind",), target="second", columns={"kind": "label"})
    assert class_names(text) == ("a", "b")
    assert labels(text) == [1, 0, 1, 0]
    numbers = load(path, ("number",), target="image", columns={"number": "label"})
    assert class_names(numbers) == ("0", "1", "2", "3")
    assert class_names(load(path, target="image")) == ("even", "odd")
    assert "no column 'lable'; did you mean 'label'?" in fault(path, ("lable",), target="image")
    assert fault(path, ("image",), target="image") == "model.conditions: 'image' is what the model draws (data.target)"
    found.remove_columns(["image", "second"]).to_parquet(str(tmp_path / "none.parquet"))
    message = fault(tmp_path / "none.parquet")
    assert message.startswith(f"data.target: no column of {tmp_path}/none.parquet can be drawn; it has label (label), ")
    assert message.endswith("or make a vector of numbers: {from: [a, b], modality: vector}")


def test_a_row_without_a_class_has_none(tmp_path: Path) -> None:
    found = table(4).remove_columns("label").add_column("label", [0, -1, 1, None])
    found.cast_column("label", datasets.ClassLabel(names=["a", "b"])).to_parquet(str(tmp_path / "t.parquet"))
    for in_memory in (True, False):
        data = load(tmp_path / "t.parquet", ("label",), in_memory=in_memory, num_workers=0, batch_size=4)
        conditions = data.conditions(range(4))
        assert conditions.values["label"].tolist() == [0, 0, 1, 0]
        assert conditions.present["label"].tolist() == [True, False, True, False]
        assert data.column("label").present(range(4)).tolist() == [True, False, True, False]
        batch = next(data.batches(seed=0))
        rows = data.rows(seed=0, step=0)
        assert batch.conditions.present["label"].tolist() == [row in (0, 2) for row in rows]


def test_integer_label_column(tmp_path: Path) -> None:
    table(4).remove_columns("label").add_column("class", [0, 2, 1, 0]).to_parquet(str(tmp_path / "t.parquet"))
    assert class_names(load(tmp_path / "t.parquet")) == ("0", "1", "2")
    many = table(60).remove_columns("label").add_column("label", list(range(60)))  # too many for any other name
    many.to_parquet(str(tmp_path / "many.parquet"))
    assert class_names(load(tmp_path / "many.parquet")) == tuple(map(str, range(60)))
