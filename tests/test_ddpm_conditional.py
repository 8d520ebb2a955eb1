"""Labels and guidance, and the variational bound."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from genhub_ddpm import DDPM
from genhub_ddpm.likelihood import discretized_gaussian, gaussian_kl, variational_bound
from test_ddpm import Exact, make
from test_trainer import metrics, same_bits

import genhub
from genhub import Likelihood


class Told(torch.nn.Module):
    """A network that predicts the label it is given, so that guidance can be read off its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def forward(self, x, timestep, labels=None, return_dict=False):
        self.seen.append(labels.tolist())
        return (torch.zeros_like(x) + labels.view(-1, 1, 1, 1),)


def conditional(**keys) -> DDPM:
    return make(conditional=True, num_classes=3, **keys)


# Labels


def test_guidance_is_one_call_that_moves_away_from_no_label():
    """Ho & Salimans 2022: without + scale * (with - without)."""
    model = conditional()
    model.unet = Told()
    noisy, labels = torch.zeros(2, 1, 8, 8), torch.tensor([0, 2])
    guided = model.predict(noisy, torch.tensor(5), labels, 4.0)
    assert guided[:, 0, 0, 0].tolist() == [3 + 4 * (0 - 3), 3 + 4 * (2 - 3)]
    assert model.network.seen == [[0, 2, 3, 3]]  # the class after the data's three stands for no label
    assert model.predict(noisy, torch.tensor(5), labels, 0.0)[:, 0, 0, 0].tolist() == [3, 3]
    model.predict(noisy, torch.tensor(5), labels, 1.0)
    assert model.network.seen[-1] == [0, 2]


def test_labels_are_dropped_at_the_rate_asked_for():
    model = conditional(label_dropout=0.3)
    model.unet = Told()
    batch = {"images": torch.zeros(4000, 1, 8, 8), "labels": torch.full((4000,), 1)}
    model.loss(batch)
    seen = model.network.seen[0]
    assert set(seen) == {1, 3}
    assert seen.count(3) / 4000 == pytest.approx(0.3, abs=0.03)


def test_labels_change_the_picture_and_must_be_given():
    model = conditional().eval()
    with torch.no_grad():
        model.network.class_embedding.weight.mul_(20)
    zero, one = (
        model.sample(1, labels=torch.tensor([label]), generator=torch.Generator().manual_seed(0), num_inference_steps=3)
        for label in (0, 1)
    )
    assert not torch.equal(zero, one)
    with pytest.raises(ValueError, match="give one an image"):
        model.sample(1)


def test_data_without_labels_is_refused_before_step_0(tiny, tmp_path):
    from PIL import Image

    for i in range(3):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    tiny["data"] = {"name": str(tmp_path), "batch_size": 2}
    tiny["model"]["conditional"] = True
    with pytest.raises(genhub.RecipeError, match="model.conditional: needs labels, and the data has none"):
        genhub.train(tiny)


def test_a_conditional_run_resumes_exactly_loads_and_samples(tiny, tmp_path):
    tiny["model"]["conditional"] = True
    whole = genhub.train(tiny, ["trainer.sample_every=6"], run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=3"], run_dir=str(tmp_path / "parts"))
    same_bits(whole, genhub.train(tiny, run_dir=str(tmp_path / "parts")))
    assert [m for m in metrics(tmp_path / "parts") if m["step"] != 3] == metrics(tmp_path / "whole")
    images = genhub.sample(whole, 4, labels=[9, 1], guidance_scale=2.0, num_inference_steps=2, out=tmp_path / "x.npz")
    assert images.shape == (4, 1, 8, 8)
    with pytest.raises(genhub.InputError, match="'10' is not a label of this model"):
        genhub.sample(whole, 1, labels=[10])


def test_labels_are_not_said_to_be_unused(tiny, capsys):
    tiny["model"]["conditional"] = True
    genhub.train(tiny, ["trainer.max_steps=1"])
    assert "does not use them" not in capsys.readouterr().out


# The variational bound


def test_kl_is_torch_distributions_own():
    a, b = torch.distributions.Normal(0.3, 0.7), torch.distributions.Normal(-0.2, 1.1)
    ours = gaussian_kl(torch.tensor(0.3), torch.tensor(0.49).log(), torch.tensor(-0.2), torch.tensor(1.21).log())
    torch.testing.assert_close(ours, torch.distributions.kl_divergence(a, b))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.9, 0.01), (-1.2, 0.05), (0.3, 0.001), (1.0, 2.0)])
def test_the_discrete_decoder_is_a_distribution_over_256_values(mean, std):
    values = torch.arange(256).double() / 127.5 - 1
    logs = discretized_gaussian(values, torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))
    assert logs.exp().sum() == pytest.approx(1, abs=1e-6)
    assert torch.isfinite(logs).all()


def test_the_bound_of_an_exact_model_is_the_datas_entropy():
    """Data N(0.1, 0.2^2) and the optimal denoiser: the bound is never below the entropy. Where the noise is smaller than
    the data's spread, the best variance is beta_t (fixed_large); eq. 7's costs sum_t 1 / (4 t^2) = 0.41 nats more."""
    entropy = math.log2(0.2 * math.sqrt(2 * math.pi * math.e) / (2 / 255))
    torch.manual_seed(0)
    images = ((0.1 + 0.2 * torch.randn(64, 1, 8, 8)).clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1
    bits = {}
    for variance in ("fixed_small", "fixed_large"):
        model = make(scheduler={"variance_type": variance, "beta_schedule": "linear", "prediction_type": "epsilon"})
        model.unet = Exact(model, 0.1, 0.2)
        assert isinstance(model, Likelihood)
        generator = torch.Generator().manual_seed(1)
        bits[variance] = model.bits_per_dimension({"images": images}, generator=generator).mean().item()
    assert entropy - 0.02 < bits["fixed_large"] < entropy + 0.2
    assert bits["fixed_small"] - bits["fixed_large"] == pytest.approx(0.41 / math.log(2), abs=0.1)


class WithShare(torch.nn.Module):
    """A network of one output, and a learned variance of one share of it everywhere."""

    def __init__(self, network: torch.nn.Module, share: float) -> None:
        super().__init__()
        self.network, self.share = network, share

    def forward(self, x, timestep, labels=None, return_dict=False):
        (output,) = self.network(x, timestep, labels)
        return (torch.cat([output, torch.full_like(output, self.share)], dim=1),)


def test_a_learned_variance_lies_between_the_fixed_ones():
    """Nichol & Dhariwal 2021, eq. 15: 1 is beta_t, -1 is eq. 7's, 0 their geometric mean; in the bound and in samples."""
    images = {"images": torch.rand(4, 1, 8, 8).mul(255).round() / 127.5 - 1}
    bits, samples = {}, {}
    for variance, share in [("fixed_small", None), ("fixed_large", None)] + [("learned_range", s) for s in (-1, 0, 1)]:
        model = make(scheduler={"variance_type": variance, "num_train_timesteps": 50, "beta_end": 0.3,
                                "beta_schedule": "linear", "timestep_spacing": "leading"})  # fmt: skip
        model.unet = Exact(model, 0.1, 0.2) if share is None else WithShare(Exact(model, 0.1, 0.2), share)
        generator = torch.Generator().manual_seed(0)
        bits[variance, share] = model.bits_per_dimension(images, generator=generator).mean()
        generator = torch.Generator().manual_seed(0)
        samples[variance, share] = model.sample(4, generator=generator, scheduler="ddpm", num_inference_steps=50)
    torch.testing.assert_close(bits["learned_range", -1], bits["fixed_small", None])
    torch.testing.assert_close(bits["learned_range", 1], bits["fixed_large", None])
    assert bits["fixed_large", None] < bits["learned_range", 0] < bits["fixed_small", None]
    torch.testing.assert_close(samples["learned_range", 1], samples["fixed_large", None], atol=0.05, rtol=0)


def test_the_bound_trains_the_variance_alone(tiny):
    model = make(scheduler={"variance_type": "learned_range"}, vlb_weight=1.0)
    losses = model.loss({"images": torch.rand(8, 1, 8, 8).mul(255).round() / 127.5 - 1})
    losses["vlb"].backward()
    gradient = model.network.conv_out.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient[0].abs().max() == 0
    assert gradient[1].abs().max() > 0


def test_a_learned_variance_trains_samples_with_all_and_opens_in_diffusers(tiny):
    from diffusers import DDPMPipeline

    tiny["model"]["scheduler"] = {"variance_type": "learned_range"}
    folder = genhub.train(tiny)
    assert "denoise/vlb" in metrics(Path(tiny["run_dir"]))[0]
    for scheduler in genhub.scheduler_names():
        assert genhub.sample(folder, 1, scheduler=scheduler, num_inference_steps=8).shape == (1, 1, 8, 8)
    model, pipeline = genhub.load(folder), DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 5, "generator": torch.Generator().manual_seed(0)}
    theirs = pipeline(batch_size=1, output_type="pt", **options).images
    options["generator"].manual_seed(0)
    torch.testing.assert_close(theirs, model.sample(1, scheduler="ddpm", **options) / 2 + 0.5, atol=1e-5, rtol=0)


def test_terms_have_their_places_and_signs():
    model = conditional(scheduler={"num_train_timesteps": 20, "beta_schedule": "linear", "beta_end": 0.5})
    batch = {"images": torch.rand(3, 1, 8, 8).mul(255).round() / 127.5 - 1, "labels": torch.tensor([0, 1, 2])}
    terms = variational_bound(model, batch, torch.Generator().manual_seed(0))
    assert terms.shape == (21, 3)
    assert (terms[1:] >= 0).all()
    assert (terms[20] < terms[:20].sum(0)).all()
    bits = model.bits_per_dimension(batch, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bits, terms.sum(0) / (64 * math.log(2)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_on_demand(tmp_path: Path):
    """The shipped conditional recipe draws what it is asked for."""
    from judge import judge, read_labels

    folder = genhub.train("digits-ddpm-conditional", run_dir=str(tmp_path / "run"))
    images = genhub.sample(folder, 2000, labels=range(10)).permute(0, 2, 3, 1).numpy()
    figures = judge(images)
    assert figures["frechet"] <= 0.12, figures
    assert figures["near"] >= 0.98, figures
    right = (read_labels(images) == [i % 10 for i in range(2000)]).mean()
    assert right >= 0.98, right
