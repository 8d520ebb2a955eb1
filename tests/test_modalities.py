"""Modalities: what each column is taken for, what is learnt of it, and the way of its values to a batch and back."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from genhub import Image, Label, Modality, Number, Signal, Text, Vector
from genhub.data.raw import Classes, Numbers, StoredColumn, as_objects
from genhub.errors import NotFinite
from genhub.interfaces.modality import AnyModality

BUILT_IN = {"image": Image, "label": Label, "number": Number, "signal": Signal, "text": Text, "vector": Vector}
SINGLE = st.floats(-1e6, 1e6, width=32)


def column(values: list[Any], feature: Any = None) -> StoredColumn:
    return StoredColumn("x", "data", as_objects(values), feature)


def learnt(kind: type[Modality], values: list[Any], feature: Any = None, **options: Any) -> Any:
    return kind.learn(column(values, feature), kind.Options(**options))


def there_and_back(modality: Modality, kept: torch.Tensor) -> torch.Tensor:
    return modality.from_batch(modality.to_batch(kept))


# What a column is


@pytest.mark.parametrize(
    ("feature", "values", "kind"),
    [
        (datasets.Image(decode=False), [{"bytes": b"", "path": None}], "image"),
        (datasets.Array2D((4, 4), "uint8"), [np.zeros((4, 4), np.uint8)], "image"),
        (datasets.Array2D((4, 4), "float32"), [np.zeros((4, 4), np.float32)], "image"),
        (datasets.Array3D((3, 4, 4), "uint8"), [np.zeros((3, 4, 4), np.uint8)], "image"),
        (None, ["a.png", "b.JPG"], "image"),
        (None, [np.zeros((4, 4), np.uint8), None], "image"),
        (None, [np.zeros((4, 4, 3), np.uint16)], "image"),
        (datasets.Audio(decode=False), [{"bytes": b"", "path": None}], "signal"),
        (None, ["a.wav", "b.WAV"], "signal"),
        (None, [[[0.5, 1.0], [0.0, 0.0]]], "signal"),
        (None, [np.zeros((2, 9), np.float32)], "signal"),
        (datasets.Sequence(datasets.Value("float32")), [[0.5, 1.0], None, [1.0, 2.0]], "vector"),
        (None, [np.zeros(3), np.ones(3)], "vector"),
        (None, [[1, 2], [3, 4]], "vector"),
        (Numbers(("a", "b")), [np.zeros(2)], "vector"),
        (datasets.ClassLabel(names=["a", "b"]), ["a", "b", None], "label"),
        (Classes(("a", "b")), ["a", "b"], "label"),
        (datasets.Value("bool"), [True, False], "label"),
        (datasets.Value("int64"), [0, 5, None, 3] * 9, "label"),
        (datasets.Value("string"), ["red", "blue", None] * 9, "label"),
        (None, ["red", "blue"] * 9, "label"),
        (datasets.Value("int64"), list(range(21)), "number"),
        (datasets.Value("int64"), [-1, 0, 1], "number"),
        (datasets.Value("float32"), [0.0, 1.0, None], "number"),
        (datasets.Value("float64"), [1, 2.5], "number"),
        (datasets.Value("string"), ["a red hat", "two dogs", None], "text"),
        (datasets.Value("large_string"), ["a red hat", "two dogs"], "text"),
        (datasets.Value("string"), ["a.png", "b.png"], "text"),
        (datasets.Value("timestamp[s]"), ["x"], None),
        (None, [[1, 2], [3]], None),
        (None, [["a", "b"]], None),
        (None, [np.zeros((2, 2, 2, 2))], None),
        (None, [{"a": 1}], None),
        (None, [None], None),
        (None, [], None),
    ],
)
def test_a_column_is_of_one_kind(feature: Any, values: list[Any], kind: str | None) -> None:
    found = [name for name, cls in BUILT_IN.items() if cls.recognise(feature, values)]
    assert found == ([kind] if kind else [])


# What is learnt


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (Number, [1.0, None, 3.0], Number(mean=2, std=1, low=1, high=3)),
        (Number, [0.1] * 3, Number(mean=float(np.float32(0.1)), std=1, low=float(np.float32(0.1)), high=float(np.float32(0.1)))),
        (Number, [1, float("inf"), 3, "x"], Number(mean=2, std=1, low=1, high=3)),
        (Vector, [[1.0, 5.0], None, (3.0, 5.0)], Vector(shape=(2,), mean=(2, 5), std=(1, 1))),
        (Vector, [np.array([0.3]), np.array([0.3]), torch.tensor([0.3])],
         Vector(shape=(1,), mean=(float(np.float32(0.3)),), std=(1,))),
        (Text, ["é", None, "abc"], Text(shape=(3,))),
        (Text, ["", ""], Text(shape=(1,))),
        (Label, ["b", None, "a", "b"], Label(number=2, names=("a", "b"))),
        (Label, [10, 9, None], Label(number=2, names=("9", "10"))),
    ],
)  # fmt: skip
def test_what_is_missing_or_damaged_counts_for_nothing(kind: type[Modality], values: list[Any], expected: Modality) -> None:
    assert learnt(kind, values) == expected


def test_names_of_a_vectors_numbers() -> None:
    assert learnt(Vector, [np.zeros(2), np.ones(2)], Numbers(("a", "b"))).names == ("a", "b")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Number, [None, None], "no row has a value"),
        (Number, [None, "x"], "no value can be read: row 1: could not convert string to float: 'x'"),
        (Number, [float("inf")], "no value can be read: row 0: is not finite, or beyond 3.4e38"),
        (Number, [[1, 2]], "no value can be read: row 0: float() argument must be a string or a real number, not 'list'"),
        (Vector, [[1, 2], [1, 2, 3]], "has vectors of 2 and of 3 numbers; they must all be as long"),
        (Vector, [[[1, 2]]], "no value can be read: row 0: must be a list of numbers, not of shape (1, 2)"),
        (Vector, [[1, 1e300]], "no value can be read: row 0: has values that are not finite, or beyond 3.4e38"),
        (Text, [3], "no value can be read: row 0: must be a text, not a int"),
        (Label, [-1], "no value can be read: row 0: -1 is no class: integers are from 0 on"),
        (Signal, [[[["x"]]]], "no value can be read: row 0: could not convert string to float: 'x'"),
        (Image, ["nowhere.png"], "1 of 1 images can't be read: row 0: the file is missing"),
    ],
)
def test_a_column_that_is_no_such_thing(kind: type[Modality], values: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        learnt(kind, values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("modality", "value", "message"),
    [
        (Vector(shape=(2,), mean=(0, 0), std=(1, 1)), [1, 2, 3], "must be 2 numbers, not 3"),
        (Vector(shape=(2,), mean=(0, 0), std=(1, 1)), "1 x", "could not convert string to float: 'x'"),
        (Number(mean=0, std=1, low=0.06, high=0.42), "much", "must be a number, 0.06 to 0.42 in the training data"),
        (Number(mean=0, std=1, low=0.06, high=0.42), "nan", "must be a number, 0.06 to 0.42 in the training data"),
        (Image(shape=(1, 4, 4)), "nowhere.png", "no such file: nowhere.png"),
        (Image(shape=(1, 4, 4)), "tests", "tests: no regular file"),
        (Image(shape=(1, 4, 4)), "pyproject.toml", "pyproject.toml: not an image of a known format"),
        (Signal(shape=(1, 4), mean=(0,), std=(1,)), "nowhere.wav", "no such file: nowhere.wav"),
        (Signal(shape=(1, 4), mean=(0,), std=(1,)), "pyproject.toml", "pyproject.toml: not a WAV, FLAC, OGG or MP3 file; convert it to one"),
    ],
)  # fmt: skip
def test_what_nobody_can_ask_for(modality: Modality, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        modality.ask(value)
    assert str(caught.value) == message


def test_what_can_be_asked_for() -> None:
    number, vector = Number(mean=0.2, std=0.1, low=0.1, high=0.3), Vector(shape=(2,), mean=(0, 0), std=(1, 1))
    assert [number.ask(part) for part in number.split("0.2, 7,-1e3")] == [np.float32(0.2), 7, -1000]  # nothing is clipped
    assert [vector.ask(part).tolist() for part in vector.split("0.5 1, 2;3")] == [[0.5, 1], [2, 3]]
    text = Text(shape=(9,))
    assert text.split("a, b") == ["a, b"]
    assert text.caption(torch.from_numpy(text.ask("a, b"))) == "a, b"


# To a batch and back


@settings(deadline=None)
@given(values=st.lists(SINGLE, min_size=1, max_size=20))
def test_numbers_there_and_back(values: list[float]) -> None:
    modality = learnt(Number, values)
    kept = torch.from_numpy(np.array([modality.read(value) for value in values]))
    assert torch.equal(kept, torch.from_numpy(modality.read_all(np.array(values))))
    near = 1e-6 * max(1e-30, kept.abs().max().item())
    torch.testing.assert_close(there_and_back(modality, kept), kept, atol=near, rtol=0)
    assert abs(modality.to_batch(kept).mean()) < 1e-3 or len(set(values)) == 1


@settings(deadline=None)
@given(
    values=st.integers(1, 4).flatmap(lambda d: st.lists(st.lists(SINGLE, min_size=d, max_size=d), min_size=1, max_size=9))
)
def test_vectors_there_and_back(values: list[list[float]]) -> None:
    modality = learnt(Vector, values)
    kept = torch.from_numpy(np.stack([modality.read(value) for value in values]))
    assert torch.equal(kept, torch.from_numpy(modality.read_all(np.array(values))))
    again = there_and_back(modality, kept)
    assert ((again - kept).abs() <= 1e-6 * kept.abs().amax(0).clamp(min=1e-30)).all()
    assert torch.isfinite(modality.to_batch(kept)).all()


@settings(deadline=None)
@given(text=st.text(max_size=20), length=st.integers(1, 30))
def test_texts_there_and_back(text: str, length: int) -> None:
    modality = Text(shape=(length,))
    kept = torch.from_numpy(modality.read(text))[None]
    (again,) = modality.to_rows(there_and_back(modality, kept))
    content = text.encode(errors="replace").decode()
    assert content.rstrip("\0").startswith(again)
    assert again == content.rstrip("\0") or len(content.encode()) > length


@settings(deadline=None)
@given(values=st.lists(st.text(max_size=5) | st.integers(0, 2**70) | st.booleans(), min_size=1, max_size=20))
def test_labels_there_and_back(values: list[Any]) -> None:
    modality = learnt(Label, values)
    kept = torch.tensor([int(modality.read(value)) for value in values])
    assert [modality.caption(number) for number in there_and_back(modality, kept)] == [str(value) for value in values]
    assert set(kept.tolist()) == set(range(modality.classes))


def test_densities_are_in_the_columns_own_units() -> None:
    """log N(y; mean, std) = log N(x; 0, 1) - log_scale."""
    vector = Vector(shape=(2,), mean=(1, 2), std=(3, 0.5))
    kept = torch.tensor([[0.5, 2.5]])
    own = torch.distributions.Normal(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.5])).log_prob(kept).sum()
    batch = torch.distributions.Normal(0.0, 1.0).log_prob(vector.to_batch(kept)).sum()
    assert torch.isclose(own, batch - vector.log_scale)
    assert Signal(shape=(1, 5), mean=(0,), std=(2,)).log_scale == pytest.approx(5 * np.log(2))
    assert Image(shape=(1, 2, 2)).log_scale == 0


@pytest.mark.parametrize("name", ["image", "number", "signal", "vector"])
def test_what_is_not_finite_has_no_picture(name: str) -> None:
    modality = EXAMPLES[name]
    with pytest.raises(NotFinite, match="NaN or infinity"):
        modality.from_batch(torch.full((2, *modality.shape), float("nan")))


# Stored, seen and written

EXAMPLES: dict[str, Modality] = {
    "image": Image(shape=(3, 8, 8), value_range=(0, 4095), bits=16),
    "label": Label(number=2, names=("a", "b")),
    "number": Number(mean=0.5, std=2, low=0, high=9),
    "signal": Signal(shape=(2, 25), mean=(0, 1), std=(1, 2), rate=8000),
    "text": Text(shape=(5,)),
    "vector": Vector(shape=(3,), mean=(0, 1, 2), std=(1, 2, 3), names=("a", "b", "c")),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_stored_as_json(name: str) -> None:
    adapter: TypeAdapter[Modality] = TypeAdapter(AnyModality)
    assert adapter.validate_json(adapter.dump_json(EXAMPLES[name])) == EXAMPLES[name]


@pytest.mark.parametrize(
    "stored",
    [
        {"modality": "vector", "shape": [2], "mean": [0], "std": [1, 1]},
        {"modality": "vector", "shape": [1], "mean": [0], "std": [0]},
        {"modality": "number", "std": 0},
        {"modality": "signal", "shape": [1, 4], "mean": [0], "std": [-1]},
        {"modality": "label", "number": 3, "names": ["a"]},
        {"modality": "image", "shape": [1, 0, 4]},
        {"modality": "image", "shape": [1, 4]},
        {"modality": "image", "shape": [1, 4, 4], "bits": 12},
    ],
)
def test_stored_values_that_make_no_sense(stored: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AnyModality).validate_python(stored)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_kind_has_a_picture_and_words(name: str) -> None:
    modality = EXAMPLES[name]
    kept = torch.ones(6, *modality.shape, dtype=getattr(torch, modality.dtype))
    picture = modality.picture(there_and_back(modality, kept), ["cat", "a very long caption\nof two lines", ""])
    assert min(picture.size) > 20
    assert len(set(picture.convert("L").tobytes())) > 1
    assert modality.told()
    assert isinstance(modality.caption(kept[0]), str)
    assert {type(each) for each in modality.facts().values()} <= {int, float, str, list}


@pytest.mark.parametrize("name", ["label", "number", "signal", "text", "vector"])
def test_rows_of_a_table(name: str) -> None:
    modality = EXAMPLES[name]
    kept = torch.ones(3, *modality.shape, dtype=getattr(torch, modality.dtype))
    own = there_and_back(modality, kept)
    features = datasets.Features(x=modality.feature())
    rows = datasets.Dataset.from_dict({"x": modality.to_rows(own)}, features).with_format(None)["x"]
    assert list(rows) == modality.to_rows(own)
    if name != "text":
        assert torch.equal(modality.from_rows(rows), own)
    assert torch.equal(modality.from_array(modality.to_array(own)), own)


def test_points_are_a_scatter_in_the_colours_of_their_captions() -> None:
    plane = Vector(shape=(2,), mean=(0, 0), std=(1, 1))
    points = torch.randn(50, 2)
    plain, coloured = plane.picture(points), plane.picture(points, ["a", "b"])
    assert plain.size == coloured.size
    assert plain.tobytes() != coloured.tobytes()


def test_a_picture_of_texts_takes_them_as_they_are() -> None:
    text = Text(shape=(40,))
    kept = torch.from_numpy(np.stack([text.read(each) for each in ["$5 {and $6", "日本語", "_hidden", "$", "\\frac"]]))
    assert min(text.picture(kept).size) > 20


def test_modalities_are_imported_without_torch_or_pictures() -> None:
    names = ", ".join(f"genhub.modalities.{name}" for name in BUILT_IN)
    code = f"import sys, {names}; print([m for m in ('torch', 'PIL', 'matplotlib', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
