"""What the verbs and the Python API share: from a recipe to objects, and from a folder to pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import genhub
from genhub.run.prepare import prepare


def test_train_takes_a_recipe_object_with_overrides(tiny, tmp_path):
    read = genhub.read_recipe(tiny)
    folder = genhub.train(read, ["trainer.max_steps=2"], run_dir=str(tmp_path / "other"))
    assert folder == tmp_path / "other" / "checkpoints" / "step-000002"


def test_the_seed_decides_the_first_weights(tiny):
    weights = [prepare(genhub.read_recipe(tiny, [f"seed={seed}"])).model.network.unet.conv_in.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_left_out_images_are_listed(tiny, tmp_path, capsys):
    for i in range(3):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    tiny["data"] = {"name": str(tmp_path), "batch_size": 2, "on_error": "skip"}
    genhub.train(tiny, ["trainer.max_steps=1"])
    said = capsys.readouterr().out
    assert "3 rows of image: image 1x8x8" in said
    assert f"left out row 3 ({tmp_path}/bad.png): not an image of a known format" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device 'gpu': "),
        ({"scheduler": "ddimm"}, "--set scheduler: no scheduler is called 'ddimm'; did you mean 'ddim'"),
        ({"num_inference_steps": 0}, "--set num_inference_steps: must be greater than or equal to 1, not 0"),
        ({"num_inference_steps": 5000}, "num_inference_steps: at most 1000, not 5000"),
        ({"eta": -1}, "--set eta: must be greater than or equal to 0"),
        ({"conditions": {"label": [1]}}, "--condition label: DDPM is given nothing; leave it out"),
        ({"out": "x.gif"}, "give x.png"),
    ],
)
def test_what_sample_refuses(tiny, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    folder = genhub.train(tiny, ["trainer.max_steps=1"])
    with pytest.raises(genhub.InputError, match=message):
        genhub.sample(folder, 1, **options)


def test_torch_built_for_a_gpu_that_is_not_there_works_on_the_cpu(tiny, tmp_path, monkeypatch):
    """pip's torch on Linux is built for CUDA, whatever the machine has."""

    def of_the_build(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", of_the_build)
    folder = genhub.train(tiny, ["trainer.max_steps=1"])
    genhub.sample(folder, 2, out=tmp_path / "a.npz")
    genhub.evaluate(folder, 100, metrics=["frechet_distance"], extractor="pixels")
    genhub.show("forward", folder, out=tmp_path / "a.png", n=1)


def test_run_folder_loads_its_newest_checkpoint(tiny):
    genhub.train(tiny)
    model = genhub.load(tiny["run_dir"])
    newest = genhub.load(Path(tiny["run_dir"]) / "checkpoints" / "step-000006")
    assert torch.equal(model.network.unet.conv_in.weight, newest.network.unet.conv_in.weight)
    assert not model.training
