"""Installed beside genhub, so that its name is registered: pip install . && pytest"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from genhub_volumes import Volume
from make_volumes import make_volumes
from safetensors.torch import load_file

import genhub

SIDE = 6
PLAIN = Volume(shape=(1, 10, 4, 4), mean=(0.0,), std=(1.0,), low=0.0, high=9.0)
RAMP = torch.arange(10.0).view(1, 1, 10, 1, 1).expand(1, 1, 10, 4, 4)
"""A volume whose slice i is i everywhere."""


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "volumes"
    make_volumes(folder, 20, SIDE)
    return folder


def recipe(volumes: Path, run_dir: Path, model: dict) -> dict:
    return {
        "model": model,
        "data": {"name": str(volumes), "batch_size": 8, "num_workers": 0},
        "trainer": {
            "max_steps": 6, "log_every": 1, "save_every": 3, "sample_every": 6, "num_samples": 4,
            "optimizer": {"name": "adam", "lr": 1.0e-3}, "device": "cpu",
        },
        "run_dir": str(run_dir),
        "seed": 0,
    }  # fmt: skip


SMALL_DIT = {"name": "dit", "patch_size": 3, "hidden_size": 24, "depth": 1, "num_heads": 2}
MODELS = {
    "ddpm": {"name": "ddpm", "conditions": ["label"], "network": SMALL_DIT, "sampling": {"num_inference_steps": 3}},
    "gan": {"name": "gan", "latent_dim": 4, "generator": {"channels": [8, 8]}, "discriminator": {"channels": [8, 8]}},
    "vae": {"name": "vae", "conditions": ["label"], "channels": [8, 8], "latent_dim": 4},
}


# The families as they are shipped


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_family_draws_volumes(volumes, tmp_path, name):
    folder = genhub.train(recipe(volumes, tmp_path / "run", MODELS[name]))
    model = genhub.load(folder)
    assert isinstance(model.modality, Volume)
    assert model.shape == (1, SIDE, SIDE, SIDE)
    drawn = genhub.sample(model, 3, seed=1, out=tmp_path / "drawn")
    assert drawn.shape == (3, *model.shape)
    assert drawn.dtype == torch.float32
    assert drawn.std() > 0
    files = sorted((tmp_path / "drawn").glob("*.npy"))
    assert np.array_equal(np.stack([np.load(file) for file in files]), drawn.numpy())
    for ending in ("npz", "parquet", "png"):
        genhub.sample(model, 3, seed=1, out=tmp_path / f"drawn.{ending}")
    assert torch.equal(genhub.load_data(str(tmp_path / "drawn")).kept(range(3)), drawn)
    assert torch.equal(genhub.load_data(str(tmp_path / "drawn.parquet"), target="volume").kept(range(3)), drawn)
    assert list((tmp_path / "run").rglob("*.png"))  # the previews of training
    model.save_pretrained(tmp_path / "copy")
    assert torch.equal(genhub.sample(tmp_path / "copy", 3, seed=1), drawn)


def test_a_run_goes_on_with_the_same_bits(volumes, tmp_path):
    whole = genhub.train(recipe(volumes, tmp_path / "whole", MODELS["ddpm"]))
    genhub.train(recipe(volumes, tmp_path / "parts", MODELS["ddpm"]), ["trainer.max_steps=3"])
    parts = genhub.train(recipe(volumes, tmp_path / "parts", MODELS["ddpm"]))
    weights = {file.relative_to(whole): load_file(file) for file in whole.rglob("*.safetensors")}
    assert weights
    for file, tensors in weights.items():
        found = load_file(parts / file)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(tensor, found[key]) for key, tensor in tensors.items()), file


@pytest.mark.parametrize("target", ["volume", "vector"])
def test_a_volume_as_a_condition(tmp_path, target):
    """Of another volume: channels beside it, resized; of a vector: a vector. A network that takes neither says which do."""
    rows = np.random.default_rng(0).normal(2, 3, (16, 4, 6, 6)).astype(np.float32)
    finer = rows.repeat(2, 1) if target == "volume" else rows
    data = {"scan": finer, "drawn": rows if target == "volume" else rows[:, 0, 0, :3]}
    keys = [
        f"data.columns={{scan: volume, drawn: {target}}}",
        "data.target=drawn",
        "model.conditions=[scan]",
        "model.condition_dropout=0.5",
    ]
    keys += [f"model.network={json.dumps(SMALL_DIT | {'patch_size': 2})}"] if target == "volume" else []
    plain = recipe(Path("unused"), tmp_path / "run", {"name": "ddpm", "sampling": {"num_inference_steps": 3}})
    del plain["data"]["name"]
    model = genhub.load(genhub.train(plain, keys, data=data))
    np.save(tmp_path / "scan.npy", finer[3])
    asked = genhub.sample(model, 2, conditions={"scan": str(tmp_path / "scan.npy")}, seed=1)
    assert torch.equal(asked, genhub.sample(model, 2, conditions={"scan": [finer[3]]}, seed=1))
    assert not torch.equal(asked, genhub.sample(model, 2, seed=1))
    with pytest.raises(genhub.InputError, match=r"a volume of 1 x \d x 6 x 6, not of 1 x 2 x 2 x 2"):
        genhub.sample(model, 2, conditions={"scan": [np.zeros((2, 2, 2))]})
    with pytest.raises(genhub.InputError, match=r"none\.npy: No such file"):
        genhub.sample(model, 2, conditions={"scan": "none.npy"})


# Data


def test_genhub_sees_what_a_folder_holds(volumes, tmp_path):
    command = [str(Path(sys.executable).with_name("genhub")), "data", str(volumes), "--out", str(tmp_path / "data.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "volume  volume    1x6x6x6" in done.stdout
    assert "cube: 10, sphere: 10" in done.stdout
    assert (tmp_path / "data.png").is_file()


def test_what_is_learnt_is_of_the_volumes(volumes):
    data = genhub.load_data(str(volumes), ["label"])
    raw = np.stack([np.load(file) for file in sorted(volumes.rglob("*.npy"))])
    modality = data.spec.modality
    assert modality.mean == pytest.approx((raw.mean(dtype=np.float64),))
    assert modality.std == pytest.approx((raw.std(dtype=np.float64),))
    assert (modality.low, modality.high) == (raw.min(), raw.max())
    assert np.array_equal(data.kept(range(20)).numpy()[:, 0], raw)
    x = data.x(range(20))
    assert (x.mean().item(), x.std(correction=0).item()) == pytest.approx((0, 1), abs=1e-5)
    assert modality.log_scale == pytest.approx(SIDE**3 * math.log(raw.std()))


def test_a_row_of_another_shape_is_told(tmp_path):
    for name, shape in {"a": (4, 4, 4), "b": (4, 4, 4), "c": (4, 4, 5)}.items():
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=shape))
    with pytest.raises(genhub.DataError, match=r"a\.npy\) is 1x4x4x4 but .*c\.npy\) is 1x4x4x5"):
        genhub.load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("array", "reason"),
    [(np.ones((3, 4)), r"not of shape \(3, 4\)"), (np.full((2, 2, 2), np.nan), "not finite"), (None, "")],
)
def test_a_damaged_file_is_named(tmp_path, array, reason):
    make_volumes(tmp_path, 4, SIDE)
    if array is None:
        (tmp_path / "cube" / "damaged.npy").write_bytes(b"no array")
    else:
        np.save(tmp_path / "cube" / "damaged.npy", array)
    with pytest.raises(genhub.DataError, match=rf"1 of 5 rows can't be read: .*damaged\.npy\): .*{reason}"):
        genhub.load_data(str(tmp_path))
    assert genhub.load_data(str(tmp_path), on_error="skip").spec.num_rows == 4


def test_an_array_of_volumes_is_recognised(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 2, 3, 4, 6)).astype(np.float32)
    np.save(tmp_path / "scans.npy", rows)
    data = genhub.load_data(str(tmp_path / "scans.npy"))
    assert data.spec.modality.shape == (2, 3, 4, 6)
    assert len(data.spec.modality.mean) == 2
    torch.testing.assert_close(data.spec.modality.from_batch(data.x(range(5))), torch.from_numpy(rows))


# The modality


def test_the_contract():
    from genhub.testing import check_modality

    check_modality(Volume, values=list(np.random.default_rng(0).normal(1, 2, (20, 3, 4, 5)).astype(np.float32)))


def test_a_picture_is_slices_side_by_side():
    pixels = np.array(PLAIN.picture(RAMP.expand(2, -1, -1, -1, -1), ["first", "second"]))
    frame = 2
    strip = pixels[frame : frame + 32, frame : frame + 5 * 33 - 1]
    for place, slice_ in enumerate([1, 3, 5, 7, 9]):
        assert (strip[:, place * 33 : place * 33 + 32] == round(slice_ / 9 * 255)).all()
    assert (strip[:, 32::33] == 128).all()  # lines between
    below = pixels[frame + 32 : frame + 45]
    assert (below > 200).any()  # a caption
    assert (pixels == 255).sum() > 2 * 32 * 32  # both volumes' last slices


def test_numbers_beyond_the_training_datas_are_black_and_white():
    pixels = np.array(PLAIN.picture(torch.stack([RAMP[0] - 100, RAMP[0] + 100])))
    assert pixels.shape == (2 + 2 * (32 + 2), 2 + 5 * 33 - 1 + 2)
    assert (pixels[2:34, 2:34] == 0).all()
    assert (pixels[36:68, 2:34] == 255).all()


def test_what_is_not_finite_is_not_shown():
    with pytest.raises(genhub.NotFinite, match="volumes: NaN"):
        PLAIN.from_batch(torch.full((1, *PLAIN.shape), torch.nan))


@pytest.mark.parametrize(("sides", "part"), [((5, 4, 3), "spatial"), ((8, 8), "vector"), ((), "vector")])
def test_rows_without_a_volume_have_a_learnt_part(sides, part):
    torch.manual_seed(0)
    embedding = PLAIN.condition(8, sides)
    assert embedding.gives == part
    torch.nn.init.normal_(embedding.nothing)
    present = torch.tensor([True, False, False])
    given = getattr(embedding(torch.randn(3, *PLAIN.shape), present), part)
    assert given.shape == ((3, embedding.channels, *sides) if part == "spatial" else (3, 8))
    assert torch.equal(given[1], given[2])
    assert not torch.equal(given[0], given[1])
    given.sum().backward()
    assert all(parameter.grad is not None for parameter in embedding.parameters())
