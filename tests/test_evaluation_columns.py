"""Figures of what is no image, and of models that are given more than a class; views of the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from models import images
from test_format_1 import old_folder

import genhub
from genhub import Conditions, GenerativeModel, ModelConfig, Phase, randn
from genhub.data.open import load_data
from genhub.errors import DataError
from genhub.evaluation.compare import compare
from genhub.evaluation.evaluate import measure
from genhub.evaluation.given import data_for, given_rows, told
from genhub.evaluation.measurement import Measurement
from genhub.evaluation.page import html
from genhub.evaluation.probe import Classifier, Probe
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.registry import EXTRACTORS, load_class
from genhub.modalities.image import in_bytes
from genhub.sampling.draw import sample_elements
from genhub.sampling.request import Drawing
from genhub.views.films import Interpolate
from genhub.views.viewed import Viewed

pytestmark = pytest.mark.usefixtures("module_cache")

TRAINER = {"max_steps": 4, "sample_every": None, "trackers": []}
VAE = {"name": "vae", "channels": [4], "latent_dim": 2}
GIVEN_INK = {"name": "gan", "conditions": ["ink"], "generator": {"channels": [4]}, "discriminator": {"channels": [4]}}
CPU = torch.device("cpu")


class Normal(GenerativeModel):
    """Draws normal noise, whatever it is given."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.shift = torch.nn.ParameterList([torch.zeros(self.shape)])

    def phases(self) -> list[Phase]:
        return [Phase("fit", lambda batch: {"loss": (batch.x - self.shift[0]).square().mean()}, trains=("shift",))]

    def sample(self, n, *, conditions=None, generator=None):
        return randn((n, *self.shape), generator, self.device) + self.shift[0]


@pytest.fixture(scope="module")
def waves(tmp_path_factory) -> Path:
    """300 waves of 32 values, of one to three periods, which their label tells."""
    random, times = np.random.default_rng(0), np.linspace(0, 2 * np.pi, 32)
    periods = random.integers(1, 4, 300)
    wave = np.sin(times * periods[:, None] + random.random((300, 1)))[:, None].astype(np.float32)
    file = tmp_path_factory.mktemp("data") / "waves.npz"
    np.savez(file, wave=wave, label=periods)
    return file


def trained(folder: Path, model: dict, data: dict) -> Path:
    genhub.train({"model": model, "data": data, "trainer": TRAINER, "run_dir": str(folder)})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, waves) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "moons": trained(folder / "moons", VAE, {"name": "moons", "num_rows": 1000}),
        "waves": trained(folder / "waves", VAE, {"name": str(waves), "split": "train[:200]"}),
        "ink": trained(folder / "ink", GIVEN_INK, {"split": "train[:80%]"}),
    }


def test_the_frechet_distance_of_points_has_a_closed_form():
    """Of standardised points beside a normal distribution: the squared differences of 1 and the covariance's roots."""
    data, drawing = load_data(DataConfig(name="moons", num_rows=1000)), Drawing(4000)
    model = Normal(ModelConfig(data=data.spec.model_data))
    subject = Measurement(model, data, DataError("none"), "values", drawing, lambda: sample_elements(model, drawing))
    found = measure(subject, ["frechet_distance"], 0)
    roots = torch.linalg.eigvalsh(torch.cov(data.x(range(1000)).double().T)).sqrt()
    assert found.values["frechet_distance"] == pytest.approx(float(((1 - roots) ** 2).sum()), abs=0.02)
    assert found.protocol.extractor == "values (values)"
    assert found.protocol.reference.modality.modality == "vector"
    assert found.protocol.conditions == {}
    assert not any("can hardly tell" in note for note in found.notes)  # means of points may well be like points


@pytest.mark.slow
def test_the_probe_reads_labels_of_points_and_of_waves(runs, waves):
    found = genhub.evaluate(runs["moons"], 50, metrics=["label_entropy", "precision_recall", "cost"])
    assert 1 <= found.values["label_entropy"] <= 2
    assert found.protocol.extractor.startswith("probe (trained on moons's labels")
    data = load_data(DataConfig(name=str(waves)))
    probe = Probe(data, None, CPU)
    assert probe.accuracy > 0.9
    assert probe.features(data.own(range(7))).shape == (7, 128)
    assert probe.probabilities(data.own(range(7))).shape == (7, 3)


@pytest.mark.parametrize("shape", [(5,), (2, 9), (1, 8, 8), (1, 6, 6, 6)])
def test_a_probe_has_a_network_for_any_number_of_sides(shape):
    network = Classifier(shape, 4).eval()
    assert network(torch.zeros(3, *shape)).shape == (3, 4)
    assert network.features(torch.zeros(3, *shape)).shape == (3, 128)


@pytest.mark.slow
def test_every_metric_that_applies_to_a_signal(runs):
    found = genhub.evaluate(runs["waves"], 60, held_out="train[200:]")
    expected = {"frechet_distance", "kernel_distance", "precision", "coverage", "memorised", "label_entropy"}
    assert expected <= found.values.keys()
    assert 0.2 < found.values["reconstruction_mse"] < 5  # a wave is about 1 in standard deviations
    assert found.values["network_evaluations"] == 1
    assert found.protocol.held_out.num_rows == 100
    with pytest.raises(genhub.InputError, match="100 of the 100 in split train\\[:100\\] were: name another split"):
        genhub.evaluate(runs["waves"], 60, metrics=["memorised"], held_out="train[:100]", extractor="values")


def test_without_labels_numbers_are_compared_and_a_note_says_so(tmp_path):
    points = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    np.savez(tmp_path / "points.npz", point=points)
    data = {"name": str(tmp_path / "points.npz"), "columns": {"point": "vector"}}
    run = trained(tmp_path / "run", VAE, data)
    found = genhub.evaluate(run, 50, metrics=["frechet_distance"])
    note = "probe: points.npz has no column of labels to learn to read, and only images can be turned; compared by `values`"
    assert note in found.notes
    assert found.protocol.extractor == "values (values)"
    with pytest.raises(genhub.InputError, match="extractor 'probe': points.npz has no column of labels .* take the extr"):
        Probe(load_data(DataConfig(**data)), None, CPU)
    with pytest.raises(genhub.InputError, match="metric 'label_entropy': the data has no labels to learn to read"):
        genhub.evaluate(run, 50, metrics=["label_entropy"])
    recipe = {"model": VAE, "data": data, "trainer": TRAINER, "run_dir": str(tmp_path / "measured")}
    genhub.train(recipe | {"evaluate": {"every": 1000, "n": 20}})
    lines = [json.loads(line) for line in (tmp_path / "measured" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["evaluate/frechet_distance"] > 0


@pytest.mark.parametrize("name", ["pixels", "dinov2", "clip", "inception"])
def test_extractors_of_images_say_so(waves, name):
    with pytest.raises(genhub.InputError) as raised:
        load_class(EXTRACTORS, name)(load_data(DataConfig(name=str(waves))), "x.safetensors", CPU)
    assert str(raised.value).startswith(f"extractor '{name}' is for images, and 'wave' is a signal of 1 x 32 values")
    assert "\n" not in str(raised.value)


def test_images_of_16_bits_have_the_pixels_of_their_range(tmp_path):
    deep = np.linspace(0, 65535, 4 * 64).reshape(4, 8, 8).astype(np.uint16)
    np.savez(tmp_path / "deep.npz", image=deep)
    data = load_data(DataConfig(name=str(tmp_path / "deep.npz"), columns={"image": {"bits": 16}}))
    pixels = load_class(EXTRACTORS, "pixels")(data, None, CPU)
    assert torch.allclose(pixels.features(data.own(range(4))), torch.from_numpy(deep / 65535).flatten(1).float(), atol=1e-6)
    assert torch.equal(in_bytes(data.own(range(4)), 65536)[:, 0], torch.from_numpy(np.round(deep / 257).astype(np.uint8)))
    few = Measurement(None, data, DataError("none"), "pixels", Drawing(4), lambda: data.own(range(4)))
    assert torch.equal(few.numbers(few.drawn), pixels.features(few.drawn))


# What rows are given


def test_a_model_given_a_number_is_drawn_for_whole_rows(runs):
    """Of the held-out split; what is asked for is drawn instead, and its protocol is another."""
    by_rows = genhub.evaluate(runs["ink"], 40, metrics=["frechet_distance"], extractor="pixels", held_out="train[80%:]")
    assert by_rows.protocol.conditions == {"ink": "of rows of split train[80%:]"}
    assert "drawn for the conditions of rows of split train[80%:]" in by_rows.notes
    model, data = genhub.load(runs["ink"]), load_data(DataConfig(split="train[80%:]"), ("ink",))
    drawing, whole = given_rows(Drawing(40), model, [DataError("none"), data])
    assert whole.split == "train[80%:]"
    rows = np.random.Generator(np.random.PCG64(0)).permutation(359)[:40]
    assert whole.numbers.tolist() == rows.tolist()
    assert torch.equal(drawing.conditions["ink"], data.column("ink").kept(rows))
    of_training = genhub.evaluate(runs["ink"], 40, metrics=["frechet_distance"], extractor="pixels")
    assert of_training.protocol.conditions == {"ink": "of rows of split train[:80%]"}  # there is no split test
    given = {"conditions": {"ink": [0.1, 0.5]}, "metrics": ["frechet_distance"], "extractor": "pixels"}
    asked = genhub.evaluate(runs["ink"], 40, **given)
    assert asked.protocol.conditions == {"ink": pytest.approx((0.1, 0.5), rel=1e-6)}
    assert asked.protocol.differences(by_rows.protocol) == ["held_out", "conditions"]
    assert len({by_rows.drawn, of_training.drawn, asked.drawn}) == 3
    with pytest.raises(genhub.InputError, match="metric 'label_accuracy': the model draws without labels"):
        genhub.evaluate(runs["ink"], 10, metrics=["label_accuracy"])


def test_a_run_measures_itself_for_whole_rows(tmp_path):
    recipe = {"model": GIVEN_INK, "trainer": TRAINER,
              "run_dir": str(tmp_path / "run"), "evaluate": {"every": 1000, "n": 30, "extractor": "pixels"}}  # fmt: skip
    genhub.train(recipe)
    (found,) = compare([tmp_path / "run"]).rows[0].evaluations
    assert found.protocol.conditions == {"ink": "of rows of split train"}
    again = genhub.evaluate(tmp_path / "run", 30, metrics=["frechet_distance"], extractor="pixels")
    assert again.values == pytest.approx(found.values)
    assert again.protocol == found.protocol


def test_rows_without_a_condition_are_drawn_without_it(tmp_path):
    ink = [0.5, float("nan"), 0.25]
    np.savez(tmp_path / "x.npz", image=np.zeros((3, 8, 8), np.uint8), ink=np.array(ink))
    data = load_data(DataConfig(name=str(tmp_path / "x.npz")), ("ink",))
    model = Normal(ModelConfig(conditions=("ink",), data=data.spec.model_data))
    drawing, _ = given_rows(Drawing(6), model, [data])
    assert sorted(None if row is None else float(row) for row in drawing.conditions["ink"] if row is not None) == [0.25, 0.5]
    given: Conditions = drawing.conditions_of(model)
    assert given.present["ink"].sum() == 4  # of six: three rows, repeated
    assert told(drawing, model)["ink"].count(None) == 1


def test_labels_take_turns_and_data_without_them_will_do(tmp_path):
    model = Normal(ModelConfig(conditions=("label",), data=images(classes=3)))
    assert given_rows(Drawing(5), model, []) == (Drawing(5), None)
    assert told(Drawing(5), model) == {"label": ("0", "1", "2")}
    assert told(Drawing(5, conditions={"label": torch.tensor([2, 2])}), model) == {"label": ("2", "2")}
    np.savez(tmp_path / "x.npz", image=np.zeros((3, 8, 8), np.uint8))
    data = data_for(model, DataConfig(name=str(tmp_path / "x.npz")))
    assert tuple(data.spec.columns) == ("image",)
    with pytest.raises(genhub.DataError, match="nothing.npz"):
        data_for(model, DataConfig(name=str(tmp_path / "nothing.npz")))


# Pages and views


@pytest.mark.slow
def test_points_and_waves_are_compared_on_a_page(runs):
    for name in ("moons", "waves", "ink"):
        genhub.evaluate(runs[name], 30, metrics=["frechet_distance"])
    page = html(compare([runs[name] for name in ("moons", "waves", "ink")]))
    assert page.count("data:image/png;base64,") == 3
    assert "wave: signal 1x32" in page


def test_figures_of_an_older_genhub_are_passed_over_with_a_line(runs, capsys):
    before = set((runs["moons"] / "evaluations").glob("*.json"))
    genhub.evaluate(runs["moons"], 30, metrics=["cost"], seed=77)
    (file,) = set((runs["moons"] / "evaluations").glob("*.json")) - before
    content = json.loads(file.read_text())
    content["protocol"]["reference_images"] = content["protocol"].pop("reference_rows")
    content["images"] = content.pop("drawn")
    file.write_text(json.dumps(content))
    found = compare([runs["moons"]]).rows[0].evaluations
    assert not any(one.protocol.seed == 77 for one in found)
    said = f"genhub: {file}: an older genhub measured this, in another way; left out: genhub evaluate measures again\n"
    assert capsys.readouterr().err == said
    file.unlink()


def test_a_folder_of_format_1_is_measured_when_it_is_told_beside_what(tmp_path):
    """Its recipe has the keys of data that there were then."""
    folder = old_folder(tmp_path / "old", "cgan")
    (folder / "recipe.yaml").write_text("model: {name: cgan}\ndata: {name: digits, image_size: null}\n")
    asked = {"metrics": ["frechet_distance", "cost"], "extractor": "pixels"}
    with pytest.raises(genhub.InputError, match="its recipe is an older genhub's; say which real data to compare with"):
        genhub.evaluate(folder, 20, **asked)
    found = genhub.evaluate(folder, 20, overrides=["data.name=digits"], **asked)
    assert found.protocol.conditions == {"label": tuple("0123456789")}
    assert not any("trained on" in note for note in found.notes)  # format 1's fingerprints tell nothing of it
    with pytest.raises(genhub.InputError, match="no recipe.yaml tells which real data to show; give data.name"):
        genhub.show("neighbours", folder)
    assert genhub.show("neighbours", folder, ["data.name=digits"], n=2).format == "PNG"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moons", "waves"])
@pytest.mark.parametrize("view", ["reconstruct", "interpolate", "neighbours"])
def test_views_of_points_and_waves(runs, view, name):
    options = {"n": 3, **({"steps": 2} if view == "interpolate" else {})}
    first, again, other = (genhub.show(view, runs[name], seed=seed, **options) for seed in (0, 0, 1))
    assert first == again != other


def test_points_share_a_tile_and_what_needs_sides_says_so(runs):
    subject = Viewed(runs["moons"])
    film = Interpolate().draw(subject, n=40, steps=3, between="seeds")
    assert film.panels[""].shape == (3, 40, 2)
    frames, _ = film.frames()
    assert len(frames) == 4
    assert frames[0].width < 700  # one tile, not forty
    with pytest.raises(genhub.InputError, match="latent: is for images and the like so far, and moons/step-.* draws 2 num"):
        genhub.show("latent", runs["moons"] / "checkpoints" / "step-000004")


def test_a_row_a_value_of_any_condition(runs):
    picture = genhub.show("classes", runs["ink"], n=2, conditions={"ink": [0.1, 0.3, 0.5]})
    assert picture.height > genhub.show("classes", runs["ink"], n=2, conditions={"ink": [0.1]}).height
    with pytest.raises(genhub.InputError, match="classes: say what to draw, --condition NAME=VALUES; ink is told ink"):
        genhub.show("classes", runs["ink"])
