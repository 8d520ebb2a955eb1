"""Both GANs draw vectors, signals, images and volumes, given labels, numbers, vectors and images."""

from __future__ import annotations

import pytest
import torch
from genhub_gan import GAN, ConditionalGAN
from genhub_gan.config import ResidualConfig
from genhub_gan.networks import Enlarge, Generator
from made_columns import LABEL, NUMBER, TARGETS, batch, columns, conditions, image, signal, vector
from test_trainer import same_bits
from torch.nn.functional import interpolate

import genhub
from genhub import folded, unfolded

SMALL = {"latent_dim": 4, "generator": {"channels": [4, 8]}, "discriminator": {"channels": [4, 8]}}
MANY = {"label": LABEL, "ink": NUMBER, "point": vector(2), "source": image(1, 4, 4)}
CONDITIONINGS = ["projection", "concatenation"]


def make(target="image", given=None, cls=GAN, **keys):
    torch.manual_seed(0)
    target = TARGETS[target] if isinstance(target, str) else target
    return cls(cls.Config.model_validate({**columns(target, **(given or {})), **SMALL, **keys}))


@pytest.mark.parametrize("loss", ["relativistic", "wasserstein"])
@pytest.mark.parametrize("target", TARGETS)
def test_it_draws_anything(target, loss):
    model = make(target, loss=loss, penalty_interval=2)
    for phase in model.phases():
        losses = model(batch(model), phase.name)
        assert all(value.isfinite() for value in losses.values())
        losses["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    drawn = model.eval().sample(5, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (5, *model.shape)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3
    assert model.sample(2, truncation=0.5).shape == (2, *model.shape)


@pytest.mark.parametrize(("target", "patch"), [(signal(2, 24), 4), (image(3, 8, 12), 2)])
def test_patches_are_folded_and_unfolded(target, patch):
    """Neighbours become channels and go back to where they were; all sides are drawn, and what it is given still counts."""
    shape = tuple(target["shape"])
    x = torch.arange(2.0 * torch.Size(shape).numel()).reshape(2, *shape)
    small = folded(x, patch)
    assert small.shape == (2, shape[0] * patch ** len(shape[1:]), *(side // patch for side in shape[1:]))
    assert torch.equal(small[0, :patch, *(0 for _ in shape[1:])], x[0, 0].reshape(-1)[:patch])
    assert torch.equal(unfolded(small, patch), x)
    networks = {"channels": [4, 8], "patch_size": patch}
    model = make(target, MANY, ConditionalGAN, generator=networks, discriminator=networks)
    assert model.generator.sizes == [
        tuple(side // patch // 2 for side in shape[1:]),
        tuple(side // patch for side in shape[1:]),
    ]
    for phase in model.phases():
        model(batch(model), phase.name)["loss"].backward()
    assert model.sample(3, conditions=conditions(model.conditions, 3)).shape == (3, *shape)


@pytest.mark.parametrize(("target", "message"), [(signal(1, 10), "10"), (vector(3), "which has none")])
def test_patches_that_do_not_fit(target, message):
    with pytest.raises(ValueError, match=f"generator.patch_size: patches of 4 don't divide the sides of x, {message}"):
        make(target, generator={"patch_size": 4})


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 1), (2, 33), (1, 1, 2, 3), (2, 8, 9, 15)])
def test_default_widths_fit_any_size(shape):
    target = {"modality": "made_columns:Volume", "shape": shape}
    model = GAN(GAN.Config(**columns(target), latent_dim=4))
    assert model.sample(2).shape == (2, *shape)
    model.discriminator_loss(batch(model, 2))["loss"].backward()


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("target", TARGETS)
def test_it_is_given_anything(target, conditioning):
    """Every parameter has a gradient, whatever is missing, and each column changes what is drawn and how it is judged."""
    model = make(target, MANY, ConditionalGAN, conditioning=conditioning)
    for block in [m for m in model.modules() if type(m).__name__ == "Block"]:
        torch.nn.init.normal_(block.second.weight, std=0.1)
    rows = batch(model)
    for given in (rows.conditions, genhub.Conditions.nothing(model.conditions, 6)):
        model.zero_grad()
        for phase in model.phases():
            model(genhub.Batch(rows.x, given), phase.name)["loss"].backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    noise, other = torch.randn(6, 4), conditions(model.conditions, 6, seed=2)
    for name in MANY:
        changed = genhub.Conditions({**rows.conditions.values, name: other.values[name]}, rows.conditions.present)
        dropped = rows.conditions.without({name: torch.ones(6, dtype=torch.bool)})
        for given in (changed, dropped):
            assert (model.generator(noise, rows.conditions) - model.generator(noise, given)).abs().max() > 1e-5, name
            verdicts = model.discriminator(rows.x, rows.conditions) - model.discriminator(rows.x, given)
            assert verdicts.abs().max() > 1e-6, name


def test_an_image_lies_beside_images_and_is_a_vector_to_all_others():
    for target in TARGETS:
        model = make(target, {"source": image(3, 5, 5)})
        spatial = model.generator.conditioner.spatial_channels
        assert (spatial > 0) == (target == "image")
        assert len(model.generator.from_spatial) == (2 if spatial else 0)
    assert make("signal", {"source": signal(1, 10)}).discriminator.conditioner.gives <= {"spatial", "vector"}


def test_what_is_given_changes_the_drawing_where_it_lies():
    """A source's left half has no part in the right edge of the image, but for the noise's."""
    model = make(image(1, 16, 16), {"source": image(1, 16, 16)}, generator={"channels": [4]})
    noise, rows = torch.zeros(1, 4), conditions(model.conditions, 1)
    moved = rows.values["source"].clone()
    moved[..., :4] = -moved[..., :4]
    other = genhub.Conditions({"source": moved}, rows.present)
    difference = (model.generator(noise, rows) - model.generator(noise, other)).abs()[0, 0].amax(0)
    assert difference[:4].max() > 1e-4
    assert (difference[10:] == 0).all()


@pytest.mark.parametrize("given", [{}, {"label": LABEL}])
def test_without_conditions_or_with_a_label_weights_are_as_ever(given):
    names = {name.split(".")[1] for name in make(given=given).state_dict()}
    told = {"embedding", "class_vectors"} if given else set()
    assert names == told | {
        "from_noise",
        "levels",
        "narrowing",
        "to_image",
        "from_image",
        "widening",
        "to_features",
        "to_logit",
    }


def test_only_what_has_bounds_is_clipped():
    for target in ("image", "vector"):
        model = make(target)
        torch.nn.init.constant_(model.generator.to_image.bias, 7.0)
        assert (model.sample(3).max() > 5) == (target == "vector")
        assert (model.sample(3).max() == 1) == (target == "image")


@pytest.mark.parametrize(("size", "larger"), [((), ()), ((5,), (9,)), ((4, 3), (7, 6)), ((2, 3, 4), (4, 5, 8))])
def test_enlarging_is_interpolation(size, larger):
    x = torch.randn(2, 3, *size)
    mode = {0: None, 1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    expected = interpolate(x, larger, mode=mode) if size else x
    torch.testing.assert_close(Enlarge(size, larger)(x), expected)


def test_a_vectors_generator_has_no_convolution():
    network = Generator({}, (2,), 4, ResidualConfig(channels=(8, 8)))
    assert {type(m).__name__ for m in network.modules()} == {
        "Generator", "Conditioner", "ModuleList", "Sequential", "Block", "Linear", "Enlarge", "Unflatten"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "given"),
    [
        ({"name": "moons", "num_rows": 200}, ["label"]),
        ({"name": "wine"}, []),
        ({"name": "digits"}, ["label", "ink", "source"]),
    ],
)
def test_resume_is_exact(tiny, tmp_path, data, given):
    if "source" in given:
        data |= {"target": "image", "columns": {"source": {"from": "image", "size": 4}}}
    tiny |= {"model": {"name": "gan", "conditions": given, "condition_dropout": 0.2, "penalty_interval": 2, **SMALL}}
    tiny["data"] |= data
    if not given:
        del tiny["model"]["condition_dropout"]
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    same_bits(whole, genhub.train(tiny, run_dir=str(tmp_path / "parts")))
    assert len(genhub.sample(whole, 5)) == 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_recipe_of_points_fills_both_moons(tmp_path):
    """After half of its steps, nearly every point is as near to a real one as real ones are, and nearly every real one has
    one near."""
    folder = genhub.train(
        "moons-gan", ["trainer.max_steps=1500", "trainer.sample_every=null"], run_dir=str(tmp_path / "run")
    )
    drawn = genhub.sample(folder, 2000)
    moons = genhub.load_data("moons")
    real, others = moons.own(torch.arange(2000)), moons.own(torch.arange(4000, 10_000))
    nearest = lambda a, b: torch.cdist(a, b).min(1).values  # noqa: E731
    assert (nearest(drawn, others) <= nearest(real, others).quantile(0.99)).float().mean() > 0.95
    assert (nearest(real, drawn) <= nearest(real, others[:2000]).quantile(0.99)).float().mean() > 0.85
