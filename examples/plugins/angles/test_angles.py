"""Installed beside genhub, so that its names are registered: pip install . && pytest"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from genhub_angles import Angle, MixtureDensity
from pydantic import ValidationError
from safetensors.torch import load_file

import genhub
from genhub import Batch, Conditions, ModelData, Vector
from genhub.testing import check_modality, check_model

RECIPE = Path(__file__).parent / "recipe.yaml"
QUICK = [
    "trainer.max_steps=400",
    "trainer.sample_every=null",
    "trainer.save_every=400",
    "trainer.trackers=[]",
    "trainer.device=cpu",
]
POINT = Vector(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> MixtureDensity:
    torch.manual_seed(0)
    return genhub.load(genhub.train(RECIPE, QUICK, run_dir=tmp_path_factory.mktemp("angles") / "run"))


def make(given: dict | None = None, **keys) -> MixtureDensity:
    torch.manual_seed(0)
    given = {"angle": {"modality": "angle"}} if given is None else given
    values = {"name": "mixture-density", "conditions": list(given), "data": {"target": POINT, "conditions": given}, **keys}
    return MixtureDensity(MixtureDensity.Config.model_validate(values)).eval()


def asked(*angles: float | None) -> Conditions:
    values = torch.tensor([angle or 0.0 for angle in angles])
    return Conditions({"angle": Angle().to_batch(values)}, {"angle": torch.tensor([a is not None for a in angles])})


def directions(points: torch.Tensor) -> torch.Tensor:
    return torch.rad2deg(torch.atan2(points[:, 1], points[:, 0]))


def test_they_keep_the_contract():
    check_modality(Angle, [0, 90.5, -1, 359.99, (0.0, 1.0), 720])
    data = ModelData(column="point", target=POINT, conditions={"angle": Angle()})
    check_model(MixtureDensity, {"components": 4, "hidden": 16}, data=data)


def test_angles_are_a_circle_s():
    angle = Angle()
    for given, kept in [(-1, 359), (361, 1), ("90", 90), (720, 0), (-1e-9, 0), ((0, -2), 270), (np.float32([-3, 0]), 180)]:
        assert angle.read(given).dtype == np.float32
        assert angle.read(given) == kept
    for wrong in ["north", math.nan, math.inf, (0, 0), (1, 2, 3), None]:
        with pytest.raises((TypeError, ValueError)):
            angle.read(wrong)
    with pytest.raises(ValueError, match="must be an angle in degrees, 0 to 360"):
        angle.ask("north")
    kept = torch.tensor([0.0, 1.0, 90.0, 359.0])
    torch.testing.assert_close(angle.from_batch(angle.to_batch(kept)), kept)
    with pytest.raises(genhub.NotFinite):
        angle.from_batch(torch.tensor([math.nan]))
    assert angle.split("359, 1") == ["359", "1"]
    assert angle.caption(kept[2]) == "90 deg"
    assert angle.picture(kept).size == (200, 200)


def test_an_embedding_knows_no_seam():
    torch.manual_seed(0)
    embedding, there = Angle().condition(16, ()), torch.ones(3, dtype=torch.bool)
    before, after, far = embedding(Angle().to_batch(torch.tensor([359.99, 0.01, 180.0])), there).vector
    torch.testing.assert_close(before, after, atol=1e-3, rtol=0)
    assert (before - far).abs().max() > 0.1
    nowhere = embedding(torch.zeros(3), ~there).vector
    assert torch.equal(nowhere, embedding.nothing.expand(3, -1))


def test_the_density_is_a_mixture_of_gaussians():
    """Its integral over the plane is 1, what is drawn has its moments, and bits are of the column's own units."""
    model = make(components=3, hidden=8)
    with torch.no_grad():
        model.network.layers[-1].bias.normal_(0, 0.7)
    side = torch.linspace(-12, 12, 241)
    grid = torch.cartesian_prod(side, side)
    turn = asked(*[40.0] * len(grid))
    bits = model.bits_per_dimension(Batch(grid, turn))
    density = 2 ** (-2 * bits)
    assert (density.sum() * 0.1**2).item() == pytest.approx(1, abs=1e-3)
    with torch.no_grad():
        drawn = model.sample(20_000, conditions=asked(*[40.0] * 20_000), generator=torch.Generator().manual_seed(0))
    mean = (density[:, None] * grid).sum(0) * 0.1**2
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.var(0), (density[:, None] * grid.square()).sum(0) * 0.01 - mean**2, atol=0.1, rtol=0.05)
    wider = MixtureDensity(model.config.model_copy(update={"data": model.config.data.model_copy(
        update={"target": model.modality.model_copy(update={"std": (4.0, 1.0)})})}))  # fmt: skip
    wider.load_state_dict(model.state_dict())
    torch.testing.assert_close(wider.bits_per_dimension(Batch(grid, turn)), bits + 1)  # log2(4) over 2 numbers


def test_points_lie_in_the_direction_asked_for(trained):
    told = torch.arange(0.0, 360.0, 0.5)
    with torch.no_grad():
        points = trained.sample(720, conditions=asked(*told.tolist()), generator=torch.Generator().manual_seed(0))
    points = trained.modality.from_batch(points)
    off = (directions(points) - told + 180) % 360 - 180
    assert off.abs().median() < 5
    assert off.abs().quantile(0.95) < 20
    radius = points.norm(dim=1)
    assert ((radius - 0.5).abs() < 0.2).float().mean() > 0.35  # both circles, at every angle
    assert ((radius - 1).abs() < 0.2).float().mean() > 0.35


def test_359_is_near_1(trained):
    with torch.no_grad():
        drawn = [
            trained.sample(64, conditions=asked(*[angle] * 64), generator=torch.Generator().manual_seed(0)).median(0).values
            for angle in (359.0, 1.0, 181.0)
        ]
    assert (drawn[0] - drawn[1]).norm() < 0.15 < 1 < (drawn[0] - drawn[2]).norm()


def test_without_an_angle_it_draws_any(trained):
    for conditions in (None, asked(*[None] * 400)):
        with torch.no_grad():
            points = trained.sample(400, conditions=conditions, generator=torch.Generator().manual_seed(0))
        counts = torch.histc(directions(points), 4, -180, 180)
        assert counts.min() > 50


def test_genhub_asks_in_degrees(trained):
    points = genhub.sample(trained, 200, conditions={"angle": [90, 270]})
    above = torch.as_tensor(points)[:, 1] > 0
    assert above[0::2].float().mean() > 0.97
    assert above[1::2].float().mean() < 0.03
    with pytest.raises(genhub.GenhubError, match=r"angle.*must be an angle in degrees, 0 to 360"):
        genhub.sample(trained, 2, conditions={"angle": ["north"]})


def test_a_run_goes_on_to_the_same_bits(tmp_path):
    few = [
        "trainer.max_steps=6",
        "trainer.save_every=3",
        "trainer.sample_every=null",
        "trainer.trackers=[]",
        "trainer.device=cpu",
    ]
    runs = [tmp_path / "whole", tmp_path / "parts"]
    for run in runs:
        genhub.train(RECIPE, few, run_dir=run)
    shutil.rmtree(runs[1] / "checkpoints" / "step-000006")
    genhub.train(RECIPE, few, run_dir=runs[1])
    whole, parts = (
        {
            str(file.relative_to(run)): load_file(file)
            for file in sorted((run / "checkpoints" / "step-000006").rglob("*.safetensors"))
        }
        for run in runs
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[file][name]) for file in whole for name, tensor in whole[file].items())


def test_it_is_given_nothing_or_several_columns_and_draws_no_pictures():
    plain = make({})
    assert plain.sample(3, generator=torch.Generator().manual_seed(0)).shape == (3, 2)
    photo = {"modality": "image", "shape": (1, 4, 4)}
    both = make({"angle": {"modality": "angle"}, "label": {"modality": "label", "number": 2}, "photo": photo})
    both.loss(Batch(torch.randn(4, 2), Conditions.nothing(both.conditions, 4)))["loss"].backward()
    assert all(parameter.grad is not None for parameter in both.parameters())
    with pytest.raises(ValidationError, match="mixture-density draws vectors; this target is of modality image"):
        MixtureDensity.Config(data={"target": {"modality": "image", "shape": (1, 8, 8)}})
