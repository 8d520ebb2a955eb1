"""The U-Net against diffusers' own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from genhub_networks import UNet
from parts import Asked, built, conditions, modalities
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from genhub import CheckpointError, Conditioner, Conditions, Given, RecipeError
from genhub.errors import first_fault

SMALL = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
PLAIN = SMALL | {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}


def network_and(parts=(), shape=(1, 8, 8), out_channels=None, **keys):
    """Return a network as it is drawn from seed 0, and its conditioner, drawn before."""
    config = UNet.Config(**SMALL | keys)
    torch.manual_seed(1)
    conditioner = Conditioner(modalities(*parts), shape, config.width, config.takes)
    torch.manual_seed(0)
    return UNet(config, shape, conditioner, out_channels), conditioner


def own(**keys):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**{"sample_size": 8, "in_channels": 1, "out_channels": 1} | PLAIN | keys)


@pytest.mark.parametrize(
    ("parts", "keys"),
    [((), {}), (("label",), {"num_class_embeds": 6}), (("vector",), {"class_embed_type": "identity"}), (("spatial",), {"in_channels": 3})],
)  # fmt: skip
def test_it_is_diffusers_own_to_the_bit(parts, keys):
    (network, conditioner), unet = network_and(parts), own(**keys)
    ours, theirs = network.unet.state_dict(), unet.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    x, t, given = torch.randn(4, 1, 8, 8), torch.tensor([0, 3, 500, 999]), conditioner(conditions(modalities(*parts), 4))
    inputs = x if given.spatial is None else torch.cat([x, given.spatial], 1)
    labels = given.label if given.vector is None else given.vector
    expected = unet(inputs, t, labels, return_dict=False)[0]
    assert torch.equal(network(x, t.float(), given), expected)
    assert torch.equal(network(x, t, given), expected)


def test_patches_are_channels_of_diffusers_own():
    network, _ = network_and(shape=(1, 8, 16), patch_size=2)
    unet = own(sample_size=(4, 8), in_channels=4, out_channels=4)
    x, t = torch.randn(3, 1, 8, 16), torch.tensor([0, 500, 999])
    patches = torch.nn.functional.pixel_unshuffle(x, 2)
    expected = torch.nn.functional.pixel_shuffle(unet(patches, t, return_dict=False)[0], 2)
    assert torch.equal(network(x, t, Given()), expected)


def test_more_output_channels():
    network, _ = network_and(out_channels=2)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 900])
    assert torch.equal(network(x, t.float(), Given()), own(out_channels=2)(x, t, return_dict=False)[0])


def test_a_row_without_its_label_is_the_last_class():
    network, conditioner = network_and(("label",))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 900.0])
    nothing = conditioner(Conditions.nothing(modalities("label"), 2))
    assert torch.equal(network(x, t, nothing), own(num_class_embeds=6)(x, t, torch.tensor([5, 5]), return_dict=False)[0])


@pytest.mark.parametrize(
    ("parts", "kind"),
    [((), "UNet2DModel"), (("label",), "UNet2DModel"), (("sequence", "vector"), "UNet2DConditionModel")],
)
def test_diffusers_opens_its_folder(parts, kind, tmp_path: Path):
    network, conditioner = network_and(parts, shape=(1, 8, 16))
    network.eval().save(tmp_path)
    network.unet.save_pretrained(tmp_path / "theirs")
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["_class_name"] == kind
    assert saved["sample_size"] == [8, 16]
    opened = getattr(diffusers, kind).from_pretrained(tmp_path)
    x, t, given = torch.randn(2, 1, 8, 16), torch.tensor([10.0, 800.0]), conditioner(conditions(modalities(*parts), 2))
    tokens = {}
    if given.sequence is not None:
        tokens = {"encoder_hidden_states": given.sequence, "encoder_attention_mask": given.mask}
    labels = given.label if given.vector is None else given.vector
    assert torch.equal(opened(x, t, class_labels=labels, return_dict=False, **tokens)[0], network(x, t, given))


def test_yesterdays_names_of_weights_are_read(tmp_path: Path):
    network, _ = network_and()
    network.save(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {}
    for name, tensor in load_file(file).items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{before}.")
        old[name] = tensor
    assert old.keys() != load_file(file).keys()
    save_file(old, file)
    other, _ = built(UNet, (1, 8, 8), **SMALL)
    other.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_another_networks_weights_are_refused(tmp_path: Path):
    network_and()[0].save(tmp_path)
    with pytest.raises(CheckpointError, match="class_embedding.weight is missing"):
        network_and(("label",))[0].load(tmp_path)


def test_tokens_that_are_not_there_change_nothing():
    network, conditioner = built(UNet, (1, 8, 8), ("sequence",), **SMALL)
    given = conditioner(conditions(modalities("sequence"), 2, present=False))
    assert given.mask.tolist() == [[True, False, False, False]] * 2
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([10.0, 800.0])
    before = network(x, t, given)
    unseen, seen = given.sequence.clone(), given.sequence.clone()
    unseen[:, 1:] += 1
    seen[:, 0] += 1
    assert torch.equal(before, network(x, t, Given(sequence=unseen, mask=given.mask)))
    assert not torch.allclose(before, network(x, t, Given(sequence=seen, mask=given.mask)))
    none = network(x, t, Given(sequence=seen, mask=torch.zeros_like(given.mask)))
    assert none.isfinite().all()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"add_attention": False}, "model.network.add_attention: a sequence of tokens can only be attended to; set it to true"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "model.network.down_block_types: SkipDownBlock2D can't be given a sequence of tokens; DownBlock2D can"),
        ({"up_block_types": ["UpBlock2D", "AttnSkipUpBlock2D"]}, "model.network.up_block_types: AttnSkipUpBlock2D can't be given a sequence of tokens; AttnUpBlock2D can"),
        ({"downsample_type": "resnet"}, "model.network.downsample_type: resnet is not for a network that is given tokens; leave it out"),
        ({"attn_norm_num_groups": 4}, "model.network.attn_norm_num_groups: 4 is not for a network that is given tokens; leave it out"),
        ({"time_embedding_type": "fourier"}, "model.network.time_embedding_type: fourier is not for a network that is given tokens; leave it out"),
    ],
)  # fmt: skip
def test_keys_that_a_network_with_tokens_lacks(keys, message):
    with pytest.raises(RecipeError) as caught:
        network_and(("sequence",), **keys)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "keys",
    [
        {"add_attention": False, "down_block_types": ["AttnDownBlock2D", "DownBlock2D"]},
        {"attention_head_dim": None},
        {"down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"]},
        {"resnet_time_scale_shift": "scale_shift", "act_fn": "gelu", "dropout": 0.1, "layers_per_block": 2, "center_input_sample": True},
        {"freq_shift": 1, "flip_sin_to_cos": False, "norm_eps": 1e-6, "mid_block_scale_factor": 1.5, "downsample_padding": 1},
    ],
)  # fmt: skip
def test_other_keys_hold_with_tokens(keys):
    network, conditioner = network_and(("sequence",), **keys)
    x, given = torch.randn(2, 1, 8, 8), conditioner(conditions(modalities("sequence"), 2))
    assert network(x, torch.tensor([10.0, 800.0]), given).shape == x.shape
    heads = network.unet.config.attention_head_dim
    assert list(heads) == ([1, 1] if "attention_head_dim" in keys else [2, 4])


def test_fourier_features_are_of_one_time():
    network, _ = network_and(time_embedding_type="fourier")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(network(x, torch.tensor([[5.0], [7.0]]), Given()), network(x, torch.tensor([5.0, 7.0]), Given()))
    with pytest.raises(
        RecipeError, match="^model.network.time_embedding_type: fourier embeds one time, not several; positional does$"
    ):
        network(x, torch.ones(2, 2), Given())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"block_out_channels": [8, 20]}, "block_out_channels: 20 does not divide by norm_num_groups 8; 16 does"),
        ({"block_out_channels": [4]}, "block_out_channels: 4 does not divide by norm_num_groups 8; 8 does"),
        ({"block_out_channels": [7], "norm_num_groups": 7}, "block_out_channels: must be even, 7 is not"),
        ({"block_out_channels": [16, 24], "attention_head_dim": 16}, "attention_head_dim: 16 does not divide 24 channels"),
        ({"block_out_channels": [8], "down_block_types": ["DownBlock2D"] * 2}, "down_block_types: 2 given for 1 levels of block_out_channels"),
        ({"up_block_types": ["UpBlock2D", "UpBlock"]}, "up_block_types.1: can't be 'UpBlock'; did you mean 'UpBlock2D'?"),
    ],
)  # fmt: skip
def test_a_configs_arithmetic(keys, message):
    with pytest.raises(ValidationError) as caught:
        UNet.Config.model_validate(keys)
    assert first_fault(caught.value) == message


@pytest.mark.parametrize(
    ("shape", "told", "near"),
    [((1, 15, 15), "15x15", 16), ((1, 8, 9), "8x9", 8), ((1, 1, 1), "1x1", 4), ((3, 30, 32), "30x32", 32)],
)
def test_sides_that_cannot_be_halved(shape, told, near):
    with pytest.raises(ValueError, match=".") as caught:
        UNet.Config(block_out_channels=(8, 8, 8)).check(shape)
    assert str(caught.value) == (
        f"block_out_channels: 3 levels need sides divisible by 4, these are {told}: set the column's size to {near} "
        "(data.columns), or use fewer levels"
    )


def test_sides_that_fit():
    UNet.Config(block_out_channels=(8, 8, 8)).check((1, 4, 12))
    UNet.Config(block_out_channels=(8,)).check((1, 1, 1))


@pytest.mark.slow
def test_import_costs_no_diffusers():
    code = "import sys, genhub_networks; genhub_networks.UNet.Config(); sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_labels_are_a_vector():
    config, asked = UNet.Config(**SMALL), {"a": Asked(shape=(), number=3), "b": Asked(shape=(), number=4)}
    conditioner = Conditioner(asked, (1, 8, 8), config.width, config.takes)
    network = UNet(config, (1, 8, 8), conditioner)
    assert network.unet.config.class_embed_type == "identity"
    assert network(torch.randn(2, 1, 8, 8), torch.ones(2), conditioner(conditions(asked, 2))).shape == (2, 1, 8, 8)
