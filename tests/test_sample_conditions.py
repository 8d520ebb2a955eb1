"""What a model is told, as a person says it: classes by name, numbers in their own units, images by their files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from genhub_gan import GAN, ConditionalGAN
from models import Pair, images
from PIL import Image as Picture
from torch import Tensor
from typer.testing import CliRunner

import genhub
from genhub import Image, Label, ModelData, Number, Vector, cli
from genhub.api import sample_to
from genhub.sampling.asked import told
from genhub.sampling.request import Drawing
from genhub.store.card import Card
from genhub.store.manifest import read_manifest

NAMES = ("1", "2", "3", "10")
LABEL = Label(number=4, names=NAMES)
INK = Number(mean=0.5, std=0.25, low=0.0, high=1.0)
PLACE = Vector(shape=(2,), mean=(1.0, 0.0), std=(2.0, 1.0))


class Told(Pair):
    """Draws what it is told: in each number of an element the mean of its conditions' numbers, in a batch's units."""

    def sample(self, n: int, *, conditions: Any = None, generator: Any = None) -> Tensor:
        given = self.conditions_of(n, conditions)
        parts = [given.values[name].float().reshape(n, -1).mean(1) * given.present[name] for name in self.conditions]
        mean = torch.stack(parts).mean(0) if parts else torch.zeros(n)
        return mean.reshape(n, *(1 for _ in self.shape)).expand(n, *self.shape)


def make(target: Any = None, cls: type = Told, **conditions: Any) -> genhub.GenerativeModel:
    data = ModelData(target=target or Image(shape=(1, 8, 8)), conditions=conditions)
    return cls(cls.Config(data=data, conditions=tuple(conditions))).eval()


def asked(model: genhub.GenerativeModel, n: int | None = None, **conditions: Any) -> Drawing:
    return Drawing.of(model, n, {}, conditions=conditions)


# Classes


@pytest.mark.parametrize(
    ("labels", "classes"),
    [("3", [2]), ("10, 1", [3, 0]), ([3, "10"], [2, 3]), ([np.int64(2)], [1]), (torch.tensor([1]), [0]), (2, [1])],
)
def test_a_label_is_its_name(labels: Any, classes: list[int]) -> None:
    model = make(label=LABEL)
    drawing = asked(model, label=labels)
    assert drawing.n == len(classes)
    assert drawing.conditions_of(model).values["label"].tolist() == classes


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (("cat", "dog"), "cta", "did you mean 'cat'?"),
        (("cat", "dog"), "0", "cat, dog"),
        (("cat", "dog"), [1], "cat, dog"),
        (NAMES, "4", "1, 2, 3, 10"),
        (tuple(f"{n}th" for n in range(99)), "x", "0th, 1th, 2th, 3th, 4th, 5th, 6th, 7th, 8th, 9th and 89 more"),
        ((), "4", "0 to 3"),
        ((), str(2**62), "0 to 3"),
        ((), "9" * 10_000, "0 to 3"),
        ((), "cat", "0 to 3"),
        ((), [], "none is given; leave it out"),
        ((), [2.5], "not a float"),
        ((), [[1]], "not a list"),
    ],
)
def test_no_such_label(names: tuple[str, ...], labels: Any, message: str) -> None:
    model = make(label=Label(number=len(names) or 4, names=names))
    with pytest.raises(genhub.InputError) as caught:
        genhub.sample(model, 2, conditions={"label": labels})
    assert str(caught.value).startswith("--condition label: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_model_that_is_given_nothing() -> None:
    model = GAN(GAN.Config(data=images()))
    with pytest.raises(genhub.InputError, match="^--condition label: GAN is given nothing; leave it out$"):
        asked(model, label="cat")
    assert told(model) == {}


def test_a_column_that_the_model_is_not_told() -> None:
    with pytest.raises(genhub.InputError, match="^--condition lable: this model is not told it; did you mean 'label'[?]$"):
        asked(make(label=LABEL, ink=INK), lable="3")
    with pytest.raises(genhub.InputError, match="^--condition x: this model is not told it; known: ink, label$"):
        asked(make(label=LABEL, ink=INK), x="3")


# Several, and lists


def test_lists_are_repeated_and_paired_row_by_row() -> None:
    model = make(label=LABEL, ink=INK)
    drawing = asked(model, label="10,1,3", ink=[0.25, 0.75])
    assert drawing.n == 3
    given = asked(model, 6, label="10,1,3", ink=[0.25, 0.75]).conditions_of(model)
    assert given.values["label"].tolist() == [3, 0, 2, 3, 0, 2]
    assert given.values["ink"].tolist() == [-1, 1, -1, 1, -1, 1]  # standardised
    assert given.present["ink"].all()
    assert asked(model).n == 64
    assert drawing.captions(model)[0].startswith("10, 0.25")


def test_what_nobody_names_takes_turns_or_is_not_there() -> None:
    model = make(label=LABEL, ink=INK)
    given = asked(model, 6).conditions_of(model)
    assert given.values["label"].tolist() == [0, 1, 2, 3, 0, 1]
    assert given.present["label"].all()
    assert not given.present["ink"].any()
    part = asked(model, 6).part(range(4, 6)).conditions_of(model)
    assert part.values["label"].tolist() == [0, 1]


def test_rows_that_lack_a_condition() -> None:
    model = make(ink=INK)
    drawing = Drawing(3, conditions={"ink": [np.float32(0.5), None]})
    assert drawing.conditions_of(model).present["ink"].tolist() == [True, False, True]
    assert drawing.captions(model)[1] == ""
    assert drawing.identity(model)["conditions"] == {"ink": [0.5, None]}


# Numbers, vectors, images


@pytest.mark.parametrize(("ink", "values"), [("0.2,0.6", [0.2, 0.6]), (0.2, [0.2]), ([0, 1], [0, 1]), (np.float64(0.3), [0.3]),
                                             (torch.tensor([0.1, 0.2]), [0.1, 0.2])])  # fmt: skip
def test_a_number_is_in_its_own_units(ink: Any, values: list[float]) -> None:
    model = make(ink=INK)
    given = asked(model, ink=ink).conditions_of(model).values["ink"]
    assert given.tolist() == pytest.approx([(value - 0.5) / 0.25 for value in values], abs=1e-6)


@pytest.mark.parametrize("ink", ["much", "", "nan", [float("inf")], {"a": 1}, None])
def test_what_is_no_number(ink: Any) -> None:
    with pytest.raises(genhub.InputError, match=r"^--condition ink: [^\n]+$"):
        asked(make(ink=INK), ink=ink)


def test_a_vector_is_a_list_of_its_numbers() -> None:
    model = make(place=PLACE)
    assert asked(model, place=[3.0, 1.0]).conditions_of(model).values["place"].tolist() == [[1, 1]]
    both = asked(model, place=[[3.0, 1.0], (1, 0)]).conditions_of(model).values["place"]
    assert both.tolist() == [[1, 1], [0, 0]]
    assert asked(model, place=np.zeros((5, 2))).n == 5
    with pytest.raises(genhub.InputError, match=r"^--condition place: [^\n]+$"):
        asked(model, place=[1.0, 2.0, 3.0])


def test_an_image_comes_from_a_file(tmp_path: Path) -> None:
    model = make(source=Image(shape=(1, 8, 8)))
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Picture.fromarray(grey).save(tmp_path / "a,b.png")
    expected = (grey / 127.5 - 1).astype(np.float32)
    for source in (str(tmp_path / "a,b.png"), tmp_path / "a,b.png", [tmp_path / "a,b.png"], Picture.fromarray(grey), grey):
        given = asked(model, source=source).conditions_of(model).values["source"]
        assert given.shape == (1, 1, 8, 8)
        assert np.allclose(given[0, 0], expected, atol=1e-6)
    with pytest.raises(genhub.InputError, match=r"^--condition source: [^\n]+$"):
        asked(model, source=tmp_path / "nowhere.png")
    Picture.fromarray(np.full((5, 9, 3), 255, dtype=np.uint8)).save(tmp_path / "other.png")  # is made to fit
    assert (asked(model, source=tmp_path / "other.png").conditions_of(model).values["source"] == 1).all()
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(genhub.InputError, match=r"^--condition source: [^\n]+$"):
        asked(model, source=tmp_path / "text.png")


# To files


def test_what_is_drawn_is_the_class_of_that_name(tmp_path: Path) -> None:
    model = make(label=LABEL)
    drawn = genhub.sample(model, 4, conditions={"label": "10,3"}, out=tmp_path / "x.parquet")
    assert torch.equal(drawn, genhub.sample(model, 4, conditions={"label": ["10", 3]}))
    rows = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"))
    assert [rows.features["label"].int2str(label) for label in rows["label"]] == ["10", "3", "10", "3"]
    genhub.sample(model, 4, conditions={"label": [3]}, out=tmp_path / "x.npz")
    arrays = np.load(tmp_path / "x.npz")
    assert set(arrays) == {"image", "arr_0", "arr_0_of", "label", "label_names"}
    assert arrays["label_names"][arrays["label"]].tolist() == ["3"] * 4


@pytest.mark.parametrize("out", ["x.npz", "x.parquet", "x.csv"])
def test_conditions_are_columns_in_their_own_units(tmp_path: Path, out: str) -> None:
    point = Vector(shape=(2,), mean=(1.0, -1.0), std=(2.0, 3.0))
    model = make(point, label=LABEL, ink=INK, source=Image(shape=(1, 2, 2)))
    source = np.array([[0, 50], [100, 255]], dtype=np.uint8)
    given: dict[str, Any] = {"label": "10,1", "ink": [0.25, 0.5, 0.75], "source": source}
    drawn = genhub.sample(model, 5, seed=2, conditions=given, out=tmp_path / out)
    assert (drawn.shape, drawn.dtype) == ((5, 2), torch.float32)
    assert torch.equal(drawn, genhub.sample(model, 5, seed=2, conditions=given))
    inks = [0.25, 0.5, 0.75, 0.25, 0.5]
    if out == "x.npz":
        arrays = np.load(tmp_path / out)
        assert np.array_equal(arrays["image"], drawn.numpy())
        assert arrays["label"].tolist() == [3, 0, 3, 0, 3]
        assert arrays["ink"].tolist() == inks
        assert np.array_equal(arrays["source"], np.stack([source[..., None]] * 5))
    elif out == "x.parquet":
        rows = datasets.Dataset.from_parquet(str(tmp_path / out))
        assert rows["image"][:] == drawn.tolist()
        assert rows.features["label"].int2str(rows["label"][:]) == ["10", "1", "10", "1", "10"]
        assert rows["ink"][:] == inks
        assert np.array_equal(np.asarray(rows[3]["source"]), source)
    else:
        with (tmp_path / out).open(newline="") as stream:
            lines = list(csv.reader(stream))
        assert lines[0] == ["image_0", "image_1", "label", "ink"]  # an image would be a file
        assert np.array_equal(np.array([line[:2] for line in lines[1:]], dtype=np.float32), drawn.numpy())
        assert [line[2:] for line in lines[1:]] == [
            [name, str(ink)] for name, ink in zip(["10", "1"] * 3, inks, strict=False)
        ]


def test_numbers_have_names_in_a_table(tmp_path: Path) -> None:
    model = make(Vector(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0), names=("width", "height")), label=LABEL)
    genhub.sample(model, 2, out=tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().splitlines()[0] == "width,height,label"
    with pytest.raises(genhub.InputError, match="--out [^\n]*folder: give x.png .a picture., x.npz, x.parquet or x.csv$"):
        genhub.sample(model, 2, out=tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    genhub.sample(model, 4, out=tmp_path / "x.png")
    with Picture.open(tmp_path / "x.png") as picture:
        assert picture.width > 50


def test_other_conditions_are_another_drawing(tmp_path: Path) -> None:
    model = make(label=LABEL, ink=INK)
    genhub.sample(model, 2, conditions={"ink": 0.5}, out=tmp_path / "folder")
    genhub.sample(model, 4, conditions={"ink": [0.5]}, out=tmp_path / "folder")  # more of the same
    for other in ({"ink": 0.4}, {}, {"ink": 0.5, "label": "3"}):
        with pytest.raises(genhub.InputError, match="holds other things than these rows"):
            genhub.sample(model, 2, conditions=other, out=tmp_path / "folder")
    assert json.loads((tmp_path / "folder" / "samples.json").read_text())["conditions"] == {
        "label": [0, 1, 2, 3], "ink": [0.5]}  # fmt: skip


# With the model


def test_names_are_kept_with_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(cls=ConditionalGAN, label=LABEL).save_pretrained(tmp_path / "model")
    genhub.load(tmp_path / "model").save_pretrained(tmp_path / "again")
    assert sample_to(tmp_path / "again", None, tmp_path / "drawn", conditions={"label": "10,2"}, device="cpu") == 2
    assert "Can be told label: one of 1, 2, 3, 10" in capsys.readouterr().out
    assert json.loads((tmp_path / "drawn" / "samples.json").read_text())["conditions"] == {"label": [3, 1]}
    sample_to(tmp_path / "again", 4, tmp_path / "drawn.npz", device="cpu")
    assert np.load(tmp_path / "drawn.npz")["label"].tolist() == [0, 1, 2, 3]
    card = Card(read_manifest(tmp_path / "model"), tmp_path / "model").text()
    assert "conditions={'label': ['1', '3']}" in card
    assert "| `label` | one of 1, 2, 3, 10 | `1` |" in card
    assert "unconditional" not in card


def test_the_card_asks_for_what_fits(tmp_path: Path) -> None:
    model = make(label=Label(number=3), ink=INK, place=PLACE, source=Image(shape=(1, 8, 8)))
    model.save_pretrained(tmp_path)
    card = Card(read_manifest(tmp_path), tmp_path).text()
    assert "conditions={'label': ['0', '1'], 'ink': [0.0, 1.0], 'place': ['1 0']}, seed=0" in card  # no file is known
    assert "conditions=" not in Card(read_manifest(_saved(tmp_path / "plain", make())), tmp_path / "plain").text()
    points = Card(read_manifest(_saved(tmp_path / "points", make(PLACE))), tmp_path / "points").text()
    assert "image" not in points.partition("## Versions")[0].replace("image_", "")


def _saved(folder: Path, model: genhub.GenerativeModel) -> Path:
    model.save_pretrained(folder)
    return folder


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(cls=ConditionalGAN, label=LABEL).save_pretrained("model")
    said = CliRunner().invoke(cli.app, ["sample", "model", "--condition", "label=10,3", "--out", "x.npz", "--device", "cpu"])
    assert said.stdout == "Can be told label: one of 1, 2, 3, 10\n2 drawn: x.npz\n", said.exception
    assert np.load("x.npz")["label"].tolist() == [3, 2]
    info = CliRunner().invoke(cli.app, ["info", "model"]).stdout
    assert yaml.safe_load(info)["can be told"] == {"label": "one of 1, 2, 3, 10"}
    for words in (["sample", "model"], ["evaluate", "model"], ["show", "classes", "model"]):
        result = CliRunner().invoke(cli.app, [*words, "--labels", "10"])
        assert isinstance(result.exception, genhub.InputError), result.output
        assert str(result.exception) == "--labels: is --condition now: --condition label=10, by the name of the column"
