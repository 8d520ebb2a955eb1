"""Whether what is drawn is what was asked for: numbers that a function of it tells, labels by what is made from them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import genhub
from genhub import ModelConfig
from genhub.data.open import load_data
from genhub.errors import DataError
from genhub.evaluation.evaluate import measure
from genhub.evaluation.given import given_rows
from genhub.evaluation.measurement import Measurement
from genhub.sampling.request import Drawing
from genhub.testing.metric_checks import NoiseModel

pytestmark = pytest.mark.usefixtures("module_cache")

NO_SPLIT = DataError("none")
HELD_OUT = {"data": "digits", "split": "train[80%:]"}


def measured(conditions: tuple[str, ...], rolled: int = 0, n: int = 60, reference=None, **data) -> Measurement:
    """Measurement of a model that draws the very rows whose conditions it is given, or others."""
    rows = load_data(conditions=conditions, **data)
    reference = reference or rows
    model = NoiseModel(ModelConfig(conditions=conditions, data=rows.spec.model_data))
    drawing, whole = given_rows(Drawing(n), model, [rows])
    numbers = np.resize(whole.numbers, n)
    return Measurement(
        model, reference, NO_SPLIT, "values", drawing, lambda: rows.own(np.roll(numbers, rolled)), rows_of=whole
    )


def test_ink_is_read_in_what_is_drawn():
    """Rows with their own ink are exact up to the rounding of pixels, with another's no better than chance."""
    exact, other = (measure(measured(("ink",), rolled, 300, **HELD_OUT), ["condition_error"], 0) for rolled in (0, 1))
    assert exact.values.keys() == {"condition_error", "condition_error_ink"}
    assert exact.values["condition_error_ink"] < 5e-4
    assert exact.values["condition_error"] < 0.01
    assert other.values["condition_error"] == pytest.approx(1, abs=0.15)
    ink = load_data(**HELD_OUT).column("ink").kept(range(359)).double()
    chance = float((ink[:300, None] - ink).abs().mean())
    share = other.values["condition_error_ink"] / other.values["condition_error"]
    assert share == pytest.approx(chance, rel=0.05)
    (note,) = (note for note in other.notes if note.startswith("condition_error_ink: "))
    assert f"{share:.4g} would be chance, rows that have nothing to do with what was asked for; real rows are " in note


def test_what_a_person_asks_for_is_compared():
    data = load_data(conditions=("ink",), **HELD_OUT)
    model = NoiseModel(ModelConfig(conditions=("ink",), data=data.spec.model_data))
    drawing = Drawing.of(model, 4, {}, conditions={"ink": [0.2, 0.5]})
    drawn = torch.full((4, 1, 8, 8), 51, dtype=torch.uint8)  # a fifth of 255
    found = measure(Measurement(model, data, NO_SPLIT, "pixels", drawing, lambda: drawn), ["condition_error"], 0)
    assert found.values["condition_error_ink"] == pytest.approx(0.15, abs=1e-6)


def test_numbers_of_a_vector_and_derived_columns_are_told():
    both = measured(("alcohol", "proline"), data="wine", target="features")
    found = measure(both, ["condition_error"], 0).values
    assert found == pytest.approx(
        {"condition_error": 0, "condition_error_alcohol": 0, "condition_error_proline": 0}, abs=1e-5
    )
    far = measure(measured(("alcohol",), 1, data="wine", target="features"), ["condition_error"], 0).values
    assert 0.3 < far["condition_error_alcohol"] < 1.5  # in its own units, of 11 to 15
    columns = {"big": {"from": "image", "size": 16}, "amount": {"from": "ink", "modality": "number"}}
    derived = measured(("amount",), target="big", columns=columns, **HELD_OUT)
    assert measure(derived, ["condition_error"], 0).values["condition_error_amount"] < 0.01


def test_numbers_that_nobody_can_tell_are_said(tmp_path):
    with pytest.raises(genhub.InputError, match="metric 'condition_error': nobody knows a function .* asked for: label$"):
        measure(_by_classes(), ["condition_error"], 0)
    np.savez(tmp_path / "x.npz", image=np.zeros((9, 8, 8), np.uint8), price=np.arange(9) / 7)
    priced = measured(("price",), data=str(tmp_path / "x.npz"))
    with pytest.raises(genhub.InputError, match="nobody knows a function of what is drawn that tells .*: price"):
        measure(priced, ["condition_error"], 0)
    data = load_data(**HELD_OUT)
    plain = NoiseModel(ModelConfig(data=data.spec.model_data))
    with pytest.raises(genhub.InputError, match="metric 'condition_error': the model is given nothing"):
        measure(Measurement(plain, data, NO_SPLIT, "pixels", Drawing(9), lambda: data.own(range(9))), ["condition_error"], 0)


def _by_classes() -> Measurement:
    data = load_data(conditions=("label",), **HELD_OUT)
    model = NoiseModel(ModelConfig(conditions=("label",), data=data.spec.model_data))
    return Measurement(model, data, NO_SPLIT, "pixels", Drawing(20), lambda: data.own(range(20)))


MADE_FROM_LABEL = {
    "caption": {
        "from": "label",
        "templates": ["a {}", "the digit {}"],
        "words": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    },
    "digit": {"from": "label", "modality": "number"},
}


@pytest.mark.parametrize("name", MADE_FROM_LABEL)
def test_labels_are_known_of_what_is_made_from_them(name):
    columns = {name: MADE_FROM_LABEL[name]}
    right, wrong = (measured((name,), rolled, columns=columns, **HELD_OUT) for rolled in (0, 1))
    labels = right.reference.labels.kept(right.rows_of.numbers)
    assert torch.equal(right.labels_asked[0], labels)
    for subject, rolled in ((right, 0), (wrong, 1)):  # read by one that makes no mistakes
        subject.probe = SimpleNamespace(accuracy=1.0, fingerprint="none")
        subject.probabilities = torch.nn.functional.one_hot(labels.roll(rolled), 10).float()
        expected = float((labels.roll(rolled) == labels).double().mean())
        assert measure(subject, ["label_accuracy"], 0).values == {"label_accuracy": expected}
    assert expected < 0.3
    asked = Drawing.of(right.model, 4, {}, conditions={name: ["3"]})
    by_hand = Measurement(right.model, right.reference, NO_SPLIT, "values", asked, right.draw)
    message = f"what {name} says of the label is known of whole rows of the data alone"
    with pytest.raises(genhub.InputError, match=message):
        measure(by_hand, ["label_accuracy"], 0)


def test_labels_of_another_split_are_told_by_name(tmp_path):
    """One that lacks a class numbers the others otherwise."""
    names = {"train": ["10", "20", "30", "40"], "test": ["20", "30", "50"]}
    for split, words in names.items():
        values = np.arange(len(words) * 10) % len(words)
        label = np.array(words, dtype=object)[values].astype(str)
        np.savez(tmp_path / f"{split}.npz", image=np.zeros((len(label), 8, 8), np.uint8), label=label)
    columns = {"kind": {"from": "label", "modality": "number"}}
    reference = load_data(str(tmp_path / "train.npz"), columns=columns, conditions=("kind",))
    subject = measured(("kind",), n=30, reference=reference, data=str(tmp_path / "test.npz"), columns=columns)
    labels, there = subject.labels_asked
    held_out = subject.rows_of.data.column("label")
    said = [held_out.modality.caption(value) for value in held_out.kept(subject.rows_of.numbers)]
    assert [reference.labels.modality.caption(label) for label in labels[there]] == [word for word in said if word != "50"]
    assert there.sum() == 20
