"""The GAN plugin: its phases, runs and networks, and what the recipe promises. Its losses: test_gan_losses.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from genhub_gan import GAN
from genhub_gan.config import ResidualConfig
from genhub_gan.gan import truncated
from genhub_gan.networks import Discriminator, Generator, level_sizes
from judge import judge
from made_columns import columns, image, volume
from test_trainer import metrics, same_bits

import genhub
from genhub.training.networks import compile_networks

DOCS = Path(__file__).parents[1] / "docs" / "models"
LOSSES = ["minimax", "non_saturating", "hinge", "wasserstein", "relativistic"]
SMALL = {"latent_dim": 4, "generator": {"channels": [4, 8]}, "discriminator": {"channels": [4, 8]}}


def make(shape=(1, 8, 8), **keys) -> GAN:
    torch.manual_seed(0)
    return GAN(GAN.Config.model_validate({"name": "gan", **columns(image(*shape)), **SMALL, **keys}))


def batch(shape=(1, 8, 8), n: int = 6) -> genhub.Batch:
    return genhub.Batch(torch.rand(n, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1)


def gan(tiny: dict, **model) -> dict:
    tiny["model"] = {"name": "gan", **SMALL, **model}
    return tiny


# Phases


def gradients(model: GAN) -> set[str]:
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_discriminators_phases_reach_it_alone(loss):
    for interval in (1, 3):
        model = make(loss=loss, penalty_interval=interval)
        model.discriminator_loss(batch())["loss"].backward()
        assert gradients(model) == {"discriminator"}
    model.zero_grad()
    model.penalty(batch())["loss"].backward()
    assert gradients(model) == {"discriminator"}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_generators_phase_reaches_it_alone(loss):
    """With the discriminator frozen, as the trainer does it; gradients flow through it all the same."""
    model = make(loss=loss)
    for parameter in model.discriminator.parameters():
        parameter.requires_grad_(False)
    model.generator_loss(batch())["loss"].backward()
    assert gradients(model) == {"generator"}


def test_n_critic_and_lazy_penalty_run_on_their_steps(tiny):
    gan(tiny, n_critic=3, penalty_interval=2)["trainer"]["log_every"] = 1
    genhub.train(tiny)
    lines = metrics(Path(tiny["run_dir"]))
    assert ["generator/loss" in line for line in lines] == [True, False, False] * 2
    assert ["penalty/r1" in line for line in lines] == [True, False] * 3
    first = {"discriminator/loss", "discriminator/real", "discriminator/fake", "discriminator/told_apart", "generator/fake",
             "generator/spread", "penalty/loss", "discriminator/grad_norm", "generator/grad_norm"}  # fmt: skip
    assert first <= lines[0].keys()


def test_two_optimizers_have_their_own_settings(tiny):
    tiny["trainer"]["optimizers"] = {"discriminator": {"lr": 1e-12}}
    folder = genhub.train(gan(tiny), run_dir=tiny["run_dir"])
    from safetensors.torch import load_file

    torch.manual_seed(0)
    before = make().state_dict()
    after = load_file(folder / "trainer/weights.safetensors")
    moved = {key.split(".")[0] for key in before if not torch.allclose(before[key], after[key], atol=1e-7)}
    assert moved == {"generator"}


def test_the_average_is_the_generators(tiny):
    from safetensors.torch import load_file

    folder = genhub.train(gan(tiny))
    weights, averages = (load_file(folder / f"trainer/{name}.safetensors") for name in ("weights", "averages"))
    differ = {key.split(".")[0] for key in weights if not torch.equal(weights[key], averages[key])}
    assert differ == {"generator"}


def test_told_apart_and_spread_say_what_goes_wrong():
    model = make()
    model.discriminator.forward = lambda x, y=None: x.mean((1, 2, 3))
    model.generator.forward = lambda z, y=None: torch.full((len(z), 1, 8, 8), -0.9)  # collapsed: one image
    assert model.discriminator_loss(genhub.Batch(torch.rand(6, 1, 8, 8)))["told_apart"] == 1
    assert model.generator_loss(batch())["spread"] == 0
    model.generator.forward = lambda z, y=None: batch().x
    assert model.generator_loss(batch())["spread"].item() == pytest.approx(1)


# Runs


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{"loss": "relativistic"}, {"loss": "wasserstein", "n_critic": 2, "penalty_interval": 2}])
def test_resume_is_exact(tiny, tmp_path, keys):
    gan(tiny, **keys)
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    parts = genhub.train(tiny, run_dir=str(tmp_path / "parts"))
    same_bits(whole, parts)
    assert [m for m in metrics(tmp_path / "parts") if m["step"] != 3] == metrics(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch.compile needs a C++ compiler at hand")
def test_a_compiled_generator_has_the_same_gradient():
    """Also after the discriminator's phase, which froze it."""
    plain, compiled = make(generator={"channels": [8]}), make(generator={"channels": [8]})
    compiled.load_state_dict(plain.state_dict())
    compile_networks(compiled, ["generator"], graphs=False)
    noise, direction = torch.randn(6, 4), torch.randn(6, 1, 8, 8)
    for model in (plain, compiled):
        for trained in (False, True):
            model.generator.requires_grad_(trained)
            images = model.generator(noise)
        (images * direction).sum().backward()
    torch.compiler.reset()
    for one, two in zip(plain.generator.parameters(), compiled.generator.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-5)
    assert plain.generator.from_noise.weight.grad.abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_in_bf16(tiny, loss):
    gan(tiny, loss=loss)["trainer"] |= {"max_steps": 2, "mixed_precision": "bf16"}
    folder = genhub.train(tiny)
    assert genhub.sample(folder, 2).shape == (2, 1, 8, 8)


def test_saved_and_loaded_it_draws_the_same_bits(tmp_path):
    model = make().eval()
    model.save_pretrained(tmp_path / "model")
    again = GAN.from_pretrained(tmp_path / "model")
    a, b = (m.sample(5, generator=torch.Generator().manual_seed(3)) for m in (model, again))
    assert torch.equal(a, b)
    assert again.config == model.config


def test_sample_is_the_generators_alone_and_image_by_image():
    model = make().eval()
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(5)]  # noqa: E731
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    a, b = model.sample(5, generator=generators()), model.sample(5, generator=generators())
    assert torch.equal(a, b)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.testing.assert_close(model.sample(1, generator=generators()[2:3])[0], a[2], atol=1e-5, rtol=0)
    assert a.abs().max() <= 1
    assert (a[0] - a[1]).abs().max() > 1e-3


def test_truncation_cuts_the_noise_off():
    from scipy.stats import truncnorm

    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    cut = truncated(noise, 0.7)
    assert cut.abs().max() <= 0.7
    assert cut.std().item() == pytest.approx(truncnorm(-0.7, 0.7).std(), rel=0.02)
    assert torch.equal(cut.argsort(), noise.argsort()) or (cut[noise.argsort()].diff() >= 0).all()
    torch.testing.assert_close(truncated(noise, 9.0), noise, atol=1e-4, rtol=0)
    model = make().eval()
    wide, narrow = (model.sample(200, generator=torch.Generator().manual_seed(1), truncation=t) for t in (None, 0.2))
    assert narrow.std(0).mean() < 0.5 * wide.std(0).mean()


def test_truncation_is_checked(tmp_path):
    make().save_pretrained(tmp_path / "m")
    with pytest.raises(genhub.InputError, match="--set truncation: must be greater than 0"):
        genhub.sample(tmp_path / "m", 2, truncation=0)


# Networks


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 12, 20), (1, 7, 5), (2, 9, 33), (1, 1, 1), (3, 1, 6)]
)
def test_any_size(shape):
    model = GAN(GAN.Config(**columns(image(*shape)), loss="relativistic"))
    assert model.sample(2).shape == (2, *shape)
    model.discriminator_loss(batch(shape, 2))["loss"].backward()
    model.generator_loss(batch(shape, 2))["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_sizes_and_default_widths():
    assert level_sizes((7, 5), 3) == [(7, 5), (4, 3), (2, 2)]
    assert level_sizes((9,), 3) == [(9,), (5,), (3,)]
    assert level_sizes((), 2) == [(), ()]
    widths = make().config.generator.model_copy(update={"channels": None}).widths
    assert widths((1, 8, 8)) == (32, 64)
    assert widths((1, 28, 28)) == (32, 64, 128)
    assert widths((3, 256, 300)) == (32, 64, 128, 256, 256, 256, 256)[:7]
    assert widths((1, 4, 4)) == (32,)
    assert widths((1, 28)) == widths((2, 28, 28, 28)) == (32, 64, 128)
    assert widths((2,)) == (128, 128, 128)


def test_a_generator_that_has_gone_all_black_can_come_back():
    model = make()
    torch.nn.init.constant_(model.generator.to_image.bias, -30.0)
    model(batch(), "generator")["loss"].backward()
    assert model.generator.to_image.bias.grad.abs().min() > 1e-6
    assert (model.sample(3, generator=torch.Generator().manual_seed(0)) == -1).all()


def test_residual_branches_start_at_zero():
    """So a discriminator twice as deep starts as the same function."""
    torch.manual_seed(0)
    shallow = Discriminator({}, (1, 8, 8), ResidualConfig(channels=(4, 8)))
    deep = Discriminator({}, (1, 8, 8), ResidualConfig(channels=(4, 8), blocks_per_level=3))
    deep.load_state_dict(shallow.state_dict(), strict=False)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(deep(x), shallow(x))
    one = Generator({}, (1, 8, 8), 4, ResidualConfig(channels=(4,)))  # a single level
    assert one(torch.randn(2, 4)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss": "hings"}, "loss"),
        ({"penalty_interval": 0}, "penalty_interval"),
        ({"n_critic": 0}, "n_critic"),
        ({"penalty_weight": -1}, "penalty_weight"),
        ({"generator": {"channels": []}}, "at least 1 item"),
        ({"generator": {"channel": [8]}}, "channel"),
        (columns(volume(1, 2, 2, 2, 2)), "1 to 3 sides, not elements of 1x2x2x2x2"),
    ],
)
def test_options_are_checked(keys, message):
    with pytest.raises(ValueError, match=message):
        make(**keys)


# The page and the recipe


def test_the_page_names_what_there_is():
    page = (DOCS / "gan.md").read_text()
    logged = make(penalty="r1_r2").discriminator_loss(batch()).keys() - {"adversarial", "loss"}
    for word in [*LOSSES, "none", "r1", "r1_r2", "gp", *(f"discriminator/{key}" for key in logged - {"r1", "r2"}),
                 *(f"generator/{key}" for key in make().generator_loss(batch()).keys() - {"fake"})]:  # fmt: skip
        assert f"`{word}`" in page, word
    for option in ("loss", "penalty", "penalty_weight", "penalty_interval", "n_critic"):
        assert f"`{option}" in page, option
    assert (DOCS.parent / "images" / "digits-gan.png").stat().st_size > 1000


def trained(tmp_path: Path, recipe: str, seed: int, steps: int, *sampling: str) -> Path:
    """2,000 samples of a shipped recipe after so many steps, by the commands that a user types; in processes of their own."""
    command = [sys.executable, "-m", "genhub"]
    run, out = str(tmp_path / "run"), str(tmp_path / "x.npz")
    keys = [f"seed={seed}", f"trainer.max_steps={steps}", "trainer.sample_every=null"]
    subprocess.run([*command, "train", recipe, *keys, "--run-dir", run], check=True, capture_output=True)
    subprocess.run([*command, "sample", run, "-n", "2000", *sampling, "--out", out], check=True, capture_output=True)
    return Path(out)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_recipe(tmp_path):
    """In two thirds of its steps."""
    with np.load(trained(tmp_path, "digits-gan", 0, 800)) as arrays:
        figures = judge(arrays["image"])
    assert figures["frechet"] <= 0.3, figures
    assert figures["smallest_class"] >= 0.04, figures
    assert figures["copies"] < 0.1, figures
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0.8 < last["generator/spread"] < 1.2
