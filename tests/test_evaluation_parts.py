"""A stranger's metric, one class and one line: wherever genhub's own are. What fails in it is said, and costs no other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_registry import install, site
from typer.testing import CliRunner

import genhub
from genhub import cli
from genhub.data.open import load_data
from genhub.errors import DataError
from genhub.evaluation.compare import compare
from genhub.evaluation.evaluate import measure
from genhub.evaluation.measurement import Measurement
from genhub.evaluation.page import html
from genhub.sampling.request import Drawing
from genhub.testing.metric_checks import NoiseModel

__all__ = ["site"]

SOURCE = """
from genhub import Metric


class Brightness(Metric):
    figures = {"brightness": "higher", "brightness_top": None}
    rows = 3
    least, bias = 50, "hard to tell"

    def missing(self, subject):
        return None if len(subject.reference.spec.modality.shape) == 3 else "is for images"

    def compute(self, subject):
        subject.notes.append(f"brightness: of {subject.n} rows of seed {subject.seed}")
        values = subject.numbers(subject.drawn)
        return {"brightness": float(values.mean()), "brightness_top": float(values.max())}


class Fails(Metric):
    figures = {"fails": None}

    def compute(self, subject):
        return {"fails": 1 / (len(subject.drawn) - 20)}


class Misnames(Metric):
    figures = {"misnames": "lower"}

    def compute(self, subject):
        return {"how far": 1.0}
"""
POINTS = "[genhub.metrics]\nbrightness = bright_metric:Brightness\nfails = bright_metric:Fails\nmisnames = bright_metric:Misnames\n"
RECIPE = {
    "model": {"name": "vae", "channels": [4], "latent_dim": 2},
    "trainer": {"max_steps": 4, "save_every": 2, "sample_every": None, "trackers": []},
}
ASKED = {"extractor": "pixels"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def stranger(site: Path) -> None:
    install(site, "bright-metric", POINTS, bright_metric=SOURCE)


@pytest.fixture
def run(stranger, tmp_path) -> Path:
    """A run that measured itself by the stranger's metric, and kept what was best by it."""
    evaluate = {"every": 2, "n": 20, "metrics": ["brightness"], "save_best": "brightness", **ASKED}
    genhub.train(RECIPE | {"evaluate": evaluate, "run_dir": str(tmp_path / "run")})
    return tmp_path / "run"


def test_it_is_wherever_the_built_in_ones_are(run, hub):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figures = [line["evaluate/brightness"] for line in lines if "evaluate/brightness" in line]
    assert len(figures) == 2
    found = genhub.evaluate(run, 20, metrics=["brightness", "frechet_distance"], **ASKED)
    assert found.values["brightness"] == pytest.approx(figures[-1], rel=1e-3)
    assert {"brightness: of 20 rows of seed 0", "brightness: 20 rows are few; below 50 it is hard to tell"} <= set(
        found.notes
    )
    columns, ((*_, brightness, top, _),) = compare([run]).table()
    assert columns[-3:] == ["brightness", "brightness_top", "frechet_distance"]
    assert (float(brightness), float(top)) == pytest.approx(
        (found.values["brightness"], found.values["brightness_top"]), rel=1e-3
    )
    page = html(compare([run]))
    assert "<th>brightness ↑</th><th>brightness top</th><th>frechet distance ↓</th>" in page
    assert "brightness ↑" in page.partition("Quality while training")[2]
    genhub.push_to_hub(run, "alice/bright")
    assert "brightness" in hub.repos["alice/bright"].files["README.md"].decode()
    listed = CliRunner().invoke(cli.app, ["plugins", "list"]).stdout
    assert "metric     brightness" in listed
    assert "bright_metric:Brightness" in listed
    with pytest.raises(genhub.InputError, match="metric 'brightness': needs 3 drawn rows or more, not 2"):
        genhub.evaluate(run, 2, metrics=["brightness"], **ASKED)


def test_where_nobody_names_metrics_it_is_computed_and_what_fails_is_a_note(stranger, tmp_path):
    np.savez(tmp_path / "x.npz", image=np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8))
    run = genhub.train(RECIPE | {"data": {"name": str(tmp_path / "x.npz")}, "run_dir": str(tmp_path / "run")})
    found = genhub.evaluate(run, 20, **ASKED)
    assert {"brightness", "frechet_distance", "density", "parameters"} <= found.values.keys()
    failed = "metric 'fails' from bright-metric 1.0 failed: ZeroDivisionError: division by zero (bright_metric.py:"
    assert [note for note in found.notes if note.startswith(failed) and note.endswith("); left out")]
    assert [note for note in found.notes if note.startswith("metric 'misnames' from bright-metric 1.0 failed: ")]
    assert not {"fails", "how far"} & found.values.keys()
    with pytest.raises(genhub.PluginError, match="^metric 'fails' from bright-metric 1.0 failed: ZeroDivisionError"):
        genhub.evaluate(run, 20, metrics=["fails"], **ASKED)


def test_what_fails_does_not_stop_a_training(stranger, tmp_path, capsys):
    evaluate = {"every": 2, "n": 20, "metrics": ["fails"], **ASKED}
    genhub.train(RECIPE | {"evaluate": evaluate, "run_dir": str(tmp_path / "run")})
    said = capsys.readouterr().err
    assert "step 4 is not measured: metric 'fails' from bright-metric 1.0 failed: ZeroDivisionError" in said


def test_what_a_recipe_asks_for_is_checked_before_step_0(stranger, site, tmp_path):
    install(site, "broken", "[genhub.metrics]\nbroken = broken_metric:Broken\n", broken_metric="import nothing_of_this_name")
    recipe = RECIPE | {"run_dir": str(tmp_path / "run")}
    for evaluate, message in [
        ({"save_best": "fails"}, "evaluate.save_best: can't be 'fails', which says nothing about how good"),
        ({"save_best": "broken"}, "evaluate.save_best: metric 'broken' from broken 1.0 can't be used: ModuleNotFoundError"),
        ({"metrics": ["brightnes"]}, "evaluate.metrics.0: no metric is called 'brightnes'; did you mean 'brightness'?"),
        ({"metrics": ["brightness"], "n": 2}, "evaluate.metrics: brightness: needs 3 drawn rows or more, not 2"),
    ]:
        with pytest.raises(genhub.RecipeError, match=message):
            genhub.train(recipe | {"evaluate": ASKED | evaluate})
    moons = RECIPE["model"] | {"likelihood": "gaussian"}
    with pytest.raises(genhub.RecipeError, match="evaluate.metrics: brightness: is for images"):
        genhub.train(recipe | {"model": moons, "data": {"name": "moons"}, "evaluate": {"n": 20, "metrics": ["brightness"]}})


def test_a_strangers_modality_has_every_figure(tmp_path):
    """By its numbers, standardised as it says."""
    traces = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", trace=traces)
    columns = {"trace": "broken_parts:Trace"}
    data = load_data(str(tmp_path / "x.npz"), split="train[:60]", columns=columns)
    unseen = load_data(str(tmp_path / "x.npz"), split="train[60:]", columns=columns, known=data.spec.model_data)
    model = NoiseModel(genhub.ModelConfig(data=data.spec.model_data))
    subject = Measurement(model, data, unseen, "values", Drawing(30), lambda: unseen.own(range(30)))
    found = measure(subject, None, 0).values
    expected = ["coverage", "density", "frechet_distance", "kernel_distance", "memorised", "precision", "recall"]
    assert set(expected) | {"sliced_wasserstein", "reconstruction_mse", "parameters"} <= found.keys()
    assert found["precision"] > 0.5
    assert found["memorised"] == 0


def test_a_model_that_can_not_draw_is_not_a_metrics_fault():
    data = load_data(split="train[:50]")
    model = NoiseModel(genhub.ModelConfig(data=data.spec.model_data))

    def draw() -> torch.Tensor:
        raise ValueError("out of ideas")

    subject = Measurement(model, data, DataError("none"), "pixels", Drawing(9), draw)
    with pytest.raises(genhub.InputError, match="metric 'label_accuracy': the model draws without labels"):
        measure(subject, ["cost", "frechet_distance", "label_accuracy"], 0)  # before it draws
    with pytest.raises(ValueError, match="out of ideas"):
        measure(subject, None, 0)
