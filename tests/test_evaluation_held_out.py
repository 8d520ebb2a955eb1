"""Held-out images that were trained on are refused by their content; an extractor that tells little is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluation_weights import GAN, RECIPE

import genhub
from genhub.cli import app
from genhub.data.open import load_data
from genhub.errors import DataError
from genhub.evaluation.chosen import about, all_metrics, metric_named
from genhub.evaluation.compare import compare
from genhub.evaluation.measurement import Measurement
from genhub.evaluation.page import html
from genhub.interfaces.columns import DataConfig
from genhub.sampling.request import Drawing

pytestmark = pytest.mark.usefixtures("module_cache")

VAE = RECIPE | {"model": {"name": "vae", "channels": [4]}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    splits = {"all": "train", "most": "train[:95%]", "half": "train[:50%]"}
    return {
        name: genhub.train(VAE | {"data": {"split": split}, "run_dir": str(folder / name)}).parents[1]
        for name, split in splits.items()
    }


def measured(run: Path, held_out: str, *metrics: str, **given) -> genhub.evaluation.protocol.Evaluation:
    return genhub.evaluate(
        run, 20, metrics=metrics or ["memorised", "reconstruction"], extractor="pixels", held_out=held_out, **given
    )


def test_what_was_trained_on_is_refused(runs):
    for metric in ("memorised", "reconstruction", "bits_per_dimension"):
        with pytest.raises(genhub.InputError) as raised:
            measured(runs["all"], "train[90%:]", metric)
        assert str(raised.value) == (
            f"metric '{metric}': needs rows that were not trained on, and 180 of the 180 in split train[90%:] were: name "
            "another split"
        )
    with pytest.raises(genhub.InputError, match="108 of the 180"):
        measured(runs["most"], "train[89%:99%]")


def test_what_nobody_named_is_left_out_and_said(runs, monkeypatch):
    """By default all that apply are computed: what does not says why, where one would have expected it."""
    some = [chosen for chosen in all_metrics()[0] if chosen.name in ("memorised", "precision_recall", "cost")]
    monkeypatch.setattr("genhub.evaluation.evaluate.all_metrics", lambda: (some, []))
    found = genhub.evaluate(runs["all"], 3, extractor="pixels", held_out="train[90%:]")
    assert found.values.keys() == {"parameters", "network_evaluations", "rows_per_second"}
    assert "180 of the 180 held-out rows of split train[90%:] were trained on, and are left out" in found.notes
    assert "precision_recall: needs 4 drawn rows or more, not 3" in found.notes


def test_a_part_that_was_trained_on_is_left_out_and_said(runs):
    """The figures are those of the other part."""
    some, none = measured(runs["most"], "train[90%:]"), measured(runs["most"], "train[95%:]")
    assert some.values == pytest.approx(none.values, rel=1e-6)
    assert "90 of the 180 held-out rows of split train[90%:] were trained on, and are left out" in some.notes
    assert not [note for note in none.notes if "held-out" in note]


def test_other_real_images_do_not_hide_what_was_trained_on(runs):
    """Compared with the second half, trained on the first: only the first is refused."""
    other = ["data.split=train[50%:]"]
    with pytest.raises(genhub.InputError, match="180 of the 180 in split train\\[:10%\\]"):
        measured(runs["half"], "train[:10%]", overrides=other)
    again = measured(runs["half"], "train[90%:]")
    assert measured(runs["half"], "train[90%:]", overrides=other).values == pytest.approx(again.values, rel=1e-6)


def test_a_recipe_is_refused_before_step_0(tmp_path):
    """The same images in other files of another folder."""
    for split in ("train", "test"):
        (tmp_path / "data" / split / "x").mkdir(parents=True)
    for number, image in enumerate(np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8)):
        Image.fromarray(image).save(tmp_path / "data" / "train" / "x" / f"{number}.png")
        Image.fromarray(image).save(tmp_path / "data" / "test" / "x" / f"copy-{number}.bmp")
    recipe = RECIPE | {
        "model": GAN,
        "data": {"name": str(tmp_path / "data"), "in_memory": False},
        "run_dir": str(tmp_path / "run"),
    }
    wanted = {"every": 1000, "n": 20, "metrics": ["memorised"], "extractor": "pixels"}
    with pytest.raises(genhub.RecipeError, match="evaluate.metrics: memorised: needs .* 40 of the 40 in split test were"):
        genhub.train(recipe | {"evaluate": wanted})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


# What an extractor can tell


class Contrast:
    """Tells mush at once: a mean of many images has little contrast."""

    fingerprint = source = preprocessing = "contrast"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float().std(1, keepdim=True)


class Blind(Contrast):
    fingerprint = "blind"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), 2)


def subject(extractor: object, split: str = "train") -> Measurement:
    data = load_data(DataConfig(split=split))
    model = genhub.interfaces.registry.load_class("genhub.models", "gan")
    made = model(model.Config(**GAN, data=data.spec.model_data))
    found = Measurement(
        made, data, DataError("none"), "own", Drawing(20), lambda: torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    )
    found.extractor = extractor
    return found


def test_an_extractor_that_can_not_tell_is_said():
    by_features = [metric_named("frechet_distance")]
    assert about(subject(Contrast()), by_features) == []
    assert about(subject(Blind()), by_features) == [
        "own can hardly tell good from bad here: it takes 100% of means of eight real rows for real, of real rows 100%; "
        "--extractor dinov2 may do better"
    ]
    assert about(subject(Blind()), [metric_named("cost")]) == []  # which compares no features
    assert about(subject(Blind(), "train[:150]"), by_features) == []  # too few to tell


def test_it_is_said_wherever_figures_are_shown(runs, hub, capsys):
    note = "pixels can hardly tell good from bad here: it takes "
    assert [found for found in measured(runs["half"], "test", "precision_recall").notes if found.startswith(note)]
    with pytest.raises(SystemExit):
        app(["evaluate", str(runs["half"]), "-n", "20", "--extractor", "pixels", "--metrics", "precision_recall"])
    assert f"note: {note}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        app(["compare", str(runs["half"])])
    assert note in capsys.readouterr().out
    assert note in html(compare([runs["half"]]))
    genhub.push_to_hub(runs["half"], "alice/half")
    assert note in hub.repos["alice/half"].files["README.md"].decode()
