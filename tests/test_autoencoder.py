"""The autoencoder, and the Gaussian it draws from."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from genhub_vae import Autoencoder
from made_columns import columns, image

import genhub

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 5, 7), (1, 1, 3)]


def make(shape=(1, 8, 8), **keys) -> Autoencoder:
    torch.manual_seed(0)
    values = {"name": "autoencoder", **columns(image(*shape)), "channels": [8], "latent_dim": 4, **keys}
    return Autoencoder(Autoencoder.Config.model_validate(values))


def images(n: int, shape=(1, 8, 8), seed: int = 1) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def recipe(folder: Path, **model) -> dict:
    return {
        "model": {"name": "autoencoder", "channels": [8], "latent_dim": 4, **model},
        "data": {"batch_size": 16},
        "trainer": {"max_steps": 6, "log_every": 2, "sample_every": None, "save_every": 3, "trackers": []},
        "run_dir": str(folder),
    }


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "rows_per_second")} for line in lines]


def test_loss_is_the_squared_error_summed_over_an_image():
    model, x = make(), images(6)
    expected = (model.decoder(model.encoder(x)) - x).square().sum() / 6
    losses = model.loss(genhub.Batch(x))
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(losses["mse"], expected / 64)


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_any_size(shape):
    model = make(shape, channels=[8, 4] if max(shape[1:]) > 2 else [8])
    assert isinstance(model, genhub.Autoencoder)
    assert not isinstance(model, genhub.Likelihood)
    x = images(3, shape)
    assert model.encode(x).shape == (3, 4)
    assert model.decode(model.encode(x)).shape == x.shape
    assert model.decode(100 * model.encode(x)).abs().max() <= 1
    assert model.sample(2).shape == (2, *shape)
    model.loss(genhub.Batch(x))["loss"].backward()


# The Gaussian


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_the_gaussian_is_that_of_all_latents_of_a_fixed_model(offset):
    """Also far from 0, where a mean of squares less a squared mean would have no digit left."""
    model = make()
    model.encoder.linear.bias.data += offset
    x = images(60 * 16)
    for part in x.split(16):
        model.loss(genhub.Batch(part))
    latents = model.encode(x).detach().double()
    torch.testing.assert_close(model.latent_mean, latents.mean(0).float(), rtol=1e-5, atol=1e-5)
    expected = torch.cov(latents.T, correction=0).float()
    torch.testing.assert_close(model.latent_covariance, expected, rtol=1e-3, atol=1e-4 * expected.max().item() + 1e-9)


def test_old_latents_are_forgotten():
    model = make(latent_window=5)
    for mean, scale in [(50.0, 9.0)] * 20 + [(2.0, 1.0)] * 200:
        model.fit_gaussian(mean + scale * torch.randn(200, 4))
    torch.testing.assert_close(model.latent_mean, torch.full((4,), 2.0), atol=0.2, rtol=0)
    torch.testing.assert_close(model.latent_covariance, torch.eye(4), atol=0.3, rtol=0)


def test_samples_decode_draws_from_the_gaussian():
    model, seen = make(), []
    model.fit_gaussian(torch.randn(500, 4) @ torch.tensor([[1.0, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]) + 3)
    assert torch.linalg.matrix_rank(model.latent_covariance) == 3  # a dimension that never varies is no fault
    model.decoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model.sample(50_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen[0].mean(0), model.latent_mean, atol=0.04, rtol=0)
    torch.testing.assert_close(torch.cov(seen[0].T), model.latent_covariance, atol=0.06, rtol=0.03)


def test_evaluation_does_not_move_the_gaussian_and_copies_carry_it():
    model = make()
    model.loss(genhub.Batch(images(16)))
    twin = copy.deepcopy(model).eval()
    twin.loss(genhub.Batch(images(16, seed=2)))
    assert torch.equal(twin.latent_mean, model.latent_mean)
    model.loss(genhub.Batch(images(16, seed=2)))
    assert not torch.equal(twin.latent_mean, model.latent_mean)


def test_an_untrained_model_draws():
    assert make().sample(2, generator=torch.Generator().manual_seed(0)).isfinite().all()


def test_sample_is_the_generators_alone_and_image_by_image():
    model = make()
    model.loss(genhub.Batch(images(16)))
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(3)]  # noqa: E731
    state = torch.random.get_rng_state()
    a = model.sample(3, generator=generators())
    assert torch.equal(a, model.sample(3, generator=generators()))
    assert torch.equal(state, torch.random.get_rng_state())
    alone = model.sample(1, generator=generators()[1:2])
    torch.testing.assert_close(alone[0], a[1], atol=1e-5, rtol=0)


# Training, folders


def test_resume_is_exact_and_folders_come_back(tmp_path):
    from test_trainer import same_bits

    whole = genhub.train(recipe(tmp_path / "whole"))
    genhub.train(recipe(tmp_path / "parts"), ["trainer.max_steps=3"])
    same_bits(whole, genhub.train(recipe(tmp_path / "parts")))
    assert [m for m in metrics(tmp_path / "parts") if m["step"] != 3] == metrics(tmp_path / "whole")
    model = genhub.load(whole)
    assert model.batches == 6  # the batch before step 0 does not count
    model.save_pretrained(tmp_path / "copy")
    assert torch.equal(genhub.sample(tmp_path / "copy", 5), genhub.sample(model, 5))
    assert torch.equal(Autoencoder.from_pretrained(tmp_path / "copy").latent_covariance, model.latent_covariance)


def test_bf16_trains_and_fits_in_float32(tmp_path):
    run = recipe(tmp_path / "run")
    run["trainer"] |= {"mixed_precision": "bf16"}
    assert genhub.sample(genhub.train(run), 3).shape == (3, 1, 8, 8)
    model, x = make(), images(64)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.loss(genhub.Batch(x))["loss"].dtype == torch.float32
        latents = model.encoder(x).double()
    torch.testing.assert_close(model.latent_covariance.double(), torch.cov(latents.T, correction=0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.channels=[8,8,8,8,8]", "channels: 5 halvings given, but sides of 8x8 are 1 after 3"),
        ("model.latent_dim=0", "latent_dim"),
        ("model.latent_size=3", "did you mean|latent_dim"),
    ],
)
def test_mistakes_in_options_are_answered(tmp_path, override, message):
    with pytest.raises(genhub.RecipeError, match=message):
        genhub.train(recipe(tmp_path / "run"), [override])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_shipped_recipe_copies_digits_but_draws_worse_than_a_vae(tmp_path):
    import numpy as np
    from judge import judge, read_labels
    from sklearn.datasets import load_digits

    folder = genhub.train("digits-autoencoder", run_dir=str(tmp_path / "run"))
    model, digits = genhub.load(folder), load_digits()
    x = torch.from_numpy(digits.images / 8 - 1).float()[:, None]
    with torch.no_grad():
        copies = model.decode(model.encode(x))
    assert (copies - x).square().mean() < 0.03
    read = read_labels(((copies[:, 0, :, :, None] + 1) * 127.5).round().numpy().astype(np.uint8))
    assert (read == digits.target).mean() > 0.95
    figures = judge(genhub.sample(folder, 2000).permute(0, 2, 3, 1).numpy())
    assert figures["smallest_class"] > 0, figures
    assert figures["near"] < 0.95, figures  # digits-vae: 0.99
