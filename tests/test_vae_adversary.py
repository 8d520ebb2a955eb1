"""The discriminator beside an autoencoder: its losses, their weights, its phases, and what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from genhub_vae import VAE, Autoencoder
from genhub_vae.adversary import PatchDiscriminator, gradient_length
from genhub_vae.config import AdversarialConfig
from made_columns import LABEL, TARGETS, batch, columns, image
from test_trainer import metrics, same_bits
from torch.nn.functional import relu

import genhub

SMALL = {"channels": [8], "latent_dim": 4, "adversarial": {"channels": [4, 8]}}
BOTH = pytest.mark.parametrize("cls", [Autoencoder, VAE])


def make(cls, target="image", **keys):
    torch.manual_seed(0)
    target = TARGETS[target] if isinstance(target, str) else target
    return cls(cls.Config.model_validate({**columns(target), **SMALL, **keys}))


def discriminator(shape=(1, 8, 8), **keys) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(AdversarialConfig(channels=(4, 8), **keys), shape)


# The losses


def test_a_logit_judges_a_patch():
    """Of two halvings and a convolution, one of 15 a side: 1 + 2 + 4 + 8. What lies beyond moves it by the norms alone."""
    network = discriminator((1, 32, 32))
    network.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in network.norms)
    x = torch.randn(1, 1, 32, 32, requires_grad=True)
    logits, features = network(x)
    assert logits.shape == (1, 64)
    assert [feature.shape[1:] for feature in features] == [(4, 16, 16), (8, 8, 8)]
    logits.view(8, 8)[4, 4].backward()
    seen = x.grad[0, 0].nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [15, 15]


def test_the_hinge_loss_is_its_formula():
    network, x, decoded = discriminator(), torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8)
    losses = network.loss(x, decoded, step=0)
    real, fake = network(x)[0], network(decoded)[0]
    assert losses["loss"].item() == pytest.approx((relu(1 - real).mean() + relu(1 + fake).mean()).item())
    assert losses["real"].item() == pytest.approx(real.mean().item())
    assert losses["fake"].item() == pytest.approx(fake.mean().item())


@pytest.mark.parametrize(("weight", "perceptual_weight"), [(0.5, 0.0), (0.0, 0.3), (2.0, 0.0)])
def test_its_pull_is_a_share_of_the_errors(weight, perceptual_weight):
    """At the decoder's output, for each element, however large its error is."""
    network = discriminator(weight=weight, perceptual_weight=perceptual_weight)
    x, output = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8, requires_grad=True)
    error = (output - x).square().flatten(1).sum(1) * torch.tensor([1.0, 100.0, 0.01])
    held = network.held_against(x, output, error, output)
    pull = gradient_length(3 * held["loss"].expand(1), output)  # of a mean over three elements
    torch.testing.assert_close(pull, (weight + perceptual_weight) * gradient_length(error, output), rtol=1e-3, atol=0)


def test_it_pulls_towards_what_looks_real_and_like_x():
    network = discriminator()
    x, output = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8, requires_grad=True)
    held = network.held_against(x, output, (output - x).square().flatten(1).sum(1), output)
    logits, features = network(output)
    wanted = network(x)[1]
    assert held["adversarial"].item() == pytest.approx(-logits.mean().item())
    distance = sum((a - b).abs().mean() for a, b in zip(features, wanted, strict=True)) / 2
    assert held["perceptual"].item() == pytest.approx(distance.item(), rel=1e-5)
    same = network.held_against(x, output, output.flatten(1).sum(1), output)
    assert network.held_against(output.detach(), output, output.flatten(1).sum(1), output)["perceptual"] == 0
    assert same["perceptual"] > 0


# The models


@BOTH
@pytest.mark.parametrize("target", TARGETS)
def test_each_phase_reaches_its_own_networks(cls, target):
    model = make(cls, target)
    first, second = model.phases()
    assert (second.name, second.trains, second.ema) == ("discriminator", ("discriminator",), False)
    rows = batch(model)
    model(rows, "discriminator")["loss"].backward()
    reached = lambda: {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}  # noqa: E731
    assert reached() == {"discriminator"}
    model.zero_grad()
    model.discriminator.requires_grad_(False)  # as a trainer does
    losses = model(rows, first.name)
    assert {"adversarial", "perceptual"} <= losses.keys()
    losses["loss"].backward()
    assert reached() == set(first.trains)


@BOTH
def test_before_its_first_step_nothing_is_held_against_what_is_decoded(cls):
    model, plain = make(cls, adversarial={"channels": [4, 8], "start_step": 3}), make(cls, adversarial=None)
    assert [phase.name for phase in plain.phases()] == [model.phases()[0].name]
    name = plain.phases()[0].name
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if "discriminator" not in key})
    early, late = (genhub.Batch(batch(model).x, step=step) for step in (2, 3))
    values = []
    for one, rows in ((plain, early), (model, early), (model, late)):
        torch.manual_seed(1)
        values.append(one(rows, name)["loss"].item())
    assert values[0] == values[1] != values[2]
    idle = model(early, "discriminator")
    idle["loss"].backward()
    assert idle["loss"] == 0
    assert all((p.grad == 0).all() for p in model.discriminator.parameters())


@BOTH
def test_how_a_batch_is_split_does_not_matter(cls):
    """So several processes, and gradients that are accumulated, train what one does."""
    model = make(cls)
    if cls is VAE:
        model.encoder.linear.bias.data[4:] = -30  # z is its mean
        model.encoder.linear.weight.data[4:] = 0
    rows = batch(model, 6)
    parts = [genhub.Batch(part) for part in rows.x.split(2)]
    name = model.phases()[0].name
    whole, split = model(rows, name)["loss"], torch.stack([model(part, name)["loss"] for part in parts]).mean()
    assert whole.item() == pytest.approx(split.item(), rel=1e-5)


@BOTH
def test_it_is_beside_a_model_that_is_given_a_label(cls):
    model = make(cls, **columns(TARGETS["image"], label=LABEL))
    for phase in model.phases():
        assert model(batch(model), phase.name)["loss"].isfinite()


@pytest.mark.parametrize(("shape", "channels"), [((1, 8, 8), [4] * 4), ((1, 1, 3), [4] * 3)])
def test_too_many_halvings_are_refused(shape, channels):
    with pytest.raises(ValueError, match=r"adversarial\.channels: . halvings given, but sides of .* leave some out"):
        make(VAE, image(*shape), adversarial={"channels": channels})


# Runs


def recipe(tiny, name, **keys):
    tiny["model"] = {"name": name, **SMALL, "adversarial": {"channels": [4, 8], "start_step": 2}, **keys}
    return tiny


@pytest.mark.parametrize("name", ["vae", pytest.param("autoencoder", marks=pytest.mark.slow)])
def test_resume_is_exact(tiny, tmp_path, name):
    recipe(tiny, name)["trainer"]["log_every"] = 1
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    same_bits(whole, genhub.train(tiny, run_dir=str(tmp_path / "parts")))
    lines = metrics(Path(tmp_path / "whole"))
    assert ["discriminator/real" in line for line in lines] == [False] * 2 + [True] * 4
    assert len(genhub.sample(whole, 2)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_diffusers_opens_what_it_has_trained(tiny, tmp_path, precision):
    from diffusers import AutoencoderKL

    recipe(tiny, "vae", network="kl", kl={"norm_num_groups": 4})["trainer"]["mixed_precision"] = precision
    folder = genhub.train(tiny, run_dir=str(tmp_path / "run"))
    model, theirs = genhub.load(folder), AutoencoderKL.from_pretrained(folder / "vae")
    x = batch(model).x
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(x).latent_dist.mean, model.encode(x), atol=1e-5, rtol=0)
    assert sum(p.numel() for p in model.discriminator.parameters()) > 0
    model.save_pretrained(tmp_path / "again")
    again = VAE.from_pretrained(tmp_path / "again")
    assert torch.equal(again.discriminator.to_logits.weight, model.discriminator.to_logits.weight)
