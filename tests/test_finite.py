"""What is NaN or infinite is never written, shown or measured: any model, any view, any kind of file, from any weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import models
import pytest
import torch
from conftest import TINY_DDPM
from torch import Tensor
from typer.testing import CliRunner

import genhub
from genhub import DenoisingStep, GenerativeModel, NotFinite, cli, randn
from genhub.data.latents import training_data
from genhub.ground.finite import check_finite, check_weights
from genhub.interfaces.registry import MODELS, VIEWS, load_class, plugin_names
from genhub.sampling.draw import draw_preview, sample_elements
from genhub.sampling.files import draw_to
from genhub.sampling.request import Drawing
from genhub.store.run_folder import RunFolder

DIGITS = ["data.name=digits"]
OUTPUTS = ["x.png", "x.npz", "x.parquet", "folder"]
SMALL = {"ddpm": TINY_DDPM["model"], "vae": {"channels": [4], "latent_dim": 2}, "autoencoder": {"channels": [4]},
         "gan": {"generator": {"channels": [8]}}, "cgan": {"generator": {"channels": [8]}}}  # fmt: skip


def shipped(name: str) -> GenerativeModel:
    cls = load_class(MODELS, name)
    given = {"conditions": ["label"]} if name == "cgan" else {}
    keys = {"name": name, "data": models.images(classes=10 * len(given)), **given, **SMALL.get(name, {})}
    return cls(cls.Config.model_validate(keys)).eval()


def refuse(call: Callable[[], object], match: str) -> None:
    with pytest.raises(NotFinite, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", plugin_names(MODELS))
def test_nothing_is_drawn_or_shown_of_weights_that_are_not_finite(tmp_path: Path, name, bad):
    model = shipped(name)
    with torch.no_grad():
        next(reversed(list(model.parameters()))).flatten()[-1] = bad  # one number of one weight
    match = (
        rf"{type(model).__name__}: its weights are NaN or infinite \(.+\), so nothing is drawn or measured; take an earlier"
    )
    for out in OUTPUTS:
        refuse(lambda out=out: genhub.sample(model, 2, out=tmp_path / out), match)
    said = {}
    for view, overrides in itertools.product(plugin_names(VIEWS), (DIGITS, [])):
        try:
            genhub.show(view, model, overrides, out=tmp_path / f"{view}.png")
        except (NotFinite, genhub.InputError) as error:  # weights; or it has no such view, or no use for data
            if "shows no real " not in str(error):
                said[view, bool(overrides)] = str(error)
    assert all("weights are NaN or infinite" in line or " needs " in line for line in said.values()), said
    assert {view for view, _ in said} == set(plugin_names(VIEWS))
    assert not list(tmp_path.iterdir())


def test_the_verbs_say_it_in_a_line_and_leave_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = shipped("ddpm")
    with torch.no_grad():
        model.network.unet.conv_out.bias.fill_(torch.nan)
    model.save_pretrained("model")
    before = sorted(tmp_path.rglob("*"))
    lines = [["sample", "model", "--out", out, "-n", "2"] for out in OUTPUTS]
    for line in [
        *lines,
        ["show", "reverse", "model"],
        ["evaluate", "model", *DIGITS, "-n", "4", "--metrics", "bits_per_dimension"],
    ]:
        result = CliRunner().invoke(cli.app, line)
        assert isinstance(result.exception, NotFinite), (line, result.output)
        assert "unet.conv_out.bias" in str(result.exception)
    assert sorted(tmp_path.rglob("*")) == before


class Breaks(models.Pair):
    """Finite weights; what it computes is not, from a step, a noise level or an option on."""

    num_train_timesteps = 10

    def sample(self, n, *, conditions=None, generator=None, spread: float = 1.0):
        *_, last = self.denoise(n, generator=generator, spread=spread)
        return last.sample

    def denoise(self, n, *, conditions=None, generator=None, spread: float = 1.0) -> Iterator[DenoisingStep]:
        images = randn((n, *self.shape), generator, self.device)
        for index in range(5):
            images = images * spread  # infinite, once it was done often enough
            yield DenoisingStep(index, 9 - 2 * index, images, images)

    def add_noise(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return images + noise / (9 - timesteps).view(-1, 1, 1, 1)

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        return timesteps / 0

    def predict_x0(self, x_t: Tensor, timesteps: Tensor, conditions=None) -> Tensor:
        return x_t

    def encode(self, images: Tensor, conditions=None) -> Tensor:
        return images.flatten(1).log()

    def decode(self, latents: Tensor, conditions=None) -> Tensor:
        return latents.view(-1, *self.shape)

    def bits_per_dimension(self, batch, *, generator=None) -> Tensor:
        return batch.x.flatten(1).log().sum(1)


def breaks() -> Breaks:
    torch.manual_seed(0)
    return Breaks(Breaks.Config(data=models.images())).eval()


def test_the_step_and_the_option_that_did_it_are_named(tmp_path: Path):
    model = breaks()
    assert genhub.sample(model, 2).shape == (2, 1, 8, 8)
    refuse(lambda: genhub.sample(model, 3, seed=4, spread=1e15, out=tmp_path / "x.png"),
           r"Breaks: row 0 of seed 4 is NaN or infinite from step 3 \(t = 5\) on, with spread=1000000000000000.0; it is not written")  # fmt: skip
    refuse(lambda: sample_elements(model, Drawing(3, first=6, batch_size=1, options={"spread": 1e15})), "row 6 of seed 0")
    for out in OUTPUTS:
        with pytest.raises(NotFinite):
            draw_to(model, Drawing(3, options={"spread": 1e15}), tmp_path / out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("view", "options", "match"),
    [
        ("forward", {}, "x_t at t = 9: NaN"),
        ("reverse", {"spread": 1e15}, r"step 3 \(t = 5\): NaN"),
        ("reconstruct", {}, "what encode gives: NaN"),
        ("latent", {}, "what encode gives: NaN"),
        ("interpolate", {}, "what encode gives: NaN"),
        ("interpolate", {"between": "seeds", "spread": 1e15}, "drawn 0 of the way: NaN"),
        ("neighbours", {"spread": 1e15}, r"from step 3 \(t = 5\) on"),
    ],
)
def test_no_view_shows_it(tmp_path: Path, view, options, match):
    overrides = [] if "spread" in options and view != "neighbours" else DIGITS  # what is drawn alone takes no data
    refuse(lambda: genhub.show(view, breaks(), overrides, out=tmp_path / "x.png", **options), match)
    assert not list(tmp_path.iterdir())


def loads_as_breaks(monkeypatch, folder: Path) -> None:
    breaks().save_pretrained(folder)
    monkeypatch.setattr("genhub.evaluation.evaluate.load_folder", lambda folder: breaks())  # a class of the tests' own


def test_nothing_is_measured_of_it(tmp_path: Path, monkeypatch):
    loads_as_breaks(monkeypatch, tmp_path)

    apart = [*DIGITS, "data.split=train[:1000]"]

    def measure(*metrics: str, **options: float) -> object:
        return genhub.evaluate(
            tmp_path, 2, overrides=apart, held_out="train[1000:1064]", extractor="pixels", metrics=metrics, **options
        )

    refuse(lambda: measure("bits_per_dimension", "reconstruction"),
           "nothing could be measured: bits_per_dimension: nan, left out; reconstruction_mse: nan, left out")  # fmt: skip
    refuse(lambda: measure("frechet_distance", spread=1e15), r"from step 3 \(t = 5\) on, with spread")
    assert not (tmp_path / "evaluations").is_dir() or not list((tmp_path / "evaluations").glob("*.json"))


def test_features_that_are_not_finite_are_neither_kept_nor_compared(tmp_path: Path, monkeypatch):
    from genhub.evaluation.extractors import Pixels

    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Pixels, "features", lambda self, images: images.flatten(1).float().log())
    loads_as_breaks(monkeypatch, tmp_path / "model")
    refuse(lambda: genhub.evaluate(tmp_path / "model", 2, overrides=DIGITS, extractor="pixels", metrics=["frechet_distance"]),
           "features by the extractor 'pixels': NaN")  # fmt: skip
    assert not list((tmp_path / "cache").rglob("*features.safetensors"))


class Encoded(models.Halves):
    def frozen_encoder(self):
        return genhub.FrozenEncoder(lambda images: images.flatten(1).log(), self)


def test_latents_that_are_not_finite_are_not_kept(tmp_path: Path, monkeypatch):
    from genhub.data.open import load_data
    from genhub.interfaces.columns import DataConfig

    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path))
    data = training_data(Encoded(Encoded.Config(data=models.images())), load_data(DataConfig(cache_latents=True)))
    refuse(lambda: next(data.batches(seed=0)), "data.cache_latents: latents of rows 0 to 31: NaN")
    assert not list(tmp_path.rglob("*.safetensors"))


class Draws(models.Pair):
    """Trains well, and draws badly."""

    def sample(self, n, *, conditions=None, generator=None):
        return torch.full((n, *self.shape), torch.nan)


def test_a_preview_that_is_not_finite_is_warned_of_and_the_run_goes_on(tmp_path: Path, capsys):
    recipe = {"model": {"name": "test_finite:Draws"}, "data": {"batch_size": 8}, "run_dir": str(tmp_path / "run"),
              "trainer": {"max_steps": 2, "sample_every": 1, "num_samples": 2, "trackers": []}}  # fmt: skip
    genhub.train(recipe)
    said = [line for line in capsys.readouterr().err.splitlines() if "no picture" in line]
    assert [line.partition("no picture")[2] for line in said] == [
        f" of step {step}: Draws: row 0 of seed 0 is NaN or infinite; it is not written" for step in (1, 2)
    ]
    assert not list((tmp_path / "run").rglob("*.png"))
    model = Draws(Draws.Config(data=models.images())).train()
    assert draw_preview(model, Drawing(2), RunFolder(tmp_path), 1) is None
    assert model.training


def test_a_measurement_that_is_not_finite_is_warned_of_and_the_run_goes_on(tmp_path: Path, capsys):
    from genhub.recipe.sections import AccelerateConfig
    from genhub.run.run import FolderRun

    run = FolderRun(tmp_path, AccelerateConfig(max_steps=1), seed=0)
    run.evaluator = Mock(side_effect=lambda *_: check_finite(torch.tensor(torch.nan), "a feature"))
    assert run.evaluate(3, breaks()) == {}
    assert "step 3 is not measured: a feature: NaN" in capsys.readouterr().err


def test_what_is_finite_passes():
    check_weights(breaks())
    check_weights(torch.nn.Identity())
    assert check_finite(torch.tensor([1e38, -1.0]), "x").tolist() == pytest.approx([1e38, -1.0])
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = torch.tensor([0.0, bad]).view(1, 1, 1, 2)
        refuse(lambda x=x: models.images((1, 1, 2)).target.from_batch(x), "NaN or infinity, which is not shown, written")
