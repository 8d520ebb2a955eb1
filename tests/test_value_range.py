"""Values that don't fill their type's range: what is said of them, and `data.value_range`."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from image_files import bytes_of, fault, load, save
from PIL import Image

import genhub
from genhub.data.open import load_data, open_data
from genhub.interfaces.columns import DataConfig
from genhub.recipe.recipe import read_recipe

KINDS = {
    "12 bits in 16": (np.arange(4096, dtype=np.uint16), ".png", (0, 4095)),
    "14 bits in 16": (np.arange(0, 16384, 4, dtype=np.uint16), ".tif", (0, 16380)),
    "int32": (np.arange(-1000, 3096, dtype=np.int32), ".tif", (-1000, 3095)),
    "float": (np.linspace(-2, 2, 4096, dtype=np.float32), ".tif", (-2, 2)),
    "masks": (np.arange(4096, dtype=np.uint8) % 4, ".png", (0, 3)),
}


def images(folder: Path, kind: str) -> tuple[Path, tuple[float, float]]:
    """Two images that together have all the values: neither has both ends."""
    values, suffix, span = KINDS[kind]
    values = np.sort(values).reshape(2, 32, 64)
    for number, half in enumerate(values):
        save(folder / f"{number}{suffix}", Image.fromarray(half))
    return folder, span


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_auto_and_said(tmp_path: Path, kind: str, in_memory: bool) -> None:
    folder, span = images(tmp_path, kind)
    data = load(folder, image={"value_range": "auto"}, in_memory=in_memory)
    assert data.spec.modality.value_range == span
    values = np.sort(KINDS[kind][0]).reshape(2, 1, 32, 64).astype(float)
    expected = ((values - span[0]) * (255 / (span[1] - span[0]))).round()
    np.testing.assert_array_equal(bytes_of(data), expected)
    said = load(folder, image={"value_range": span}, in_memory=in_memory)
    np.testing.assert_array_equal(bytes_of(said), expected)
    assert said.spec.fingerprint == data.spec.fingerprint
    assert not data.notes


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("kind", ["12 bits in 16", "14 bits in 16", "masks"])
def test_a_range_that_is_not_used_is_said(tmp_path: Path, kind: str, in_memory: bool) -> None:
    folder, (low, high) = images(tmp_path, kind)
    (note,) = load(folder, in_memory=in_memory).notes
    assert f"its values are {low} to {high}, and 0 to {255 if kind == 'masks' else 65535} are taken" in note
    assert f"data.columns.image.value_range=auto, or =[{low},{high}], scales them" in note


@pytest.mark.parametrize("kind", ["int32", "float"])
def test_values_that_could_mean_anything(tmp_path: Path, kind: str) -> None:
    folder, _ = images(tmp_path, kind)
    assert "value_range: auto scales them" in fault(folder)


def test_a_range_that_is_used_is_not_spoken_of(tmp_path: Path) -> None:
    save(tmp_path / "16.png", Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)))
    save(tmp_path / "8.png", Image.fromarray(np.full((8, 8), 7, np.uint8)))  # one image may be flat
    for in_memory in (True, False):
        assert not load(tmp_path, in_memory=in_memory).notes


def test_what_lies_beyond_is_cut_off(tmp_path: Path) -> None:
    save(tmp_path / "x.tif", Image.fromarray(np.array([[-5000, -1000, 400, 3000]], np.int32)))
    assert bytes_of(load(tmp_path, image={"value_range": [-1000, 400]})).ravel().tolist() == [0, 0, 255, 255]


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    save(tmp_path / "0.tif", Image.fromarray(np.array([[0.0, np.nan]], np.float32)))
    save(tmp_path / "1.tif", Image.fromarray(np.array([[0.0, np.inf]], np.float32)))
    save(tmp_path / "2.tif", Image.fromarray(np.array([[-3.0, 5.0]], np.float32)))
    assert fault(tmp_path, image={"value_range": "auto"}).startswith("data.columns.image: 2 of 3 rows can't be read: ")
    data = load(tmp_path, image={"value_range": "auto"}, on_error="skip")
    assert data.spec.modality.value_range == (-3, 5)
    assert [text.split(": ")[1] for _, text in data.skipped] == ["has values that are not finite"] * 2


def test_ranges_that_are_none(tmp_path: Path) -> None:
    save(tmp_path / "x.png", np.full((4, 4), 9, np.uint8))
    message = fault(tmp_path, image={"value_range": "auto"})
    assert message == "data.columns.image: value_range: auto: all images hold the value 9 alone; give [low, high]"
    for wrong in ([5, 5], [9, 1], "all", [1], [0, float("nan")]):
        column = {"modality": "image", "value_range": wrong}
        with pytest.raises(genhub.RecipeError, match=r"data\.columns\.image\.value_range"):
            read_recipe({"model": {"name": "vae"}, "data": {"columns": {"image": column}}})


def test_arrays_of_other_types(tmp_path: Path) -> None:
    arrays = np.linspace(-1, 1, 50, dtype=np.float32).reshape(2, 5, 5)
    features = datasets.Features(pixels=datasets.Array2D((5, 5), "float32"))
    datasets.Dataset.from_dict({"pixels": list(arrays)}, features).to_parquet(str(tmp_path / "a.parquet"))
    assert fault(tmp_path / "a.parquet").startswith("data.columns.pixels: holds float32; arrays must be uint8")
    data = load(tmp_path / "a.parquet", columns={"pixels": {"value_range": "auto"}})
    assert data.spec.modality.value_range == (-1, 1)
    np.testing.assert_allclose(data.x([0, 1]).numpy()[:, 0], arrays, atol=1 / 255)


def test_a_stream(tmp_path: Path) -> None:
    folder, span = images(tmp_path / "x", "12 bits in 16")
    rows = {"image": [{"bytes": file.read_bytes(), "path": None} for file in sorted(folder.iterdir())]}
    datasets.Dataset.from_dict(rows, datasets.Features(image=datasets.Image())).to_parquet(str(tmp_path / "x.parquet"))
    keys = {"name": str(tmp_path / "x.parquet"), "streaming": True, "num_workers": 0, "batch_size": 2}
    assert "its values are 0 to 4095" in open_data(DataConfig(**keys)).notes[0]
    stream = open_data(DataConfig(**keys, columns={"image": {"value_range": "auto"}}))
    assert stream.spec.modality.value_range == span
    images_ = next(stream.batches(seed=0)).x
    assert (images_.min(), images_.max()) == (-1, 1)


def test_the_range_goes_with_the_model(tmp_path: Path, tiny: dict, capsys: pytest.CaptureFixture[str]) -> None:
    _, span = images(tmp_path / "set" / "train", "12 bits in 16")
    save(tmp_path / "set" / "test" / "0.png", Image.fromarray(np.full((32, 64), 2048, np.uint16)))
    tiny |= {"model": {"name": "vae", "channels": [4], "latent_dim": 2}}
    tiny["data"] = {"name": str(tmp_path / "set"), "columns": {"image": {"value_range": "auto"}}, "batch_size": 2}
    tiny["trainer"] |= {"max_steps": 1, "save_every": 1}
    checkpoint = genhub.train(tiny)
    assert "black 0, white 4095" in capsys.readouterr().out
    genhub.train(tiny, ["trainer.max_steps=2"])  # goes on, and finds the same
    model = genhub.load(checkpoint)
    assert model.modality.value_range == span
    genhub.sample(model, 2, out=tmp_path / "x.npz")
    assert np.load(tmp_path / "x.npz")["image_value_range"].tolist() == [0, 4095]
    recipe = read_recipe(checkpoint / "recipe.yaml")
    config = recipe.data.model_copy(update={"split": "test"})
    held_out = load_data(config, known=model.config.data)  # as evaluation reads it
    assert bytes_of(held_out)[0, 0, 0, 0] == 128
