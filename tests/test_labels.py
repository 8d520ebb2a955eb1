"""A label is its name: from the values in the data to what a drawing says. Its number only where the data have no names."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from genhub_gan import GAN, ConditionalGAN
from image_files import fault, load, noise, save, table
from models import Labelled

import genhub
from genhub.api import sample_to
from genhub.data.open import load_data
from genhub.modalities.label import class_numbers, in_order
from genhub.interfaces.columns import DataConfig, DataSpec
from genhub.sampling.labels import called, classes_of
from genhub.store.card import Card
from genhub.store.manifest import read_manifest

SPEC = DataSpec(name="x", split="train", shape=(1, 4, 4), num_classes=4, num_images=4, fingerprint="x",
                class_names=("1", "2", "3", "10"))  # fmt: skip


def make(names: tuple[str, ...] = SPEC.class_names, cls: type = Labelled) -> genhub.GenerativeModel:
    model = cls(cls.Config(sample_shape=(1, 8, 8), num_classes=4)).eval()
    model.trained_on = SPEC.model_copy(update={"class_names": names})
    return model


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
    data = load(tmp_path / "t.parquet", label_column="kind")
    assert (data.spec.class_names, data.spec.num_classes) == (names, len(names))
    assert data.labels is not None
    assert [names[label] for label in data.labels] == [str(value) for value in values]


def test_folders_that_are_numbers(tmp_path: Path) -> None:
    for number, name in enumerate(["1", "2", "3", "10", "11"]):
        save(tmp_path / name / "x.png", noise(number))
    data = load(tmp_path)
    assert data.spec.class_names == ("1", "2", "3", "10", "11")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 3, 4, 1, 2]  # of the images, in the order of their files' names
    assert in_order(["class10", "class9"]) == ("class10", "class9")


@pytest.mark.parametrize("column", ["image", "scores", "when"])
def test_a_column_that_holds_no_classes(tmp_path: Path, column: str) -> None:
    table(4, scores=[0.5, 1.5, 2.5, 3.5], when=[[1, 2]] * 4).to_parquet(str(tmp_path / "t.parquet"))
    message = fault(tmp_path / "t.parquet", label_column=column)
    assert message.startswith(f"data.label_column: '{column}' holds ")
    assert len(message) < 150


def test_another_split_has_the_numbers_of_the_training_data(tmp_path: Path) -> None:
    def write(name: str, values: list[int]) -> None:
        table(len(values)).remove_columns("label").add_column("label", values).to_parquet(str(tmp_path / f"{name}.parquet"))

    write("train", [1, 2, 5, 9])
    write("test", [9, 1])
    write("valid", [9, 4])
    known = load(tmp_path).spec
    held_out = load_data(DataConfig(name=str(tmp_path), split="test"), known=known)
    assert held_out.labels is not None
    assert held_out.labels.tolist() == [3, 0]
    assert (held_out.spec.class_names, held_out.spec.num_classes) == (("1", "2", "5", "9"), 4)
    others = load_data(DataConfig(name=str(tmp_path), split="validation"), known=known)
    assert others.spec.class_names == ("4", "9")  # not the model's, and said to be so where it matters
    before = known.model_copy(
        update={"class_names": (), "num_classes": 10}
    )  # by a version that took the numbers as they are
    assert load_data(DataConfig(name=str(tmp_path), split="test"), known=before).labels.tolist() == [9, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [("3", [2]), ("10, 1", [3, 0]), ([3, "10"], [2, 3]), ([np.int64(2)], [1]), (torch.tensor([1]), [0]), (2, [1])],
)
def test_a_label_is_its_name(labels: object, classes: list[int]) -> None:
    assert classes_of(make(), labels) == classes  # type: ignore[arg-type]


def test_names_with_commas() -> None:
    names = ("tench, Tinca tinca", "tench", "cock")
    assert class_numbers("cock,tench, Tinca tinca,tench", names, 3) == [2, 0, 1]
    assert class_numbers(["tench, Tinca tinca"], names, 3) == [0]


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (("cat", "dog"), "cta", "--labels: 'cta' is not a label of this model; did you mean 'cat'?"),
        (("cat", "dog"), "0", "--labels: '0' is not a label of this model; it has cat, dog"),
        (("cat", "dog"), [1], "--labels: '1' is not a label of this model; it has cat, dog"),
        (("1", "2", "3", "10"), "4", "--labels: '4' is not a label of this model; it has 1, 2, 3, 10"),
        (tuple(f"{n}th" for n in range(99)), "x", "has 0th, 1th, 2th, 3th, 4th, 5th, 6th, 7th, 8th, 9th and 89 more"),
        ((), "4", "--labels: 4 is not a label of this model; it has 0 to 3"),
        ((), str(2**62), "it has 0 to 3"),
        ((), "9" * 10_000, "it has 0 to 3"),
        ((), "cat", "--labels: cat is not a label of this model; it has 0 to 3"),
        ((), [], "--labels: none are given"),
        ((), [2.5], "--labels: a label is a name or a number, not a float"),
        ((), [[1]], "--labels: a label is a name or a number, not a list"),
    ],
)
def test_no_such_label(names: tuple[str, ...], labels: object, message: str) -> None:
    model = make(names)
    for ask in (lambda: genhub.sample(model, 2, labels=labels), lambda: genhub.show("classes", model, labels=labels)):  # type: ignore[arg-type]
        with pytest.raises(genhub.InputError) as caught:
            ask()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


def test_a_model_without_labels() -> None:
    with pytest.raises(genhub.InputError, match="--labels: GAN is not conditional on labels"):
        classes_of(GAN(GAN.Config(sample_shape=(1, 8, 8))), "cat")


def test_what_is_drawn_is_the_class_of_that_name(tmp_path: Path) -> None:
    """`Labelled` draws class i of 4 as grey i / 3."""
    images = genhub.sample(make(), 4, labels="10,3", out=tmp_path / "x.parquet")
    assert images[:, 0, 0, 0].tolist() == [255, 170, 255, 170]
    rows = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"))
    assert [rows.features["label"].int2str(label) for label in rows["label"]] == ["10", "3", "10", "3"]
    assert load(tmp_path / "x.parquet").spec.class_names == SPEC.class_names
    genhub.sample(make(), 4, labels=[3], out=tmp_path / "x.npz")
    arrays = np.load(tmp_path / "x.npz")
    assert arrays["label_names"][arrays["labels"]].tolist() == ["3"] * 4


def test_names_are_kept_with_the_model(tmp_path: Path) -> None:
    make(cls=ConditionalGAN).save_pretrained(tmp_path / "model")
    model = genhub.load(tmp_path / "model")
    assert called(model, [3, 0]) == ["10", "1"]
    model.save_pretrained(tmp_path / "again")
    sample_to(tmp_path / "again", 4, tmp_path / "drawn", labels="10,2", device="cpu")
    assert json.loads((tmp_path / "drawn" / "samples.json").read_text())["labels"] == ["10", "2"]
    sample_to(tmp_path / "again", 4, tmp_path / "drawn.npz", device="cpu")
    assert np.load(tmp_path / "drawn.npz")["labels"].tolist() == [0, 1, 2, 3]
    assert "labels=['1', '2']" in Card(read_manifest(tmp_path / "model"), tmp_path / "model").text()
