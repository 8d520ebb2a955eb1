"""Columns at the data's public surface: what each is, what is made of others, what is learnt, and what is missing."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pytest
import torch
from image_files import class_names, fault, labels, load, noise, save, steps, table

import genhub
from genhub.data import recognition
from genhub.data.open import load_data
from genhub.errors import DataError
from genhub.ground.processes import Share
from genhub.interfaces.modality import Modality
from genhub.modalities.image import Image
from genhub.modalities.label import Label
from genhub.modalities.number import Number
from genhub.modalities.vector import Vector


def mixed(path: Path, n: int = 40) -> Path:
    """A table with a column of each kind, and some values missing."""
    found = table(n).rename_column("label", "parity")
    for name, values in {
        "price": [None if number % 4 == 3 else number / 10 for number in range(n)],
        "note": [f"this is row {number}" for number in range(n)],
        "kind": ["cat" if number % 3 else "dog" for number in range(n)],
        "point": [[float(number), 1.0] for number in range(n)],
    }.items():
        found = found.add_column(name, values)
    found.to_parquet(str(path / "mixed.parquet"))
    return path / "mixed.parquet"


def test_each_column_is_recognised_and_learnt(tmp_path: Path) -> None:
    data = load(mixed(tmp_path), ("parity", "price"), target="image")
    assert data.columns == ("image", "parity", "price")
    assert set(data.available) == {"image", "parity", "price", "note", "kind", "point"}
    kinds = {name: data.column(name).modality.modality for name in data.available}
    assert kinds == {
        "image": "image", "parity": "label", "price": "number", "note": "text", "kind": "label", "point": "vector"}  # fmt: skip
    price = data.column("price").modality
    assert isinstance(price, Number)
    there = [number / 10 for number in range(40) if number % 4 != 3]
    assert price.mean == pytest.approx(np.mean(there))
    assert (price.low, price.high) == pytest.approx((0, 3.8))
    assert data.column("kind").modality == Label(number=2, names=("cat", "dog"))
    assert data.column("note").modality.caption(data.column("note").kept([7])[0]) == "this is row 7"
    assert isinstance(data.spec.modality, Image)


@pytest.mark.parametrize("keys", [{}, {"in_memory": False, "num_workers": 0}, {"in_memory": False, "num_workers": 1}])
def test_missing_conditions_are_not_present(tmp_path: Path, keys: dict[str, Any]) -> None:
    data = load(mixed(tmp_path), ("price", "point"), target="image", batch_size=10, **keys)
    for batch, step in zip(data.batches(seed=1), range(5), strict=False):
        rows = data.rows(seed=1, step=step)
        assert batch.conditions.present["price"].tolist() == [row % 4 != 3 for row in rows]
        assert batch.conditions.present["point"].all()
        own = data.spec.conditions["point"].from_batch(batch.conditions.values["point"])
        np.testing.assert_allclose(own[:, 0], rows, atol=1e-4)
        there = batch.conditions.present["price"]
        price = data.spec.conditions["price"].from_batch(batch.conditions.values["price"])
        np.testing.assert_allclose(price[there], rows[there.numpy()] / 10, atol=1e-5)
    conditions = data.conditions([2, 3])
    assert conditions.present["price"].tolist() == [True, False]


def test_what_can_be_the_target(tmp_path: Path) -> None:
    path = mixed(tmp_path)
    assert fault(path) == "data.target: several columns would do; set it to one of: image, point"
    assert load(path, target="point").spec.modality.shape == (2,)
    assert fault(path, target="price") == (
        "data.target: 'price' is a number, which can be a condition alone; {from: [a, b], modality: vector} makes a vector "
        "of numbers"
    )
    wine = load("wine")
    assert wine.spec.target == "features"
    assert isinstance(wine.spec.modality, Vector)
    assert wine.spec.modality.names[:2] == ("alcohol", "malic_acid")
    assert class_names(wine) == ("class_0", "class_1", "class_2")


def test_a_vector_of_several_columns() -> None:
    data = load("wine", ("label",), target="two", columns={"two": {"from": ["alcohol", "hue"], "modality": "vector"}})
    assert data.spec.modality.names == ("alcohol", "hue")  # type: ignore[attr-defined]
    for name, place in [("alcohol", 0), ("hue", 1)]:
        torch.testing.assert_close(data.kept(range(178))[:, place], data.column(name).kept(range(178)))
    x = data.x(range(178))
    torch.testing.assert_close(x.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    own = data.own([0])[0]
    assert own.tolist() == pytest.approx([14.23, 1.04])


def test_vectors_can_be_joined_and_what_is_no_number_is_refused() -> None:
    data = load("wine", target="more", columns={"more": {"from": ["features", "hue"], "modality": "vector"}})
    assert data.spec.modality.shape == (14,)
    assert data.spec.modality.names[-2:] == ("proline", "hue")  # type: ignore[attr-defined]
    joined = load("moons", target="two", columns={"two": {"from": ["point", "point"], "modality": "vector"}})
    assert joined.spec.modality.names == ()  # type: ignore[attr-defined]
    torch.testing.assert_close(joined.own([5])[0][:2], joined.own([5])[0][2:])
    columns = {"bad": {"from": ["label", "hue"], "modality": "vector"}}
    assert fault("wine", target="bad", columns=columns).startswith("data.columns.bad: ")


def test_a_second_size_of_an_image_is_a_condition_and_is_mirrored_with_it(tmp_path: Path) -> None:
    for number in range(12):
        save(tmp_path / f"{number}.png", noise(number, 8, 8))
    keys: dict[str, Any] = {"target": "image", "columns": {"small": {"from": "image", "size": 4, "channels": 1}}}
    for in_memory in (True, False):
        data = load(tmp_path, ("small",), flip=True, in_memory=in_memory, num_workers=0, batch_size=12, **keys)
        assert data.spec.conditions["small"].shape == (1, 4, 4)
        (batch,) = islice(data.batches(seed=3), 1)
        rows = data.rows(seed=3, step=0)
        x, small = data.x(rows), data.conditions(rows).values["small"]
        turned = (batch.x == x.flip(-1)).flatten(1).all(1)
        assert 0 < turned.sum() < 12
        for place, mirrored in enumerate(turned.tolist()):
            assert torch.equal(batch.x[place], x[place].flip(-1) if mirrored else x[place])
            found = small[place].flip(-1) if mirrored else small[place]
            assert torch.equal(batch.conditions.values["small"][place], found)


def test_nothing_to_mirror() -> None:
    message = "data.flip: there is no image to mirror: point is a vector, label is a label; leave it out"
    assert fault("moons", ("label",), flip=True) == message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"columns": {"pirce": "number"}},
            "data.columns.pirce: .*mixed.parquet has no column 'pirce'; did you mean 'price'?",
        ),
        ({"columns": {"p": {"from": ["price", "x"], "modality": "vector"}}}, "data.columns.p.from: .* has no column 'x'; "),
        ({"columns": {"note": "vector"}, "conditions": ("note",)}, "data.columns.note: "),
        ({"columns": {"image": {"channels": 1, "length": 3}}}, "data.columns.image"),
        ({"conditions": ("image",)}, r"model.conditions: 'image' is what the model draws \(data.target\)"),
        ({"conditions": ("kidn",)}, "model.conditions: .* has no column 'kidn'; did you mean 'kind'?"),
        ({"num_rows": 3}, "data.num_rows: says how many points of the plane there are; .* has rows of its own"),
    ],
)
def test_what_can_not_be(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(mixed(tmp_path), **{"target": "image"} | keys)


# ---- what is known is not learnt again


def split(path: Path, name: str, values: list[str], numbers: list[float]) -> None:
    found = table(len(values)).remove_columns("label").add_column("kind", values).add_column("price", numbers)
    found.to_parquet(str(path / f"{name}.parquet"))


def test_another_split_is_read_by_what_was_learnt_of_the_first(tmp_path: Path) -> None:
    split(tmp_path, "train", ["a", "b", "c", "d"], [0.0, 1.0, 2.0, 3.0])
    split(tmp_path, "test", ["d", "b"], [10.0, 20.0])
    split(tmp_path, "validation", ["d", "fox", "wolf", "fox"], [1.0, 1.0, 1.0, 1.0])
    keys: dict[str, Any] = {"columns": {"kind": "label"}, "target": "image"}
    known = load(tmp_path, ("kind", "price"), **keys).spec.model_data
    data = load_data(str(tmp_path), ("kind", "price"), known, split="test", **keys)
    assert data.spec.columns == load(tmp_path, ("kind", "price"), **keys).spec.columns
    assert data.conditions([0, 1]).values["kind"].tolist() == [3, 1]
    price = known.conditions["price"]
    torch.testing.assert_close(data.conditions([0]).values["price"], price.to_batch(torch.tensor([10.0])))
    with pytest.raises(DataError) as caught:
        load_data(str(tmp_path), ("kind",), known, split="validation", **keys)
    assert str(caught.value).startswith("data.columns.kind: 3 of 4 rows can't be read: row 1 of ")
    assert "'fox'" in str(caught.value)
    assert "'wolf'" in str(caught.value)
    others = load_data(str(tmp_path), ("kind",), known, split="validation", on_error="skip", **keys)
    assert others.num_rows == 1
    # a column that the model isn't given is read by what is known of it, too
    assert load_data(str(tmp_path), (), known, split="test", **keys).column("kind").kept([0, 1]).tolist() == [3, 1]


def test_colour_does_not_widen_what_is_known(tmp_path: Path) -> None:
    for name, channels in [("train", 1), ("test", 3)]:
        for number in range(3):
            save(tmp_path / name / f"{number}.png", noise(number, channels=channels))
    known = load(tmp_path).spec.model_data
    for in_memory in (True, False):
        data = load_data(str(tmp_path), (), known, split="test", in_memory=in_memory, num_workers=0)
        assert data.spec.modality == known.target
        assert data.kept(range(3)).shape == (3, 1, 6, 6)
    assert load(tmp_path, split="train+test").spec.modality.shape == (3, 6, 6)


def test_keys_that_contradict_what_is_known(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", noise(number, channels=1))
    known = load(tmp_path).spec.model_data
    assert load_data(str(tmp_path), (), known, columns={"image": {"channels": 1}}).num_rows == 3
    for keys, shape in [({"channels": 3}, "3x6x6"), ({"size": 4}, "1x4x4")]:
        with pytest.raises(DataError) as caught:
            load_data(str(tmp_path), (), known, columns={"image": keys})
        (key,) = keys
        assert str(caught.value) == f"data.columns.image: by {key} it is {shape}, and the model's is 1x6x6; leave {key} out"


def test_learning_sees_the_rows_of_the_split_alone() -> None:
    first = load("wine", split="train[:50]").spec.modality
    table_ = load("wine")
    values = table_.kept(range(50)).double()
    torch.testing.assert_close(torch.tensor(first.mean).double(), values.mean(0), rtol=1e-5, atol=1e-5)  # type: ignore[attr-defined]


# ---- dropout


def test_conditions_are_dropped_by_the_step_and_the_process() -> None:
    data = load("digits", ("label", "ink"), batch_size=600)
    assert all(present.all() for present in next(data.batches(seed=0)).conditions.present.values())
    data.condition_dropout = 0.25
    one, two = ([batch.conditions.present for batch in islice(data.batches(seed=0), 3)] for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a["label"], b["label"])
        assert torch.equal(a["label"], a["ink"])  # all of a row's together
        assert 0.18 < (~a["label"]).float().mean() < 0.32
    assert not torch.equal(one[0]["label"], one[1]["label"])
    late = next(data.batches(seed=0, start_step=2)).conditions.present
    assert torch.equal(late["label"], one[2]["label"])
    ranks = [next(data.batches(Share(rank, 2), seed=0)).conditions.present["label"] for rank in range(2)]
    assert not torch.equal(*ranks)
    data.condition_dropout = {"ink": 1.0}
    dropped = next(data.batches(seed=0)).conditions.present
    assert dropped["label"].all()
    assert not dropped["ink"].any()
    assert all(present.all() for present in data.conditions([0, 1]).present.values())  # in training alone


# ---- fingerprints


def test_fingerprints_are_by_column(tmp_path: Path) -> None:
    split(tmp_path, "train", ["a", "b", "a", "b"], [0.0, 1.0, 2.0, 3.0])
    keys: dict[str, Any] = {"columns": {"kind": "label"}, "target": "image"}
    before = load(tmp_path, ("kind", "price"), **keys).spec.fingerprints
    assert load(tmp_path, ("kind",), **keys).spec.fingerprints == {name: before[name] for name in ("image", "kind")}
    split(tmp_path, "train", ["a", "b", "a", "b"], [0.0, 1.0, 2.0, 3.5])
    after = load(tmp_path, ("kind", "price"), **keys).spec
    assert {name for name, value in after.fingerprints.items() if before[name] != value} == {"price"}
    assert load(tmp_path, **keys).content == load(tmp_path, ("kind", "price"), **keys).content  # the target's, for latents


# ---- modalities of plugins


class Halves(Modality):
    """A modality of somebody else: pairs of numbers, kept halved."""

    modality: Literal["halves"] = "halves"
    shape: tuple[int, ...] = (2,)
    endings = (".pair",)

    @classmethod
    def recognise(cls, feature: Any, values: Any) -> bool:
        return all(isinstance(value, str) and value.endswith(".pair") for value in values)

    @classmethod
    def learn(cls, column: Any, options: Any) -> Halves:
        return cls()

    def read(self, value: Any) -> np.ndarray:
        return np.array([float(word) / 2 for word in Path(value).read_text().split()], np.float32)

    def to_batch(self, kept: torch.Tensor) -> torch.Tensor:
        return kept

    def from_batch(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    def picture(self, values: torch.Tensor, captions: Any = ()) -> Any:
        raise NotImplementedError


class Thirds(Halves):
    modality: Literal["thirds"] = "thirds"  # type: ignore[assignment]


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Modality]]:
    """Modalities of plugins, beside genhub's own."""
    found: dict[str, type[Modality]] = {"halves": Halves}
    own = recognition.registered()[0]
    monkeypatch.setattr(recognition, "registered", lambda: (own, tuple(found.items())))
    return found


def pairs(folder: Path) -> Path:
    for number in range(5):
        file = folder / "ab"[number % 2] / f"{number}.pair"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{number} {number + 1}")
    return folder


def test_a_folder_of_another_modalitys_files(tmp_path: Path, others: dict[str, type[Modality]]) -> None:
    data = load(pairs(tmp_path), ("label",))
    assert data.spec.target == "halves"
    assert class_names(data) == ("a", "b")
    assert labels(data) == [0, 0, 0, 1, 1]
    assert data.own(range(5))[:, 0].tolist() == [0, 2, 4, 1, 3]
    (tmp_path / "a" / "4.pair").write_text("4 x")
    assert fault(tmp_path) == (
        f"data.columns.halves: 1 of 5 rows can't be read: row 2 ({tmp_path}/a/4.pair): could not convert string to float: "
        "'x'; data.on_error: skip leaves them out"
    )
    assert load(tmp_path, on_error="skip").num_rows == 4
    (tmp_path / "a" / "4.pair").write_text("4 5 6")
    for in_memory in (True, False):
        with pytest.raises(DataError, match=r"data.columns.halves: row 0 .* is 2 but row 2 .*4.pair\) is 3"):
            next(load(tmp_path, in_memory=in_memory, num_workers=0).batches(seed=0))


def test_two_plugins_that_claim_a_column(tmp_path: Path, others: dict[str, type[Modality]]) -> None:
    others["thirds"] = Thirds
    assert fault(pairs(tmp_path)) == (
        "data.columns.halves: both halves and thirds read such a column; say data.columns.halves.modality"
    )


def test_the_widest_use_of_memory_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single numbers are kept whatever there is; the others together where they fit."""
    monkeypatch.setattr("genhub.data.open.IN_MEMORY_BYTES", 40 * 3 * 36 + 280)
    path = mixed(tmp_path)
    alone = load(path, ("price",), target="image", num_workers=0)
    together = load(path, ("price", "point"), target="image", num_workers=0)
    assert alone.spec.fingerprints["image"] != together.spec.fingerprints["image"]
    assert together.spec.fingerprints["image"].startswith("stored-")
    assert alone.spec.fingerprints["price"] == together.spec.fingerprints["price"]
    kept = load(path, ("price", "point"), target="image", in_memory=True)
    for a, b in zip(steps_of(together), steps_of(kept), strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.conditions.values["point"], b.conditions.values["point"])


def steps_of(data: Any) -> list[genhub.Batch]:
    return list(islice(data.batches(seed=2), 2))


def test_resume_reads_the_same_batches(tmp_path: Path) -> None:
    data = load("moons", ("label",), num_rows=100, batch_size=30)
    whole = steps(data, 6, seed=4)
    again = load_data("moons", ("label",), data.spec.model_data, num_rows=100, batch_size=30)
    for a, b in zip(whole[3:], steps(again, 3, seed=4, start_step=3), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert again.spec == data.spec


def test_datasets_features_that_mark_nothing_are_said(tmp_path: Path) -> None:
    rows = {"when": [[1, 2], [3], [4, 5]], "x": [[0.0, 1.0]] * 3}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "x.parquet"))
    data = load(tmp_path / "x.parquet", target="x")
    assert "when" not in data.available or data.column("when")
    message = fault(tmp_path / "x.parquet", ("when",), target="x")
    assert message.startswith(("model.conditions: of column 'when' genhub can't see what it is", "data.columns.when: "))
