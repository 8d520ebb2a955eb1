"""Networks of any kind: what all of them keep to, and how a recipe names one."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from genhub_networks import MLP, DiT, UNet, UNet1d
from parts import built, conditions, modalities
from pydantic import ValidationError

from genhub import (
    AnyNetwork,
    CheckpointError,
    Given,
    NetworkConfig,
    PluginError,
    RecipeError,
    Section,
    network_for,
    read_recipe,
)
from genhub.errors import first_fault
from genhub.interfaces.registry import NETWORKS, load_class, plugin_names

SMALL = [  # every network, with each number of sides that it takes
    (UNet, (1, 8, 8), {"block_out_channels": (8, 16)}),
    (UNet, (3, 4, 8), {"block_out_channels": (16,), "time_embedding_type": "fourier"}),
    (UNet, (2, 12, 6), {"block_out_channels": (8, 16), "patch_size": 3}),
    (UNet1d, (1, 16), {"block_out_channels": (8, 16, 16)}),
    (UNet1d, (2, 8), {"block_out_channels": (8, 16), "layers_per_block": 2, "add_attention": False}),
    (UNet1d, (2, 48), {"block_out_channels": (8, 16), "patch_size": 6}),
    (DiT, (2, 12), {"hidden_size": 24, "depth": 2, "patch_size": 3}),
    (DiT, (3, 8, 4), {"hidden_size": 24, "depth": 2}),
    (DiT, (1, 4, 4, 6), {"hidden_size": 24, "depth": 2, "patch_size": (2, 4, 3)}),
    (MLP, (5,), {"hidden": 16, "depth": 2}),
]
CASES = [
    (cls, shape, keys, parts)
    for cls, shape, keys in SMALL
    for count in range(4)
    for parts in itertools.combinations(sorted(cls.Config.takes), count)
    if not {"label", "vector"} <= set(parts)  # then a label is a vector
    and not ("sequence" in parts and "time_embedding_type" in keys)
]
LARGEST = [(*case, max((c[3] for c in CASES if c[:2] == case[:2]), key=len)) for case in SMALL]


def named(case):
    return "-".join([case[0].__name__, "x".join(map(str, case[1])), *case[3]])


def given_to(conditioner, parts, n, present=True):
    return conditioner(conditions(modalities(*parts), n, present))


@pytest.mark.parametrize(("cls", "shape", "keys", "parts"), CASES, ids=map(named, CASES))
def test_shapes_with_whatever_it_is_given(cls, shape, keys, parts):
    for out_channels in (None, 2 * shape[0]):
        network, conditioner = built(cls, shape, parts, out_channels, **keys)
        assert conditioner.gives == set(parts)
        for t in (None, torch.tensor([1.0, 500.5, 1000.0])):
            output = network(torch.randn(3, *shape), t, given_to(conditioner, parts, 3))
            assert output.shape == (3, out_channels or shape[0], *shape[1:])
            assert output.isfinite().all()


@pytest.mark.parametrize(("cls", "shape", "keys", "parts"), LARGEST, ids=map(named, LARGEST))
@pytest.mark.parametrize("present", [True, False])
def test_gradients_reach_every_weight(cls, shape, keys, parts, present):
    network, conditioner = built(cls, shape, parts, **keys)
    x, t = torch.randn(3, *shape), torch.tensor([1.0, 500.0, 900.0])
    network(x, t, given_to(conditioner, parts, 3, present)).square().sum().backward()
    moved = present or "sequence" not in parts  # with one token there is nothing to choose, which only rounding moves
    of_weights = [(name, weight.grad) for name, weight in network.named_parameters()]
    lacking = [name for name, gradient in of_weights if gradient is None or (moved and not gradient.any())]
    assert lacking == (["unet.time_proj.weight"] if keys.get("time_embedding_type") == "fourier" else [])
    assert all(weight.grad is not None for weight in conditioner.parameters())


@pytest.mark.parametrize(("cls", "shape", "keys", "parts"), LARGEST, ids=map(named, LARGEST))
def test_an_element_is_by_itself(cls, shape, keys, parts):
    network, conditioner = built(cls, shape, parts, **keys)
    x, t, given = torch.randn(4, *shape), torch.tensor([1.0, 300.0, 600.0, 900.0]), given_to(conditioner, parts, 4)
    whole = network(x, t, given)
    for row in range(4):
        part = slice(row, row + 1)
        alone = network(x[part], t[part], given.each(lambda tensor, part=part: tensor[part]))
        torch.testing.assert_close(alone, whole[part], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("cls", "shape", "keys", "parts"), LARGEST, ids=map(named, LARGEST))
def test_all_that_it_is_given_matters(cls, shape, keys, parts):
    network, conditioner = built(cls, shape, parts, **keys)
    x, t, given = torch.randn(2, *shape), torch.tensor([200.0, 400.0]), given_to(conditioner, parts, 2)
    output = network(x, t, given)
    assert not torch.allclose(output, network(x, t + 100, given))
    for part in parts:
        changed = {name: getattr(given, name) for name in vars(given)}
        changed[part] = (changed[part] + 1) % 5 if part == "label" else changed[part] + 1
        assert not torch.allclose(output, network(x, t, Given(**changed))), part


@pytest.mark.parametrize(("cls", "shape", "keys"), [case for case in SMALL if "time_embedding_type" not in case[2]])
def test_several_times_are_told_apart(cls, shape, keys):
    parts = ("sequence",) if "sequence" in cls.Config.takes else ()
    for asked in {(), parts}:
        network, conditioner = built(cls, shape, asked, **keys)
        x, given = torch.randn(2, *shape), given_to(conditioner, asked, 2)
        two = torch.tensor([[100.0, 700.0], [300.0, 300.0]])
        output = network(x, two, given)
        assert output.shape == x.shape
        swapped = network(x, two.flip(1), given)
        assert not torch.allclose(output[0], swapped[0])
        assert torch.allclose(output[1], swapped[1], atol=1e-5)
        assert torch.equal(network(x, two[:, :1], given), network(x, two[:, 0], given))
        torch.testing.assert_close(
            output[1], network(x, two[:, 0], given)[1], atol=1e-5, rtol=1e-5
        )  # two equal ones are one


@pytest.mark.parametrize(("cls", "shape", "keys", "parts"), LARGEST, ids=map(named, LARGEST))
def test_autocast(cls, shape, keys, parts):
    network, conditioner = built(cls, shape, parts, **keys)
    x, t, given = torch.randn(2, *shape), torch.tensor([200.0, 400.0]), given_to(conditioner, parts, 2)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x, t, given)
    torch.testing.assert_close(output.float(), network(x, t, given), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("cls", "shape", "keys", "parts"), LARGEST, ids=map(named, LARGEST))
def test_weights_of_half_the_precision(cls, shape, keys, parts):
    network, conditioner = built(cls, shape, parts, **keys)
    half, x, t = copy.deepcopy(network).bfloat16(), torch.randn(2, *shape), torch.tensor([200.0, 400.0])
    given = given_to(conditioner, parts, 2)
    halved = given.each(lambda tensor: tensor.bfloat16() if tensor.is_floating_point() else tensor)
    output = half(x.bfloat16(), t, halved)
    assert output.dtype == torch.float32 if "time_embedding_type" in keys else torch.bfloat16  # diffusers divides by t
    torch.testing.assert_close(output.float(), network(x, t, given), rtol=0.1, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "shape", "keys", "parts"), LARGEST, ids=map(named, LARGEST))
def test_compiled_is_the_same(cls, shape, keys, parts):
    network, conditioner = built(cls, shape, parts, **keys)
    x, t, given = torch.randn(2, *shape), torch.tensor([200.0, 400.0]), given_to(conditioner, parts, 2)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, given), network(x, t, given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("cls", "shape", "keys", "parts"), LARGEST, ids=map(named, LARGEST))
def test_saved_and_loaded_is_the_same_to_the_bit(cls, shape, keys, parts, tmp_path: Path):
    network, conditioner = built(cls, shape, parts, **keys)
    network.save(tmp_path / "network")
    other, _ = built(cls, shape, parts, **keys)
    for weight in other.parameters():
        weight.data.zero_()
    other.load(tmp_path / "network")
    x, t, given = torch.randn(2, *shape), torch.tensor([200.0, 400.0]), given_to(conditioner, parts, 2)
    assert torch.equal(other(x, t, given), network(x, t, given))
    wider, _ = built(cls, shape, parts, 2 * shape[0], **keys)
    with pytest.raises(CheckpointError, match="tensors don't fit"):
        wider.load(tmp_path / "network")


@pytest.mark.parametrize(("cls", "shape", "keys", "parts"), LARGEST, ids=map(named, LARGEST))
def test_a_copy_stands_alone(cls, shape, keys, parts):
    network, conditioner = built(cls, shape, parts, **keys)
    x, t, given = torch.randn(2, *shape), torch.tensor([200.0, 400.0]), given_to(conditioner, parts, 2)
    before, twin = network(x, t, given), copy.deepcopy(network)
    for weight in network.parameters():
        weight.data.zero_()
    assert torch.equal(twin(x, t, given), before)


# In a recipe


class Holder(Section):
    """A model's Config, as far as its network goes."""

    network: AnyNetwork | None = None


def fault(network):
    with pytest.raises(ValidationError) as caught:
        Holder(network=network)
    return first_fault(caught.value)


@pytest.mark.parametrize("name", ["dit", "mlp", "unet", "unet1d"])
def test_a_network_is_named_alone_or_with_its_keys(name):
    cls = load_class(NETWORKS, name)
    assert issubclass(cls.Config, NetworkConfig)
    assert cls.Config.takes <= {"label", "vector", "sequence", "spatial"}
    alone, spelled = Holder(network=name), Holder(network={"name": name})
    assert alone == spelled
    assert type(alone.network) is cls.Config
    assert alone.network == cls.Config()
    assert Holder.model_validate_json(alone.model_dump_json()) == alone


def test_keys_are_the_named_networks_own():
    held = Holder(network={"name": "dit", "patch_size": [2, 4], "hidden_size": 64})
    assert held.network.patch_size == (2, 4)
    assert held.network.width == 64
    assert Holder.model_validate_json(held.model_dump_json()) == held


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("unte", "network: name: no network is called 'unte'; did you mean 'unet'? (others come by pip install)"),
        ({"name": "ditt"}, "network: name: no network is called 'ditt'; did you mean 'dit'? (others come by pip install)"),
        ({"depth": 3}, "network: name: must name a network; known: dit, mlp, unet, unet1d"),
        ({"name": 3}, "network: name: must name a network; known: dit, mlp, unet, unet1d"),
        ({"name": "dit", "depht": 3}, "network.depht: unknown key"),  # the recipe's reader adds the nearest
        ({"name": "dit", "depth": 0}, "network.depth: must be greater than or equal to 1, not 0"),
        ({"name": "dit", "depth": True}, "network.depth: must be a valid integer, not True"),
        ({"name": "dit", "hidden_size": 130}, "network: hidden_size: 130 does not divide by num_heads 4; 128 does"),
        ({"name": "dit", "hidden_size": 4}, "network: hidden_size: must be at least 6, for the places of patches along three sides"),
        ({"name": "unet1d", "block_out_channels": [12]}, "network: block_out_channels: 12 does not divide by norm_num_groups 8; 16 does"),
        ({"name": "unet1d", "block_out_channels": [24], "attention_head_dim": 16}, "network: attention_head_dim: 16 does not divide 24 channels; 12 does"),
        ({"name": "mlp", "hidden": 1.5}, "network.hidden: must be a valid integer, not 1.5"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(network, message):
    assert fault(network) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.network.block_out_chanels=[8]", "model.network.block_out_chanels: unknown key; did you mean 'block_out_channels'?"),
        ("model.network={name: dit, depht: 3}", "model.network.depht: unknown key; did you mean 'depth'?"),
        ("model.network=dti", "model.network.name: no network is called 'dti'; did you mean 'dit'? (others come by pip install)"),
        ("model.network.block_out_channels=[8, 20]", "model.network.block_out_channels: 20 does not divide by norm_num_groups 8; 16 does"),
    ],
)  # fmt: skip
def test_a_recipes_mistake_has_its_key_and_the_nearest_name(override, message):
    with pytest.raises(RecipeError) as caught:
        read_recipe("digits-ddpm", [override])
    assert message in str(caught.value)


def test_a_recipe_names_a_network_alone_or_with_its_keys():
    assert read_recipe("digits-ddpm", ["model.network={name: dit, depth: 2}"]).model.network == DiT.Config(depth=2)
    assert read_recipe("digits-ddpm", ["model.network=dit"]).model.network == DiT.Config()


@pytest.mark.parametrize(("sides", "name"), [(0, "mlp"), (1, "unet1d"), (2, "unet"), (3, "dit")])
def test_the_shape_decides_where_none_is_named(sides, name):
    assert network_for(sides) == name


def test_no_network_is_for_any_shape():
    with pytest.raises(PluginError, match="^no installed network is for data of 4 sides; name one: model.network$"):
        network_for(4)


@pytest.mark.parametrize(
    ("name", "keys", "shape", "message"),
    [
        ("mlp", {}, (1, 8, 8), "name: mlp is for vectors, not for the 2 of 1x8x8; unet and dit are for these"),
        ("unet", {}, (5,), "name: unet is for 2 sides, not for the 0 of 5; mlp is for vectors"),
        ("unet1d", {}, (1, 4, 4, 4), "name: unet1d is for 1 side, not for the 3 of 1x4x4x4; dit is for these"),
        ("dit", {}, (1, 4, 4, 4, 4), "name: dit is for 1 or 2 or 3 sides, not for the 4 of 1x4x4x4x4; no network here is for these"),
        ("dit", {"patch_size": 5}, (1, 8, 8), "patch_size: 5 does not divide the side 8; 4 does"),
        ("dit", {"patch_size": 3}, (1, 7), "patch_size: 3 does not divide the side 7; 1 does"),
        ("dit", {"patch_size": [2, 3]}, (1, 8, 8), "patch_size: 3 does not divide the side 8; 2 does"),
        ("dit", {"patch_size": [2, 2]}, (1, 8), "patch_size: 2 sides given, for data of 1"),
        ("unet", {"patch_size": 3}, (1, 12, 16), "block_out_channels: 2 levels of patches of 3 need sides divisible by 6, these are 12x16: set the column's size to 18 (data.columns), or use fewer levels"),
        ("unet1d", {}, (1, 30), "block_out_channels: 3 levels need a length divisible by 4, this is 30: set the column's length to 32 (data.columns), or use fewer levels"),
        ("unet1d", {}, (1, 1), "block_out_channels: 3 levels need a length divisible by 4, this is 1: set the column's length to 4 (data.columns), or use fewer levels"),
        ("unet1d", {"patch_size": 5}, (1, 36), "block_out_channels: 3 levels of patches of 5 need a length divisible by 20, this is 36: set the column's length to 40 (data.columns), or use fewer levels"),
    ],
)  # fmt: skip
def test_a_shape_that_does_not_fit_is_one_line(name, keys, shape, message):
    with pytest.raises(ValueError, match=".") as caught:
        Holder(network={"name": name, **keys}).network.check(shape)
    assert str(caught.value) == message


def test_build_takes_the_class_by_its_name():
    network = DiT.Config(hidden_size=24, depth=1).build((1, 8), built(DiT, (1, 8), hidden_size=24)[1], 2)
    assert type(network) is DiT
    assert network(torch.zeros(1, 1, 8), None, Given()).shape == (1, 2, 8)


def test_every_network_is_tested_here():
    assert {cls for cls, *_ in SMALL} >= {load_class(NETWORKS, name) for name in ("dit", "mlp", "unet", "unet1d")}
    assert {"dit", "mlp", "unet", "unet1d"} <= set(plugin_names(NETWORKS))
