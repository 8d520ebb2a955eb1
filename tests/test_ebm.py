"""Energies and equilibria: gradients that are right, chains that end where they should, a replay that survives a stop."""

from __future__ import annotations

import copy

import pytest
import torch
from genhub_ebm import EBM, EqM
from genhub_ebm.gradients import gradient
from genhub_ebm.replay import Replay
from made_columns import LABEL, NUMBER, TARGETS, batch, columns, conditions, vector
from test_trainer import same_bits
from torch import nn

import genhub
from genhub import Batch, Conditions, Given

MANY = {"label": LABEL, "ink": NUMBER, "point": vector(2)}
NETWORKS = {
    "image": {"name": "unet", "block_out_channels": [8, 16], "norm_num_groups": 4, "add_attention": True},
    "signal": {"name": "dit", "hidden_size": 12, "depth": 1, "patch_size": 5},
    "vector": {"name": "mlp", "hidden": 8, "depth": 1},
    "volume": {"name": "dit", "hidden_size": 12, "depth": 1, "patch_size": 1},
}
FEW = {
    EBM: {"chain_steps": 2, "replay_size": 8, "sampling": {"num_inference_steps": 3}},
    EqM: {"sampling": {"num_inference_steps": 3}},
}
CLASSES = [(EBM, {}), (EqM, {}), (EqM, {"energy": "dot"})]


def make(cls, target="image", given=None, moved=0.1, **keys):
    torch.manual_seed(0)
    values = {**columns(TARGETS[target], **(given or {})), "network": NETWORKS[target], **FEW[cls], **keys}
    model = cls(cls.Config.model_validate(values)).eval()
    for parameter in model.parameters():  # a transformer's output starts as zero
        parameter.data += moved * torch.randn_like(parameter)
    return model


def seeds(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(n)]


class Exact(nn.Module):
    """Stands for a trained network: a function of x alone."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.zeros(()))

    def forward(self, x, t, given):
        assert t is None
        return self.function(x)


# What all do


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("cls", "keys"), CLASSES)
def test_it_draws_anything(cls, keys, target):
    model = make(cls, target, **keys)
    assert isinstance(model, genhub.Energy)
    assert not isinstance(model, genhub.Autoencoder | genhub.Denoiser | genhub.Likelihood)
    rows = batch(model)
    with torch.inference_mode():
        drawn, alone = model.sample(3, generator=seeds(3)), model.sample(1, generator=seeds(1))
    assert drawn.shape == (3, *model.shape)
    assert drawn.isfinite().all()
    assert target != "image" or drawn.abs().max() <= 1
    torch.testing.assert_close(drawn[:1], alone, atol=1e-4, rtol=1e-4)
    if cls is EqM and not keys:
        with pytest.raises(genhub.InputError, match="energy: this model learnt a field that is no energy's"):
            model.energy(rows.x)
    else:
        assert model.energy(rows.x).shape == (6,)


@pytest.mark.parametrize("target", ["image", "vector", "signal"])
@pytest.mark.parametrize(("cls", "keys"), CLASSES)
def test_it_is_given_anything(cls, keys, target):
    """Every parameter has a gradient, whatever is missing, and each column changes what is drawn."""
    model = make(cls, target, MANY, **keys).train()
    rows = batch(model)
    for given in (rows.conditions, Conditions.nothing(model.conditions, 6)):
        model.zero_grad()
        model.loss(Batch(rows.x, given))["loss"].backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    other = conditions(model.conditions, 6, seed=2)
    with torch.inference_mode():
        for name in MANY:
            changed = Conditions({**rows.conditions.values, name: other.values[name]}, rows.conditions.present)
            drawn, moved = (model.sample(6, conditions=given, generator=seeds(6)) for given in (rows.conditions, changed))
            assert not torch.equal(drawn, moved), name


def test_guidance_is_a_straight_line_in_the_energy():
    model = make(EBM, "vector", {"label": LABEL})
    x, asked = torch.randn(4, 3), conditions(model.conditions, 4)
    given, nothing = (model.conditioner(rows) for rows in (asked, Conditions.nothing(model.conditions, 4)))
    unasked, wanted = model.energies(x, nothing), model.energies(x, given)
    torch.testing.assert_close(model.energies(x, given, nothing, 3.0), torch.lerp(unasked, wanted, 3.0))


def test_keys_that_change_nothing_are_named():
    for cls in (EBM, EqM):
        unused = cls.Config(sampling={"guidance_scale": 2.0})
        assert unused.mistakes().keys() == {"sampling.guidance_scale"}
        assert cls.Config(conditions=["label"], condition_dropout=0.2).mistakes() == {}
        assert make(cls, "vector").unused_options({"guidance_scale": 1.0}) == {
            "guidance_scale": "this model is given nothing; it is for one trained with model.conditions"
        }
    with pytest.raises(ValueError, match=r"network.patch_size: 3 does not divide the side 8; 2 does"):
        EqM.Config.model_validate({**columns(TARGETS["image"]), "network": {"name": "dit", "patch_size": 3}})


def test_a_flattened_image_is_a_vector_to_its_network():
    """Energies, chains and drawings keep the image's shape; what is given, an image too, becomes a vector."""
    given = {"label": LABEL, "picture": TARGETS["image"]}
    model = make(EBM, given=given, flatten=True, network=None).train()
    assert model.config.network.name == "mlp"
    rows = batch(model)
    losses = model.loss(rows)
    losses["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.replay.x.shape == (8, 1, 8, 8)
    assert model.sample(3, generator=seeds(3)).shape == (3, 1, 8, 8)
    alone = model.network(rows.x.flatten(1), None, model.conditioner(rows.conditions))
    torch.testing.assert_close(model.energy(rows.x, rows.conditions), alone[:, 0])
    with pytest.raises(ValueError, match="network.name: unet is for 2 sides, not for the 0 of 64; mlp is for vectors"):
        make(EBM, flatten=True)
    assert make(EBM, "vector", flatten=True).config.mistakes() == {"flatten": "changes nothing of a vector; leave it out"}


# The gradient


def test_the_gradient_of_an_energy_is_that_of_differences():
    model = make(EBM, "vector")
    x, small = torch.randn(2, 3), 1e-2
    found = gradient(lambda x: model.energies(x, Given()), x)
    for number in range(3):
        step = small * nn.functional.one_hot(torch.tensor(number), 3)
        slope = (model.energies(x + step, Given()) - model.energies(x - step, Given())) / (2 * small)
        torch.testing.assert_close(found[:, number], slope, atol=1e-3, rtol=1e-2)


# Equilibrium matching


def test_the_decay_is_one_up_to_its_start_and_zero_at_the_data():
    model = make(EqM, "vector", decay_start=0.6)
    torch.testing.assert_close(model.decay(torch.tensor([0.0, 0.6, 0.8, 1.0])), torch.tensor([1.0, 1.0, 0.5, 0.0]))


def test_descent_ends_where_the_field_is_zero():
    """f(x) = x - 2: gradient descent comes (1 - step)^k near, and Nesterov's momentum nearer in as many steps."""
    model = make(EqM, "vector")
    model.network = Exact(lambda x: x - 2)
    start = torch.cat([torch.randn(1, 3, generator=one) for one in seeds(4)])
    plain = model.sample(4, generator=seeds(4), num_inference_steps=20, step_size=0.1)
    torch.testing.assert_close(plain - 2, 0.9**20 * (start - 2))
    fast = model.sample(4, generator=seeds(4), num_inference_steps=20, step_size=0.1, momentum=0.5)
    assert (fast - 2).abs().max() < 0.1 * (plain - 2).abs().max()


def test_a_network_that_knows_the_answer_has_the_least_loss():
    """With all data at 0, x = (1 - gamma) noise, and for decay_start 0 the target is (1 - gamma) noise: x itself."""
    model = make(EqM, "vector", decay_start=0.0)
    model.network = Exact(lambda x: x)
    assert model.loss(Batch(torch.zeros(64, 3)))["loss"].item() == pytest.approx(0, abs=1e-12)
    model.network = Exact(lambda x: x + 0.5)
    assert model.loss(Batch(torch.zeros(64, 3)))["loss"].item() == pytest.approx(0.25, abs=1e-6)


def test_the_dot_product_is_an_energy_with_that_gradient():
    """x . (x / 2 + a) has the gradient x + a."""
    model = make(EqM, "vector", energy="dot")
    model.network = Exact(lambda x: x / 2 + 3)
    x = torch.randn(5, 3)
    torch.testing.assert_close(model.field(x, Given(), Given(), 1.0), x + 3)
    torch.testing.assert_close(model.energy(x), (x * (x / 2 + 3)).sum(1))


# The energy-based model


def test_chains_end_at_the_density_of_the_energy():
    """E = |x - 1|^2 / (2 s^2) + |x|^2 / 2 for s = 0.5: of a normal distribution with mean 4/5 and variance 1/5."""
    model = make(EBM, "vector", langevin={"step_size": 0.01})
    model.network = Exact(lambda x: ((x - 1).square().sum(1) / (2 * 0.25))[:, None])
    drawn = model.sample(5000, generator=torch.Generator().manual_seed(0), num_inference_steps=300)
    assert drawn.mean().item() == pytest.approx(0.8, abs=0.02)
    assert drawn.std().item() == pytest.approx(0.2**0.5, abs=0.02)
    cold = model.sample(5000, generator=torch.Generator().manual_seed(0), num_inference_steps=300, noise_std=0.0)
    assert (cold - 0.8).abs().max() < 1e-3


def test_the_loss_is_the_difference_of_energies_and_their_squares():
    model = make(EBM, "vector", energy_weight=0.5, chain_steps=1, langevin={"step_size": 1e-12, "noise_std": 0.0}).train()
    model.network = Exact(lambda x: x.sum(1, keepdim=True))
    torch.manual_seed(3)
    losses = model.loss(Batch(torch.ones(6, 3)))
    drawn = model.replay.x[model.replay.begun].sum(1)
    assert losses["real"].item() == pytest.approx(3)
    assert losses["drawn"].item() == pytest.approx(drawn.mean().item(), abs=1e-5)
    expected = 3 - drawn.mean() + 0.5 * (9 + drawn.square().mean())
    assert losses["loss"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_noise_on_real_images_leaves_no_bounds_that_chains_keep():
    """Else an energy tells real from drawn by what no chain can reach."""
    model = make(EBM, data_noise=3.0)
    model.network = Exact(lambda x: x.abs().flatten(1).amax(1, keepdim=True))
    assert model.loss(batch(model))["real"].item() == pytest.approx(1)


def test_chains_go_on_from_where_they_were_with_what_they_were_given():
    replay = Replay((2,), {"label": genhub.Label(number=5)}, size=4)
    far, labels = torch.full((4, 2), 9.0), torch.tensor([1, 2, 3, 4])
    given = Conditions({"label": labels}, {"label": torch.tensor([True, True, False, True])})
    fresh, other = (
        torch.zeros(4, 2),
        Conditions({"label": torch.zeros(4, dtype=torch.int64)}, {"label": torch.zeros(4).bool()}),
    )
    chosen, x, kept = replay.draw(fresh, given, share=0.0)
    assert torch.equal(x, fresh)  # all of them begin
    assert torch.equal(kept.values["label"], labels)
    replay.keep(chosen, far, kept)
    again, x, kept = replay.draw(fresh, other, share=0.0)
    assert torch.equal(x, far)
    order = torch.argsort(chosen)[again]  # who gave a chain what
    assert torch.equal(kept.values["label"], labels[order])
    assert torch.equal(kept.present["label"], given.present["label"][order])
    assert torch.equal(replay.draw(fresh, other, share=1.0)[1], fresh)
    assert replay.draw(torch.zeros(9, 2), other.rows(torch.zeros(9, dtype=torch.int64)), share=0.0)[1].shape == (4, 2)


def test_replay_is_kept_in_training_alone():
    model = make(EBM, "vector")
    before = copy.deepcopy(model.replay.state_dict())
    model.loss(batch(model))
    assert all(torch.equal(value, before[name]) for name, value in model.replay.state_dict().items())
    model.train().loss(batch(model))
    assert model.replay.begun.sum() == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ebm", "eqm"])
def test_a_stopped_run_ends_with_the_same_bits(tiny, tmp_path, name):
    few = {"ebm": {"chain_steps": 2, "replay_size": 32}, "eqm": {"energy": "dot"}}[name]
    network = {"name": "dit", "hidden_size": 12, "depth": 1}
    recipe = tiny | {"model": {"name": name, "network": network, "conditions": ["label"], **few}}
    steps = ["trainer.max_steps=4", "trainer.save_every=2", "trainer.sample_every=null"]
    whole = genhub.train(recipe, steps, run_dir=str(tmp_path / "whole"))
    genhub.train(recipe, [*steps, "trainer.max_steps=2"], run_dir=str(tmp_path / "parts"))
    same_bits(whole, genhub.train(recipe, steps, run_dir=str(tmp_path / "parts")))
