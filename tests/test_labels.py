"""A label is its name: from the values in the data to the classes of a model. Its number only where the data have no names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import class_names, fault, labels, load, noise, save, table

from genhub import Label, ModelData
from genhub.data.open import load_data
from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig
from genhub.modalities.label import in_order

KIND = {"kind": {"modality": "label"}}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1, 2, 3, 10], ("1", "2", "3", "10")),
        ([0, 2, 1, 0], ("0", "1", "2")),
        ([7, 7, 7, 3], ("3", "7")),
        ([2**62, 5, 2**62, 5], ("5", str(2**62))),
        (["10", "9", "b", "9"], ("10", "9", "b")),
        (["10", "9", "1", "9"], ("1", "9", "10")),
        ([True, False, True, True], ("False", "True")),
    ],
)
def test_classes_are_the_values_that_there_are(tmp_path: Path, values: list, names: tuple[str, ...]) -> None:
    table(4).remove_columns("label").add_column("kind", values).to_parquet(str(tmp_path / "t.parquet"))
    data = load(tmp_path / "t.parquet", ("kind",), columns=KIND)
    assert data.spec.conditions["kind"] == Label(number=len(names), names=names)
    assert [names[label] for label in labels(data)] == [str(value) for value in values]


def test_folders_that_are_numbers(tmp_path: Path) -> None:
    for number, name in enumerate(["1", "2", "3", "10", "11"]):
        save(tmp_path / name / "x.png", noise(number))
    data = load(tmp_path)
    assert class_names(data) == ("1", "2", "3", "10", "11")
    assert labels(data) == [0, 3, 4, 1, 2]  # of the images, in the order of their files' names
    assert in_order(["class10", "class9"]) == ("class10", "class9")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, 1.5, 2.5, 3.5], "no value can be read: row 0 of PATH: a label is a name or a number, not a float"),
        ([[1, 2]] * 4, "no value can be read: row 0 of PATH: a label is a name or a number, not a list"),
        ([3, 0, -1, 2], "1 of 4 rows can't be read: row 2 of PATH: '-1' is none of its classes; it has 0, 2, 3; "
         "data.on_error: skip leaves them out"),
        ([None] * 4, "no row has a value"),
    ],
)  # fmt: skip
def test_a_column_that_holds_no_classes(tmp_path: Path, values: list, message: str) -> None:
    table(4, kind=values).to_parquet(str(tmp_path / "t.parquet"))
    found = fault(tmp_path / "t.parquet", ("kind",), columns=KIND)
    assert found.replace(str(tmp_path / "t.parquet"), "PATH") == f"data.columns.kind: {message}"


def test_another_split_has_the_numbers_of_the_training_data(tmp_path: Path) -> None:
    def write(name: str, values: list[int]) -> None:
        table(len(values)).remove_columns("label").add_column("label", values).to_parquet(str(tmp_path / f"{name}.parquet"))

    write("train", [1, 2, 5, 9])
    write("test", [9, 1])
    write("valid", [9, 4])
    known = load(tmp_path, ("label",)).spec.model_data
    held_out = load_data(DataConfig(name=str(tmp_path), split="test"), ("label",), known=known)
    assert labels(held_out) == [3, 0]
    assert held_out.spec.conditions["label"] == Label(number=4, names=("1", "2", "5", "9"))
    others = r"1 of 2 rows can't be read: row 1.*'4' is none of its classes; it has 1, 2, 5, 9"
    with pytest.raises(DataError, match=others):
        load_data(DataConfig(name=str(tmp_path), split="validation"), ("label",), known=known)
    numbers = ModelData(target=known.target, conditions={"label": Label(number=10)})  # by a version that had no names
    assert labels(load_data(DataConfig(name=str(tmp_path), split="test"), ("label",), known=numbers)) == [9, 1]


def test_names_that_are_said(tmp_path: Path) -> None:
    table(4, kind=["cat", "dog", "cat", "ox"]).to_parquet(str(tmp_path / "t.parquet"))
    said = {"kind": {"modality": "label", "names": ["dog", "cat", "cow"]}}
    data = load(tmp_path / "t.parquet", ("kind",), columns=said, on_error="skip")
    assert data.spec.conditions["kind"] == Label(number=3, names=("dog", "cat", "cow"))
    assert data.column("kind").kept([0, 1, 2]).tolist() == [1, 0, 1]
    assert "'ox' is none of its classes; it has dog, cat, cow" in data.skipped[0][1]


@pytest.mark.parametrize("value", ["2", 2, np.int64(2), np.array(2), torch.tensor(2), np.str_("2")])
def test_whatever_holds_the_name_is_read(value: object) -> None:
    assert Label(number=3, names=("1", "2", "10")).read(value) == 1


@pytest.mark.parametrize("value", [True, np.bool_(True), torch.tensor(True), "True"])
def test_truth_values_are_names(value: object) -> None:
    assert Label(number=2, names=("False", "True")).read(value) == 1


def test_names_with_commas() -> None:
    names = ("tench, Tinca tinca", "tench", "cock")
    label = Label(number=3, names=names)
    assert label.split("tench, Tinca tinca, cock") == ["tench, Tinca tinca", "cock"]
    assert [int(label.ask(name)) for name in label.split("cock,tench, Tinca tinca,tench")] == [2, 0, 1]


@pytest.mark.parametrize(
    ("names", "label", "message"),
    [
        (("cat", "dog"), "cta", "'cta' is none of its classes; did you mean 'cat'?"),
        (("cat", "dog"), 0, "'0' is none of its classes; it has cat, dog"),
        ((), "cat", "'cat' is none of its classes; it has 0 to 3"),
        ((), 4, "'4' is none of its classes; it has 0 to 3"),
        ((), 2.5, "a label is a name or a number, not a float"),
    ],
)
def test_no_such_class(names: tuple[str, ...], label: object, message: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        Label(number=len(names) or 4, names=names).ask(label)
    assert str(caught.value) == message
