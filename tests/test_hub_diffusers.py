"""Repositories that plain diffusers wrote: read without their pickles, trained on, and none of their code imported."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import save
from test_hub import Files, said

import genhub


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What google/ddpm-cifar10-32 has: the network, the schedule and the index side by side, with attention's old names."""
    import diffusers
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("theirs")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 16), norm_num_groups=8, layers_per_block=1,
        attention_head_dim=None, freq_shift=1, flip_sin_to_cos=False, downsample_padding=0,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    unet.save_pretrained(folder)
    diffusers.DDPMScheduler(variance_type="fixed_large").save_pretrained(folder)
    index = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.1.1", "scheduler": ["diffusers", "DDPMScheduler"],
             "unet": ["diffusers", "UNet2DModel"]}  # fmt: skip
    old = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))
    weights = {}
    for key, tensor in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        for new, name in old:
            key = key.replace(f".{new}.", f".{name}.")
        weights[key] = tensor
    assert any(".proj_attn." in key for key in weights)
    texts = {name: (folder / name).read_bytes() for name in ("config.json", "scheduler_config.json")}
    return texts | {"model_index.json": json.dumps(index).encode(), "diffusion_pytorch_model.safetensors": save(weights)}


def test_a_repository_of_plain_diffusers(hub, theirs, tmp_path, monkeypatch) -> None:
    import diffusers

    monkeypatch.chdir(tmp_path)
    hub.add(
        "google/small", theirs | {"diffusion_pytorch_model.bin": b"\x80\x04pickle", "README.md": b"x", "a/b/c.json": b"{}"}
    )
    model = genhub.load("google/small")
    assert model.config.scheduler.variance_type == "fixed_large"
    assert hub.asked("GET", "bin$|README|c.json") == 0
    pipeline = diffusers.DDPMPipeline.from_pretrained("google/small", use_safetensors=True)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(model.network.unet(x, 7).sample, pipeline.unet.eval()(x, 7).sample)
    tuned = genhub.train(
        {"model": {"from": "google/small"}, "trainer": {"max_steps": 1, "trackers": [], "sample_every": None}}
    )
    assert genhub.load(tuned).config.network == model.config.network
    genhub.push_to_hub(tuned, "alice/tuned")
    assert "base_model: google/small" in hub.repos["alice/tuned"].files["README.md"].decode()


def test_pickles_are_refused_with_the_way_to_convert_them(hub, theirs, tmp_path, capsys) -> None:
    only = {name: content for name, content in theirs.items() if not name.endswith(".safetensors")}
    hub.add("google/old", only | {"diffusion_pytorch_model.bin": b"\x80\x04pickle"})
    message = said(capsys, "sample", "google/old")
    assert message.startswith("google/old: its weights are a pickle (diffusion_pytorch_model.bin)")
    assert "DDPMPipeline.from_pretrained('google/old').save_pretrained('FOLDER')" in message
    assert hub.asked("GET", "bin$") == hub.asked("HEAD", "bin$") == 0
    for name, content in (only | {"diffusion_pytorch_model.bin": b"\x80\x04pickle"}).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(genhub.CheckpointError, match="its weights are a pickle"):
        genhub.load(tmp_path)


def test_case_24_an_index_that_names_a_module_imports_nothing(hub, theirs) -> None:
    for index in ({"unet": ["antigravity", "fly"]}, {"_class_name": ["this", "Model"]}, {"unet": "this"}, []):
        known = {"_class_name": "DDPMPipeline", "scheduler": ["this", "s"]}
        hub.add(
            "eve/index", theirs | {"model_index.json": json.dumps(index and known | index).encode(), "config.json": b"{}"}
        )
        with pytest.raises(genhub.CheckpointError, match="^eve/index: "):
            genhub.load("eve/index")
    assert not {"antigravity", "this"} & set(sys.modules)
    hub.add("eve/other", {"model_index.json": b'{"_class_name": "StableDiffusionPipeline"}'})
    with pytest.raises(
        genhub.CheckpointError, match="holds a StableDiffusionPipeline, which no plugin reads; .*DDPMPipeline"
    ):
        genhub.load("eve/other")
