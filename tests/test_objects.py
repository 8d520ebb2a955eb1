"""Python objects as data: read once, kept by their content, found again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from image_files import bytes_of, class_names, labels, noise, table
from PIL import Image as Picture
from test_trainer import metrics, same_bits

import genhub
from genhub.data.objects import OBJECT, stored_name
from genhub.data.open import load_data, open_data
from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "objects"


class Items(torch.utils.data.Dataset[Any]):
    """A data set as torch's users write them."""

    def __init__(self, item: Any, n: int = 6) -> None:
        self.item, self.n, self.asked = item, n, list[int]()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, number: int) -> Any:
        self.asked.append(number)
        return self.item(number)


IMAGES = np.stack([noise(number, channels=1) for number in range(6)])


@pytest.mark.parametrize(
    ("data", "target", "kind"),
    [
        (Items(lambda n: {"image": IMAGES[n], "label": n % 2}), "image", "image"),
        (Items(lambda n: (torch.full((3,), float(n)), n % 2)), "x", "vector"),
        (Items(lambda n: torch.full((3,), float(n))), "x", "vector"),
        (Items(lambda n: Picture.fromarray(IMAGES[n])), "image", "image"),
        (np.arange(12, dtype=np.float32).reshape(6, 2), "x", "vector"),
        (torch.arange(12.0).reshape(6, 2), "x", "vector"),
        ({"image": IMAGES, "ink": IMAGES.mean((1, 2))}, "image", "image"),
        ([Picture.fromarray(image) for image in IMAGES], "image", "image"),
        (table(6), "image", "image"),
    ],
)
def test_objects_of_every_kind(data: Any, target: str, kind: str, cache: Path) -> None:
    found = load_data(data)
    assert (found.spec.target, found.spec.modality.modality, found.num_rows) == (target, kind, 6)
    if isinstance(data, Items):
        assert data.asked == list(range(6))  # once, and in order
    if kind == "image" and not isinstance(data, datasets.Dataset):
        np.testing.assert_array_equal(bytes_of(found)[:, 0], IMAGES)
    (file,) = cache.glob("*.arrow")
    assert found.config.name == f"{OBJECT}{file.stem}"
    assert load_data(found.config).spec == found.spec  # by its name alone
    assert stored_name(data) == found.config.name
    assert [entry.name for entry in cache.iterdir()] == [file.name]


def test_a_pandas_frame_keeps_its_types() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, None], "b": [4.0, 5.0, 6.0], "kind": ["x", "y", "x"]})
    columns = {"p": {"from": ["a", "b"], "modality": "vector"}, "kind": "label"}
    data = load_data(frame, ("kind",), columns=columns)
    assert data.num_rows == 2
    assert data.own([1])[0].tolist() == pytest.approx([2, 5])
    assert class_names(data) == ("x", "y")
    assert labels(data) == [0, 1]


def test_a_shuffled_table_keeps_its_order_and_its_classes() -> None:
    shuffled = table(8).shuffle(seed=3)
    data = load_data(shuffled, ("label",))
    assert labels(data) == shuffled["label"][:]
    assert class_names(data) == ("even", "odd")
    np.testing.assert_array_equal(bytes_of(data)[0], np.asarray(shuffled[0]["image"]).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            7,
            "data: can't be an object of class int; it takes a datasets.Dataset, a torch Dataset of dicts, tuples or tensors, ",
        ),
        (iter([1]), "data: can't be an object of class list_iterator; it takes "),
        ([], "data: there are no rows"),
        ([object()], "data: column 'x' holds a object; a row has numbers, arrays, texts or PIL images"),
        ({"a": [1, 2], "b": [1]}, "data: its columns have different lengths: a 2, b 1"),
        (
            datasets.DatasetDict(train=table(2), test=table(2)),
            "data: a DatasetDict has several splits, train, test; give one",
        ),
        (Items(lambda n: 1 / (n - 2)), "data: a Items whose rows can't be read: division by zero"),
    ],
)
def test_what_can_not_be_read_is_one_line(data: Any, message: str, cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_data(data)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not list(cache.iterdir())  # nothing half-written is left


def test_an_object_that_is_gone_and_one_that_is_streamed() -> None:
    data = load_data(np.zeros((4, 2), np.float32) + np.arange(4)[:, None])
    with pytest.raises(DataError, match="data.streaming: a Python object is read once, and not streamed"):
        open_data(DataConfig(name=data.config.name, streaming=True))
    (Path(os.environ["GENHUB_CACHE"]) / "objects" / f"{str(data.config.name).removeprefix(OBJECT)}.arrow").unlink()
    with pytest.raises(
        DataError, match=f"data.name: {data.config.name}: the rows of this Python object are not in .* any more"
    ):
        load_data(data.config)


def test_training_on_an_object_goes_on_without_it(tiny: dict[str, Any], tmp_path: Path) -> None:
    images = {"image": np.stack([noise(number, 8, 8, channels=1) for number in range(40)])}
    genhub.train(tiny, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"), data=images)
    parts = genhub.train(str(tmp_path / "parts" / "recipe.yaml"), ["trainer.max_steps=6"], run_dir=str(tmp_path / "parts"))
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"), data=images)
    same_bits(whole, parts)
    assert metrics(tmp_path / "whole")[-1] == metrics(tmp_path / "parts")[-1]
