"""Every network, given columns of genhub's own modalities."""

from __future__ import annotations

import itertools

import pytest
import torch
from genhub_networks import MLP, DiT, UNet, UNet1d
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from genhub import Conditioner, Conditions, Image, Label, Modality, Number, RecipeError, Signal, Vector, guided

COLUMNS: dict[str, Modality] = {
    "label": Label(number=3, names=("a", "b", "c")),
    "ink": Number(mean=0.2, std=0.1, low=0.0, high=0.5),
    "point": Vector(shape=(2,), mean=(0.0, 1.0), std=(1.0, 2.0)),
    "photo": Image(shape=(1, 4, 4)),
    "wave": Signal(shape=(2, 8), mean=(0.0, 0.0), std=(1.0, 1.0)),
}
NETWORKS = [
    (UNet, (3, 8, 8), {"block_out_channels": (16, 16)}),
    (UNet1d, (1, 16), {"block_out_channels": (16, 16)}),
    (DiT, (1, 8, 8), {"hidden_size": 24, "depth": 1}),
    (DiT, (1, 8), {"hidden_size": 24, "depth": 1}),
    (DiT, (1, 4, 4, 4), {"hidden_size": 24, "depth": 1}),
    (MLP, (5,), {"hidden": 16, "depth": 1}),
]
GIVEN = [*itertools.combinations(COLUMNS, 1), ("label", "ink"), tuple(COLUMNS)]


def rows(names, n, present=True) -> Conditions:
    generator = torch.Generator().manual_seed(0)
    values = {}
    for name in names:
        modality = COLUMNS[name]
        shape = (n, *modality.shape)
        values[name] = torch.randn(shape, generator=generator)
        if modality.classes:
            values[name] = torch.randint(modality.classes, shape, generator=generator)
    return Conditions(values, {name: torch.full((n,), present) for name in names})


def built(cls, shape, names, **keys):
    torch.manual_seed(0)
    config = cls.Config(**keys)
    conditioner = Conditioner({name: COLUMNS[name] for name in names}, shape, config.width, config.takes)
    network = cls(config, shape, conditioner)
    for weight in (*network.parameters(), *conditioner.parameters()):
        weight.data += 0.02 * torch.randn_like(weight)
    return network, conditioner


@pytest.mark.parametrize("names", GIVEN, ids="-".join)
@pytest.mark.parametrize(
    ("cls", "shape", "keys"), NETWORKS, ids=[f"{cls.__name__}-{len(shape) - 1}" for cls, shape, _ in NETWORKS]
)
def test_any_column_is_told(cls, shape, keys, names):
    network, conditioner = built(cls, shape, names, **keys)
    x, t, present = torch.randn(3, *shape), torch.tensor([1.0, 500.0, 999.0]), rows(names, 3)
    nothing = conditioner(Conditions.nothing({name: COLUMNS[name] for name in names}, 3))
    told, untold = network(x, t, conditioner(present)), network(x, t, nothing)
    assert told.shape == untold.shape == x.shape
    for name in names:
        gone = {each: torch.full((3,), each == name) for each in names}
        assert not torch.allclose(told, network(x, t, conditioner(present.without(gone)))), name
    assert torch.equal(untold, network(x, t, conditioner(present.without(torch.ones(3, dtype=torch.bool)))))
    guidance = guided(network, x, t, conditioner(present), nothing, 2.0)
    torch.testing.assert_close(guidance, 2 * told - untold, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("cls", "shape", "names", "parts"),
    [
        (UNet, (3, 8, 8), ("label",), {"label"}),
        (UNet, (3, 8, 8), ("label", "photo"), {"label", "spatial"}),
        (UNet, (3, 8, 8), ("label", "wave"), {"vector"}),
        (UNet, (3, 8, 8), ("ink", "point"), {"vector"}),
        (UNet1d, (1, 16), ("label", "photo"), {"vector"}),
        (UNet1d, (1, 16), ("wave",), {"spatial"}),
        (DiT, (1, 4, 4, 4), ("photo",), {"vector"}),
        (MLP, (5,), ("photo", "wave", "label"), {"vector"}),
    ],
)
def test_the_part_that_a_column_gives(cls, shape, names, parts):
    assert built(cls, shape, names)[1].gives == parts


@pytest.fixture
def one_process():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Whole(nn.Module):
    def __init__(self, network, conditioner):
        super().__init__()
        self.network, self.conditioner = network, conditioner

    def forward(self, x, t, conditions):
        return self.network(x, t, self.conditioner(conditions))


@pytest.mark.parametrize(
    ("cls", "shape", "keys"), NETWORKS, ids=[f"{cls.__name__}-{len(shape) - 1}" for cls, shape, _ in NETWORKS]
)
def test_ddp_finds_no_unused_weight(cls, shape, keys, one_process):
    """DDP refuses the second step if the first left a weight without a gradient."""
    network, conditioner = built(cls, shape, tuple(COLUMNS), **keys)
    wrapped = DistributedDataParallel(Whole(network, conditioner))
    for present in (True, False, True):
        wrapped(torch.randn(2, *shape), None, rows(tuple(COLUMNS), 2, present)).sum().backward()


def test_ddp_would_find_one(one_process):
    network, conditioner = built(MLP, (5,), ("ink",), hidden=16)
    network.idle = nn.Linear(1, 1)
    wrapped = DistributedDataParallel(Whole(network, conditioner))
    wrapped(torch.randn(2, 5), None, rows(("ink",), 2)).sum().backward()
    with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
        wrapped(torch.randn(2, 5), None, rows(("ink",), 2))


@pytest.mark.parametrize("names", [("label",), tuple(COLUMNS)], ids="-".join)
@pytest.mark.parametrize(
    ("cls", "shape", "keys"), NETWORKS, ids=[f"{cls.__name__}-{len(shape) - 1}" for cls, shape, _ in NETWORKS]
)
def test_half_the_precision_as_drawing_has_it(cls, shape, keys, names):
    """`dtype: bfloat16` turns all weights, and draws under autocast from noise and conditions of 32 bits."""
    network, conditioner = built(cls, shape, names, **keys)
    x, t, conditions = torch.randn(2, *shape), torch.tensor([100.0, 700.0]), rows(names, 2)
    whole = network(x, t, conditioner(conditions))
    network, conditioner = network.bfloat16(), conditioner.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x, t, conditioner(conditions))
    torch.testing.assert_close(half.float(), whole, rtol=0.1, atol=0.15)


def test_what_no_network_can_be_given_names_its_column():
    class Mute(Vector):
        condition = Modality.condition

    with pytest.raises(RecipeError, match="^model.conditions: noise: a vector can't be a condition$"):
        Conditioner({"noise": Mute(shape=(1,), mean=(0,), std=(1,))}, (1, 8, 8), 16, DiT.Config.takes)
