"""Columns of points of the plane, wine, CSV, JSON and NumPy's files; test_data.py has those of image folders and parquet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import assert_same, class_names, fault, labels, load, noise, steps

from genhub.data.open import open_data
from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig

POINTS = {"moons": 2, "circles": 2, "checkerboard": 4, "gaussians": 8}


@pytest.mark.parametrize("name", POINTS)
def test_points_of_the_plane(name: str) -> None:
    data = load(name, ("label",))
    assert (data.num_rows, data.spec.target, data.spec.modality.shape) == (10_000, "point", (2,))
    assert class_names(data) == tuple(map(str, range(POINTS[name])))
    assert torch.bincount(torch.tensor(labels(data))).min() > 0.8 * 10_000 / POINTS[name]
    assert load(name, ("label",)).spec == data.spec  # drawn again, the same
    test = load(name, split="test", num_rows=500)
    assert test.num_rows == 500
    ours = {tuple(point) for point in data.own(range(10_000)).tolist()}
    assert not ours & {tuple(point) for point in test.own(range(500)).tolist()}
    assert load(name, split="train+test", num_rows=7).num_rows == 14
    assert load(name, split="train[:100]").num_rows == 100
    assert fault(name, split="valid") == f"data.split: no split 'valid'; the splits of {name}: test, train"


def test_points_lie_where_they_should() -> None:
    def points(name: str) -> tuple[np.ndarray, np.ndarray]:
        data = load(name)
        return data.own(range(data.num_rows)).numpy(), np.array(labels(data))

    board, row = points("checkerboard")
    assert board.min() >= -2
    assert board.max() <= 2
    squares = np.floor(board).astype(int)
    assert set((squares.sum(1) % 2).tolist()) == {0}
    np.testing.assert_array_equal(squares[:, 1] + 2, row)
    ring, label = points("circles")
    radius = np.linalg.norm(ring, axis=1)
    np.testing.assert_allclose([radius[label == 0].mean(), radius[label == 1].mean()], [1, 0.5], atol=0.02)
    blobs, label = points("gaussians")
    for number in range(8):
        angle = number * np.pi / 4
        at = blobs[label == number]
        np.testing.assert_allclose(at.mean(0), [2 * np.cos(angle), 2 * np.sin(angle)], atol=0.02)
        np.testing.assert_allclose(at.std(0), [0.1, 0.1], atol=0.01)
    crescents, label = points("moons")
    distance = np.where(label == 0, np.linalg.norm(crescents, axis=1), np.linalg.norm(crescents - [1, 0.5], axis=1))
    np.testing.assert_allclose(distance.mean(), 1, atol=0.03)
    assert crescents[label == 0][:, 1].mean() > crescents[label == 1][:, 1].mean()


def test_wine_is_scikit_learns() -> None:
    from sklearn.datasets import load_wine

    given, data = load_wine(), load("wine", ("label", "hue"))
    np.testing.assert_allclose(data.own(range(178)), given.data, rtol=1e-5)
    np.testing.assert_array_equal(labels(data), given.target)
    assert class_names(data) == tuple(given.target_names)
    assert data.spec.modality.names == tuple(given.feature_names)  # type: ignore[attr-defined]
    np.testing.assert_allclose(data.column("hue").kept(range(178)), given.data[:, 10], rtol=1e-6)


def test_csv(tmp_path: Path) -> None:
    rows = [f"{number},{number / 2},{'dog' if number % 2 else 'cat'}" for number in range(8)]
    (tmp_path / "x.csv").write_text("a,b,kind\n" + "\n".join(rows) + "\n8,,cat\n")
    keys = {"columns": {"p": {"from": ["a", "b"], "modality": "vector"}, "kind": "label"}}
    data = load(tmp_path / "x.csv", ("kind", "b"), **keys)
    assert data.notes == ("1 of 9 rows have no p, and are left out",)
    np.testing.assert_allclose(data.own(range(8)), [[number, number / 2] for number in range(8)], atol=1e-5)
    assert labels(data) == [number % 2 for number in range(8)]
    assert class_names(data) == ("cat", "dog")
    (tmp_path / "y.csv").write_text("a,b,kind\n20,10,dog\n")
    both = load([tmp_path / "y.csv", tmp_path / "x.csv"], **keys)
    assert both.own([0]).tolist()[0] == pytest.approx([20, 10])
    with pytest.raises(
        DataError,
        match=r"data.streaming: .*x.csv can't be streamed: what a CSV's columns are is known when all of it is read; parquet, arrow, JSON lines and Hub data sets can$",
    ):
        open_data(DataConfig(name=str(tmp_path / "x.csv"), streaming=True))
    (tmp_path / "z.csv").write_text("a,c\n20,10\n")
    assert fault([tmp_path / "x.csv", tmp_path / "z.csv"]) == (
        f"data.name.1: {tmp_path}/z.csv has the columns a, c, and {tmp_path}/x.csv has a, b, kind"
    )
    (tmp_path / "bad.csv").write_bytes(b"a,b\n1\n\xff\xfe,2,3,4\n")
    assert fault(tmp_path / "bad.csv").startswith(f"data.name: {tmp_path}/bad.csv: ")


def test_an_npz_is_columns_and_an_npy_is_one(tmp_path: Path) -> None:
    images = np.stack([noise(number) for number in range(7)])
    heat = np.linspace(0, 1, 7)
    heat[3] = np.nan
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(7) % 3, heat=heat, label_names=np.array(["a", "b", "c"]))
    data = load(tmp_path / "x.npz", ("labels", "heat"), batch_size=7)
    assert data.spec.target == "images"
    np.testing.assert_array_equal(data.kept(range(7)), images.transpose(0, 3, 1, 2))
    assert class_names(data) == ("0", "1", "2")
    assert data.conditions(range(7)).present["heat"].tolist() == [number != 3 for number in range(7)]
    assert data.notes == (f"{tmp_path}/x.npz: passed over label_names: not of 7 rows",)
    lazy = load(tmp_path / "x.npz", ("labels",), in_memory=False, num_workers=1, batch_size=3)
    assert_same(steps(lazy, 3, seed=0), steps(load(tmp_path / "x.npz", ("labels",), batch_size=3), 3, seed=0))
    assert load(tmp_path / "x.npz", split="train[2:4]").num_rows == 2

    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32))
    data = load(tmp_path / "points.npy")
    assert (data.spec.target, data.spec.modality.modality, data.num_rows) == ("points", "vector", 50)
    np.testing.assert_allclose(data.own(range(50)), np.load(tmp_path / "points.npy"), atol=1e-6)


def test_numpys_files_that_can_not_be_read(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "Python objects in dtype" in fault(tmp_path / "objects.npy")
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    assert fault(tmp_path / "bad.npz").startswith(f"data.name: {tmp_path}/bad.npz: ")
    np.savez(tmp_path / "none.npz", value=np.array(3.0))
    assert fault(tmp_path / "none.npz") == f"data.name: {tmp_path}/none.npz holds no array with rows"
    assert fault(tmp_path / "*.np[yz]").endswith("or one .npz or .npy, not .npy, .npz")


def test_numbers_that_are_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", point=np.array([[0.0, 1.0], [np.nan, 1.0], [2.0, np.inf]]))
    message = fault(tmp_path / "x.npz", target="point")
    assert message.startswith("data.columns.point: 2 of 3 rows can't be read: row 1: ")
    data = load(tmp_path / "x.npz", target="point", on_error="skip")
    assert data.num_rows == 1
    assert [row for row, _ in data.skipped] == [1, 2]


def lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_json_lines(tmp_path: Path) -> None:
    """Nested lists are vectors, what an object lacks is missing; a list of objects, and several files, alike."""
    rows = [{"p": [number, number / 2], "kind": ["cat", "dog"][number % 2], "note": f"row {number}"} for number in range(8)]
    del rows[3]["p"]
    rows[5]["note"] = None
    data = load(lines(tmp_path / "a.jsonl", rows), ("kind", "note"), target="p", columns={"kind": "label"})
    assert data.notes == ("1 of 8 rows have no p, and are left out",)
    np.testing.assert_allclose(data.own(range(7)), [row["p"] for row in rows if "p" in row], atol=1e-5)
    assert class_names(data) == ("cat", "dog")
    assert data.conditions(range(7)).present["note"].tolist() == [number != 4 for number in range(7)]
    assert data.column("note").modality.caption(data.column("note").kept([0])[0]) == "row 0"
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    assert load(tmp_path / "a.json", ("kind",), target="p", columns={"kind": "label"}).spec.fingerprints == {
        name: data.spec.fingerprints[name] for name in ("p", "kind")
    }
    lines(tmp_path / "b.jsonl", [{"note": "x", "kind": "cat", "p": [0.5, 1]}])  # keys in another order
    both = load([tmp_path / "b.jsonl", tmp_path / "a.jsonl"], target="p")
    assert (both.num_rows, both.own([0])[0].tolist()) == (8, pytest.approx([0.5, 1]))
    assert load(tmp_path / "*.jsonl", target="p", split="train[:4]").num_rows == 3


def test_json_that_can_not_be_read(tmp_path: Path) -> None:
    bad = lines(tmp_path / "bad.jsonl", [{"x": [1, 2]}] * 3)
    with bad.open("a") as stream:
        stream.write('{"x": [1,\n')
    assert fault(bad) == f"data.name: {bad}: JSON parse error: Invalid value. in row 3"
    mixed = lines(tmp_path / "mixed.jsonl", [{"x": 1}, {"x": "one"}])
    assert fault(mixed) == f"data.name: {mixed}: JSON parse error: Column(/x) changed from number to string in row 1"
    (tmp_path / "empty.jsonl").write_text("")
    assert fault(tmp_path / "empty.jsonl") == f"data.name: {tmp_path}/empty.jsonl: Empty JSON file"
    (tmp_path / "numbers.json").write_text("[1, 2]")
    assert fault(tmp_path / "numbers.json").endswith("must be a list of objects, {column: value, ...}, or a line each")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "deep.jsonl").write_text('{"x": 1, "text": "]"}\n{"x": ' + "[" * 50_000 + "\n" + "]" * 50_000 + "}\n")
    assert fault(tmp_path / "deep.jsonl").endswith(
        "deep.jsonl: line 2 has lists or objects more than 1,000 deep inside one another"
    )
    assert fault(tmp_path / "deep.json").startswith(f"data.name: {tmp_path}/deep.json: maximum recursion depth exceeded")
    good, other = lines(tmp_path / "a.jsonl", [{"x": [1, 2]}]), lines(tmp_path / "b.jsonl", [{"y": [1, 2]}])
    assert fault([good, other]) == f"data.name.1: {other} has the columns y, and {good} has x"
    assert fault([good, tmp_path / "deep.json"]) == (
        f"data.name.1: {tmp_path}/deep.json is no .jsonl file, and {good} is; give files of one format"
    )
