"""The VAE against the paper (Kingma & Welling 2014), probabilities that must sum to 1, and a model whose answers are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from genhub_vae import VAE
from genhub_vae.likelihoods import LIKELIHOODS, PixelLikelihood
from genhub_vae.vae import gaussian_kl
from made_columns import columns, image
from torch import nn

import genhub

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 5, 7), (1, 1, 3)]
VALUES = torch.arange(256) / 127.5 - 1
PIXELS = genhub.Image(shape=(1, 1, 1))


def make(shape=(1, 8, 8), **keys) -> VAE:
    torch.manual_seed(0)
    values = {"name": "vae", **columns(image(*shape)), "channels": [8], "latent_dim": 4, **keys}
    return VAE(VAE.Config.model_validate(values))


def batch(n: int = 6, shape=(1, 8, 8)) -> genhub.Batch:
    generator = torch.Generator().manual_seed(1)
    return genhub.Batch(torch.randint(0, 256, (n, *shape), generator=generator) / 127.5 - 1)


def recipe(folder: Path, **model) -> dict:
    return {
        "model": {"name": "vae", "channels": [8], "latent_dim": 4, **model},
        "data": {"batch_size": 16},
        "trainer": {"max_steps": 6, "log_every": 2, "sample_every": None, "save_every": 3, "trackers": []},
        "run_dir": str(folder),
    }


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "rows_per_second")} for line in lines]


def fixed_posterior(model: VAE, mean: torch.Tensor, log_variance: torch.Tensor) -> None:
    """Make the encoder say the same of every image. mean, log_variance: (latent_dim,)."""
    for parameter in model.encoder.parameters():
        nn.init.zeros_(parameter)
    model.encoder.linear.bias.data = torch.cat([mean, log_variance])


# The loss


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (1.5, -2.0), (-0.3, 1.0)])
def test_closed_form_kl_is_what_monte_carlo_says(mean, log_variance):
    """Appendix B: E_q[log q(z|x) - log p(z)] over draws."""
    q = torch.distributions.Normal(torch.tensor(mean), torch.tensor(math.exp(0.5 * log_variance)))
    z = q.mean + q.stddev * torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    drawn = q.log_prob(z) - torch.distributions.Normal(0, 1).log_prob(z)
    exact = gaussian_kl(q.mean, torch.tensor(log_variance))
    assert exact == pytest.approx(drawn.mean().item(), abs=5 * drawn.std().item() / math.sqrt(len(z)) + 1e-6)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_loss_is_nats_summed_over_an_image_and_averaged_over_the_batch(likelihood):
    model, one = make(likelihood=likelihood, beta=2.0), batch(1)
    twice = genhub.Batch(one.x.repeat(3, 1, 1, 1))
    fixed_posterior(model, torch.tensor([1.0, 0, 0, 0]), torch.full((4,), -30.0))
    a, b = model.loss(one), model.loss(twice)
    output = model.decoder(torch.tensor([[1.0, 0, 0, 0]]))
    assert a["kl"].item() == pytest.approx(gaussian_kl(torch.tensor([1.0, 0, 0, 0]), torch.tensor(-30.0)).sum().item())
    assert a["reconstruction"].item() == pytest.approx(-model.likelihood.log_prob(one.x, output).item(), rel=1e-4)
    assert a["loss"].item() == pytest.approx((a["reconstruction"] + 2 * a["kl"]).item())
    assert b["loss"].item() == pytest.approx(a["loss"].item(), rel=1e-4)


def test_draws_of_z_have_the_posteriors_mean_and_spread():
    model = make(likelihood="bernoulli")
    fixed_posterior(model, torch.tensor([1.0, -2, 0, 0]), torch.tensor([0.0, -2, 1, 0]))
    seen = []
    model.decoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model.loss(batch(20_000))
    torch.testing.assert_close(seen[0].mean(0), torch.tensor([1.0, -2, 0, 0]), atol=0.05, rtol=0)
    torch.testing.assert_close(seen[0].var(0), torch.tensor([0.0, -2, 1, 0]).exp(), atol=0.02, rtol=0.04)


def test_free_bits_count_at_least_so_much_for_each_dimension():
    model = make(free_bits=0.5)
    mean = torch.tensor([2.0, 0.1, 0, 0])
    fixed_posterior(model, mean, torch.zeros(4))
    losses = model.loss(batch())
    assert losses["kl"].item() == pytest.approx(2.005)  # what is spent
    assert (losses["loss"] - losses["reconstruction"]).item() == pytest.approx(2.0 + 3 * 0.5, rel=1e-4)
    (losses["loss"] - losses["reconstruction"]).backward()
    gradient = model.encoder.linear.bias.grad[:4]
    assert gradient[0] != 0
    assert (gradient[1:] == 0).all()  # nothing pulls an idle dimension further


def test_warm_up_raises_beta_and_counts_in_training_alone():
    model = make(kl_warmup_steps=4, beta=2.0)
    assert [model.loss(batch())["beta"].item() for _ in range(6)] == [0, 0.5, 1.0, 1.5, 2.0, 2.0]
    model.eval().loss(batch())
    assert model.batches == 6
    assert make(beta=3.0).beta() == 3


def test_active_units_show_a_collapsed_posterior():
    model = make()
    model.encoder.linear.weight.data *= 20
    assert model.loss(batch(64))["active_units"] == 4
    fixed_posterior(model, torch.ones(4), torch.zeros(4))
    assert model.loss(batch(64))["active_units"] == 0


def test_collapse_by_a_heavy_beta_is_in_the_log(tmp_path):
    run = recipe(tmp_path / "run", beta=50.0)
    run["trainer"] |= {"max_steps": 150, "log_every": 50, "save_every": 150, "optimizer": {"lr": 3e-3}}
    genhub.train(run)
    last = metrics(tmp_path / "run")[-1]
    assert last["elbo/active_units"] < 0.5
    assert last["elbo/kl"] < 0.5


# Likelihoods


def log_probs(likelihood: PixelLikelihood, values: torch.Tensor, output: float, function: str) -> torch.Tensor:
    images = values.view(-1, 1, 1, 1)
    return getattr(likelihood, function)(images, torch.full_like(images, output))


@pytest.mark.parametrize("output", [-3.0, -1.0, -0.2, 0.6, 1.01])
@pytest.mark.parametrize("log_scale", [-6.0, -3.0, 0.5])
@pytest.mark.parametrize("name", ["gaussian", "discretized_logistic"])
def test_probabilities_of_8_bit_values_sum_to_1(name, log_scale, output):
    likelihood = LIKELIHOODS[name](PIXELS)
    likelihood.scaled.data.fill_(log_scale / 10)
    logs = log_probs(likelihood, VALUES, output, "log_mass")
    assert torch.isfinite(logs).all()
    assert logs.double().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_gaussian_density_integrates_to_1():
    likelihood = LIKELIHOODS["gaussian"](PIXELS)
    likelihood.scaled.data.fill_(-0.3)
    grid = torch.linspace(-8, 8, 40_001)
    assert log_probs(likelihood, grid, 0.3, "log_prob").exp().sum().item() * 16 / 40_000 == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("output", [-20.0, -1.0, 0.0, 4.0])
def test_bernoulli_sums_to_1_and_a_grey_pixel_is_its_binarisations_mean(output):
    likelihood = LIKELIHOODS["bernoulli"](PIXELS)
    black, white, grey = log_probs(likelihood, torch.tensor([-1.0, 1.0, -0.5]), output, "log_prob")
    assert (black.exp() + white.exp()).item() == pytest.approx(1)
    assert grey.item() == pytest.approx(0.75 * black.item() + 0.25 * white.item(), rel=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_follow_the_probabilities(name):
    """The mean and, where the edges cut nothing off, the spread of draws are the likelihood's own."""
    likelihood, output = LIKELIHOODS[name](PIXELS), torch.full((1, 1, 1, 200_000), 0.2)
    if name != "bernoulli":
        likelihood.scaled.data.fill_(-0.5 if name == "gaussian" else -0.35)
    drawn = likelihood.draw(output, torch.randn(output.shape, generator=torch.Generator().manual_seed(0)))
    assert drawn.mean().item() == pytest.approx(likelihood.mean(output[..., 0]).item(), abs=0.01)
    std = {"gaussian": math.exp(-2.5), "discretized_logistic": math.exp(-3.5) * math.pi / math.sqrt(3)}
    if name in std:
        assert drawn.std().item() == pytest.approx(std[name], rel=0.02)
    else:
        assert set(drawn.unique().tolist()) == {-1.0, 1.0}


# Bits per dimension


class Linear(nn.Module):
    """x -> (x - mean) @ weight.T, then further columns that are constant; images and vectors as they come."""

    def __init__(self, weight: torch.Tensor, before: torch.Tensor, after: torch.Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight, self.before, self.after, self.shape = weight, before, after, shape

    def forward(self, x, conditions=None):
        y = (x.flatten(1) - self.before) @ self.weight.T
        return (
            torch.cat([y, self.after.expand(len(x), -1)], 1) if self.shape == () else (y + self.after).view(-1, *self.shape)
        )


def linear_gaussian(variance_scale: float = 1.0) -> tuple[VAE, torch.Tensor, torch.Tensor]:
    """p(z) = N(0, I), p(x|z) = N(Wz + b, s^2 I): its posterior is Gaussian, and diagonal as W's columns are orthogonal;
    p(x) = N(b, W W^T + s^2 I). With variance_scale other than 1, the encoder's variance is wrong by that factor."""
    model, generator = make(shape=(1, 3, 4)), torch.Generator().manual_seed(2)
    columns = torch.linalg.qr(torch.randn(12, 4, generator=generator))[0] * torch.tensor([0.5, 0.3, 0.2, 0.05])
    bias, std = 0.2 * torch.randn(12, generator=generator), 0.1
    model.likelihood.scaled.data.fill_(2 * math.log(std) / 10)
    variance = 1 / (1 + columns.square().sum(0) / std**2)
    zeros = torch.zeros(12)
    model.encoder = Linear((columns * variance / std**2).T, bias, (variance * variance_scale).log(), ())
    model.decoder = Linear(columns, torch.zeros(4), bias, (1, 3, 4))
    covariance = columns @ columns.T + std**2 * torch.eye(12)
    images = bias + torch.randn(40, 12, generator=generator) @ torch.linalg.cholesky(covariance).T
    images = ((images + 1) * 127.5).round().clamp(1, 254) / 127.5 - 1  # 8-bit, off the open edges
    exact = torch.distributions.MultivariateNormal(bias + zeros, covariance).log_prob(images)
    return model, images.view(-1, 1, 3, 4), exact


@pytest.mark.parametrize("k", [1, 7])
def test_the_exact_posterior_makes_the_bound_exact_for_every_k(k):
    model, images, exact = linear_gaussian()
    found = model.log_likelihood(images, genhub.Conditions(), torch.Generator().manual_seed(0), k)
    torch.testing.assert_close(found, exact, atol=2e-3, rtol=0)
    bits = model.bits_per_dimension(genhub.Batch(images), generator=torch.Generator().manual_seed(0), importance_samples=k)
    # The probability of a bin is the density times its width, but for terms of (width / sigma)^2.
    expected = -(exact + 12 * math.log(2 / 255)) / (12 * math.log(2))
    torch.testing.assert_close(bits, expected, atol=2e-3, rtol=0)


def test_a_wrong_posterior_bounds_from_above_and_importance_samples_tighten():
    model, images, exact = linear_gaussian(variance_scale=3.0)
    expected = (-(exact + 12 * math.log(2 / 255)) / (12 * math.log(2))).mean()
    elbo, iwae, tight = (
        model.bits_per_dimension(
            genhub.Batch(images.repeat(50, 1, 1, 1)), generator=torch.Generator().manual_seed(0), importance_samples=k
        ).mean()
        for k in (1, 5, 100)
    )
    # the gap of the ELBO is KL(q || posterior), known here
    gap = 4 * 0.5 * (3 - 1 - math.log(3)) / (12 * math.log(2))
    assert (elbo - expected).item() == pytest.approx(gap, rel=0.1)
    assert expected - 2e-3 < tight < iwae < elbo


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_bits_come_one_an_image_from_the_generators_alone(likelihood):
    model = make(likelihood=likelihood)
    assert isinstance(model, genhub.Likelihood)
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(6)]  # noqa: E731
    state = torch.random.get_rng_state()
    bits = model.bits_per_dimension(batch(), generator=generators())
    assert bits.shape == (6,)
    assert torch.equal(state, torch.random.get_rng_state())
    alone = model.bits_per_dimension(genhub.Batch(batch().x[2:3]), generator=generators()[2:3])
    torch.testing.assert_close(alone[0], bits[2], atol=1e-4, rtol=1e-5)


# Shapes, samples, precision


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_any_size(shape):
    model = make(shape, channels=[8, 4] if max(shape[1:]) > 2 else [8])
    assert isinstance(model, genhub.Autoencoder)
    images = batch(3, shape).x
    latents = model.encode(images)
    assert latents.shape == (3, 4)
    assert model.decode(latents).shape == images.shape
    assert model.decode(latents).abs().max() <= 1
    assert model.sample(2).shape == (2, *shape)
    model.loss(genhub.Batch(images))["loss"].backward()


@pytest.mark.parametrize("observe", [False, True])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_sample_is_the_generators_alone_and_image_by_image(likelihood, observe):
    model = make(likelihood=likelihood)
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(3)]  # noqa: E731
    state = torch.random.get_rng_state()
    a = model.sample(3, generator=generators(), observe=observe)
    assert torch.equal(a, model.sample(3, generator=generators(), observe=observe))
    assert torch.equal(state, torch.random.get_rng_state())
    alone = model.sample(1, generator=generators()[1:2], observe=observe)
    torch.testing.assert_close(alone[0], a[1], atol=1e-5, rtol=0)
    assert a.abs().max() <= 1


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_losses_are_float32_under_autocast(likelihood):
    model = make(likelihood=likelihood)
    torch.manual_seed(0)
    plain = model.loss(batch())
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.loss(batch())
    assert mixed["loss"].dtype == mixed["kl"].dtype == torch.float32
    torch.testing.assert_close(mixed["loss"], plain["loss"], rtol=0.02, atol=0.1)


# Training, folders


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        {"kl_warmup_steps": 5},
        {"likelihood": "discretized_logistic", "free_bits": 0.1},
        {"network": "kl", "channels": [8, 16]},
    ],
)
def test_resume_is_exact_and_folders_come_back(tmp_path, keys):
    from test_trainer import same_bits

    whole = genhub.train(recipe(tmp_path / "whole", **keys))
    genhub.train(recipe(tmp_path / "parts", **keys), ["trainer.max_steps=3"])
    same_bits(whole, genhub.train(recipe(tmp_path / "parts", **keys)))
    assert [m for m in metrics(tmp_path / "parts") if m["step"] != 3] == metrics(tmp_path / "whole")
    model = genhub.load(whole)
    model.save_pretrained(tmp_path / "copy")
    assert torch.equal(genhub.sample(tmp_path / "copy", 5), genhub.sample(model, 5))
    assert model.batches == (6 if keys.get("kl_warmup_steps") else 0)


def test_bf16_trains(tmp_path):
    run = recipe(tmp_path / "run")
    run["trainer"] |= {"mixed_precision": "bf16"}
    assert genhub.sample(genhub.train(run), 3, observe=True).shape == (3, 1, 8, 8)


def test_plain_diffusers_opens_the_kl_network(tmp_path):
    from diffusers import AutoencoderKL

    model = make((3, 16, 8), network="kl", channels=[8, 16], likelihood="discretized_logistic").eval()
    model.save_pretrained(tmp_path)
    theirs = AutoencoderKL.from_pretrained(tmp_path / "vae").eval()
    theirs.save_pretrained(tmp_path / "theirs")
    weights = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "vae" / weights).read_bytes() == (tmp_path / "theirs" / weights).read_bytes()
    images = batch(2, (3, 16, 8)).x
    with torch.no_grad():
        latents = model.encode(images)
        assert latents.shape == (2, *model.latent_shape) == (2, 4, 8, 4)
        assert torch.equal(theirs.encode(images).latent_dist.mean, latents)
        assert torch.equal(theirs.decode(latents).sample.clamp(-1, 1), model.decode(latents))
        again = VAE.from_pretrained(tmp_path)
        assert torch.equal(again.encode(images), latents)
        assert model.sample(2).shape == (2, 3, 16, 8)
        assert model.bits_per_dimension(genhub.Batch(images)).shape == (2,)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model.channels": "[8,8,8,8,8]"}, "channels: 5 halvings given, but sides of 8x8 are 1 after 3"),
        ({"model.channels": "[]"}, "at least 1 item"),
        ({"model.beta": "-1"}, "greater than or equal to 0"),
        ({"model.likelihood": "gausian"}, "gaussian"),
        ({"model.free_bit": "1"}, "free_bits"),
        ({"model.network": "kl", "model.channels": "[12,16]"}, "12 does not divide by kl.norm_num_groups 8; 16 does"),
        (
            {"model.network": "kl", "model.channels": "[8,8]", "data.columns.image.size": "[8,9]"},
            "sides divisible by 2, the images are 8x9",
        ),
        ({"model.network": "kl", "model.conditions": "[label]"}, "network kl is given none; network: conv takes any"),
    ],
)
def test_mistakes_in_options_are_answered(tmp_path, keys, message):
    with pytest.raises(genhub.RecipeError, match=message):
        genhub.train(recipe(tmp_path / "run"), [f"{key}={value}" for key, value in keys.items()])


def test_the_pages_example_runs(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "models" / "vae.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    genhub.train(recipe(tmp_path / "runs" / "digits-vae"))
    capsys.readouterr()
    exec(code, {})
    assert "torch.Size([4, 4]) torch.Size([4, 1, 8, 8])" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_shipped_recipe_meets_its_figures(tmp_path):
    from judge import judge

    folder = genhub.train("digits-vae", run_dir=str(tmp_path / "run"))
    figures = judge(genhub.sample(folder, 2000).permute(0, 2, 3, 1).numpy())
    assert figures["frechet"] <= 0.55, figures
    assert figures["smallest_class"] >= 0.04, figures
    assert figures["near"] >= 0.9, figures
