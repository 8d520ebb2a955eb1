"""Intervals of figures, the figures of real rows beside them, and other libraries' figures of the same rows."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluation_weights import GAN, RECIPE
from test_registry import install, site
from typer.testing import CliRunner

import genhub
from genhub import cli
from genhub.data.open import load_data
from genhub.evaluation import by_rows, metrics
from genhub.evaluation.chosen import metric_named
from genhub.evaluation.compare import compare
from genhub.evaluation.evaluate import measure
from genhub.evaluation.in_place import floor_of
from genhub.evaluation.intervals import of_mean
from genhub.evaluation.measurement import Measurement
from genhub.evaluation.page import html
from genhub.evaluation.protocol import read_evaluation
from genhub.sampling.request import Drawing
from genhub.testing.metric_checks import NoiseModel

__all__ = ["site"]
pytestmark = pytest.mark.usefixtures("module_cache")
ASKED = {"extractor": "pixels", "held_out": "train[80%:]"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    genhub.train(RECIPE | {"data": {"split": "train[:80%]"}, "run_dir": str(folder)})
    return folder


def normal(n: int, d: int, seed: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * std + mean


# Intervals

REAL = normal(3000, 4, 0)
RADII = {k: by_rows.kth_distances(REAL, k) for k in (3, 5)}
BY_ROWS = {
    "frechet_distance": lambda rows: by_rows.frechet_distance(REAL, rows),
    "frechet_infinity": lambda rows: by_rows.frechet_infinity(REAL, rows),
    "kernel_distance": lambda rows: _kernel(rows),
    "precision": lambda rows: by_rows.precision_recall(REAL, rows, radii=RADII[3])[0],
    "recall": lambda rows: by_rows.precision_recall(REAL, rows, radii=RADII[3])[1],
    "density": lambda rows: by_rows.density_coverage(REAL, rows, radii=RADII[5])[0],
    "coverage": lambda rows: by_rows.density_coverage(REAL, rows, radii=RADII[5])[1],
    "sliced_wasserstein": lambda rows: by_rows.sliced_wasserstein(REAL, rows, directions=32, seed=0),
    "label_entropy": lambda rows: by_rows.inception_score((2 * rows).softmax(1)),
}
"""Figures of rows of four numbers, by rows."""


def _kernel(rows: torch.Tensor) -> torch.Tensor:
    found, influence = by_rows.kernel_distances(REAL, rows, subsets=10, subset_size=300, seed=0)
    return found.mean() + influence


@pytest.mark.parametrize("figure", BY_ROWS)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.3, 1.2)], ids=["as real", "off"])
def test_an_interval_holds_what_other_rows_give(figure, mean, std):
    """Of 40 sets of rows, the mean of all is in nearly all intervals, and these are not much wider than need be."""
    found = [BY_ROWS[figure](normal(300, 4, seed, mean, std)) for seed in range(1, 41)]
    values, ends = torch.stack([rows.mean() for rows in found]), torch.tensor([of_mean(rows) for rows in found])
    inside = (ends[:, 0] <= values.mean()) & (values.mean() <= ends[:, 1])
    assert inside.double().mean() >= 0.85
    assert (ends[:, 1] - ends[:, 0]).mean() < 2 * 2 * 1.96 * values.std()


def test_values_of_rows_are_the_figures():
    rows = normal(200, 4, 9, 0.2)
    assert float(BY_ROWS["frechet_distance"](rows).mean()) == pytest.approx(metrics.frechet_distance(REAL, rows), rel=1e-12)
    # By how much a figure moves when a row counts a little more: here twice.
    for name, whole in [("frechet_distance", metrics.frechet_distance), ("sliced_wasserstein", _sliced)]:
        influence = BY_ROWS[name](rows) - whole(REAL, rows)
        many = torch.cat([rows] * 20)
        moved = torch.tensor(
            [whole(REAL, torch.cat([many, rows[i : i + 1]])) - whole(REAL, many) for i in range(8)]
        ).double()
        assert torch.allclose(moved * 4001, influence[:8], atol=0.05 * float(influence.std()) + 0.02), name


def _sliced(real: torch.Tensor, rows: torch.Tensor) -> float:
    return metrics.sliced_wasserstein(real, rows, directions=32)


def test_the_interval_of_a_mean():
    values = normal(400, 1, 3)[:, 0]
    low, high = of_mean(values)
    assert (low, high) == of_mean(values)
    assert (high - low) / 2 == pytest.approx(1.96 * float(values.std()) / 20, rel=0.1)
    assert of_mean(torch.tensor([1.0] * 50 + [0.0] * 50)) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # Wilson's
    assert of_mean(torch.zeros(100)) == pytest.approx((0, 0.0370), abs=1e-4)
    assert of_mean(torch.full((9,), 0.25)) == (0.25, 0.25)


def test_the_frechet_distance_of_infinitely_many_rows_is_less_biased():
    """Of Gaussians whose distance is known: of real rows 0, of rows that are off the closed form's."""
    real = normal(100_000, 16, 0)
    for mean, std in [(0.0, 1.0), (0.2, 1.1)]:
        known = 16 * (mean**2 + (std - 1) ** 2)
        found = [(metrics.frechet_distance(real, rows), metrics.frechet_infinity(real, rows))
                 for rows in (normal(500, 16, seed, mean, std) for seed in range(1, 9))]  # fmt: skip
        biased, less = (float(np.mean(figure)) - known for figure in zip(*found, strict=True))
        assert biased > 0.1
        assert abs(less) < biased / 4


def test_figures_have_intervals_wherever_they_are_shown(run):
    asked = ["frechet_distance", "kernel_distance", "precision_recall", "memorised", "cost"]
    found = genhub.evaluate(run, 60, metrics=asked, **ASKED)
    costs = {"parameters", "network_evaluations", "rows_per_second", "kernel_distance_std"}
    assert found.intervals.keys() == found.values.keys() - costs
    assert all(low <= found.values[name] <= high for name, (low, high) in found.intervals.items())
    again = genhub.evaluate(run, 60, metrics=asked, **ASKED)
    assert (again.intervals, again.floor) == (found.intervals, found.floor)
    stored = read_evaluation(next((run / "evaluations").glob("*.json")))
    assert (stored.intervals, stored.floor) == (found.intervals, found.floor)
    words = [
        "evaluate",
        str(run),
        "-n",
        "60",
        "--metrics",
        "frechet_distance",
        "--extractor",
        "pixels",
        "--held-out",
        "train[80%:]",
    ]
    low, high = found.intervals["frechet_distance"]
    said = CliRunner().invoke(cli.app, words).stdout
    assert f"[{low:,.4g}, {high:,.4g}]" in said
    assert f"real rows {found.floor['frechet_distance']:,.4g}" in said
    facts = json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).stdout)
    assert facts["intervals"]["frechet_distance"] == [low, high]
    names, (line, real) = compare([run]).table()
    at = names.index("frechet_distance")
    assert line[at].startswith(f"{found.values['frechet_distance']:,.4g} ± ")
    assert (real[0], float(real[at])) == ("real rows", pytest.approx(found.floor["frechet_distance"], rel=1e-3))
    assert "<td>real rows</td>" in html(compare([run]))


def test_an_evaluation_without_them_is_read(run, tmp_path):
    """As a genhub before these kept it."""
    genhub.evaluate(run, 40, metrics=["frechet_distance"], seed=3, **ASKED)
    (found,) = (one for one in compare([run]).rows[0].evaluations if one.protocol.seed == 3)
    older = found.model_copy(update={"intervals": {}, "floor": {}, "probe_accuracy": None})
    file = older.write(tmp_path)
    content = json.loads(file.read_text())
    for key in ("intervals", "floor", "probe_accuracy", "checksum"):
        del content[key]
    from genhub.evaluation.protocol import _checksum

    file.write_text(json.dumps(content | {"checksum": _checksum(content)}))
    assert read_evaluation(file).values == found.values
    merged = read_evaluation(found.write(tmp_path))  # beside the figures that were there
    assert merged.intervals == found.intervals


STRANGER = """
from genhub import Metric
class Spread(Metric):
    figures = {"spread": "lower", "spread_again": None}
    resamples = 20
    def compute(self, subject):
        values = subject.numbers(subject.drawn)
        return {"spread": float(values.std()), "spread_again": values.mean(1)}
class Plain(Spread):
    figures = {"plain": "lower"}
    resamples = 0
    def compute(self, subject):
        return {"plain": float(subject.numbers(subject.drawn).std())}
class Wrong(Spread):
    figures = {"wrong": None}
    def compute(self, subject):
        return {"wrong": subject.numbers(subject.drawn)}
"""


def test_a_strangers_figures_may_have_intervals(site, run):
    points = "".join(f"{name.lower()} = spread_metric:{name}\n" for name in ("Spread", "Plain", "Wrong"))
    install(site, "spread", f"[genhub.metrics]\n{points}", spread_metric=STRANGER)
    found = genhub.evaluate(run, 80, metrics=["spread", "plain"], seed=8, **ASKED)
    assert found.values["spread"] == pytest.approx(found.values["plain"])
    assert found.intervals.keys() == {"spread", "spread_again"}
    low, high = found.intervals["spread"]
    assert low < found.values["spread"] < high
    assert (low + high) / 2 == pytest.approx(found.values["spread"])
    assert found.floor == {}
    with pytest.raises(
        genhub.PluginError, match=r"metric 'wrong' .*: wrong is \(80, 64\); give a number, or rows' values \(n,\)"
    ):
        genhub.evaluate(run, 80, metrics=["wrong"], seed=8, **ASKED)


def test_several_extractors_measure_the_same_rows(run, monkeypatch):
    words = [
        "evaluate",
        str(run),
        "-n",
        "30",
        "--seed",
        "4",
        "--metrics",
        "frechet_distance,cost",
        "--extractor",
        "pixels,values",
    ]
    first, second = json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).stdout)
    assert first["drawn"] == second["drawn"]
    assert [one["protocol"]["extractor"] for one in (first, second)] == ["pixels (pixels)", "values (values)"]
    assert ("parameters" in first["values"], list(second["values"])) == (True, ["frechet_distance"])
    said = CliRunner().invoke(cli.app, words).stdout
    assert said.index("by pixels (pixels)") < said.index("by values (values)")
    assert said.count("frechet_distance ") == 2
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    wrong = CliRunner().invoke(cli.app, words)
    assert "several are measured by one process" in f"{wrong.output} {wrong.exception}"


# Real rows in the drawn ones' place


def test_the_floor_is_of_real_rows_that_were_not_trained_on(run):
    found = genhub.evaluate(run, 100, metrics=["frechet_distance", "frechet_infinity", "precision_recall"], seed=1, **ASKED)
    assert found.floor.keys() == {"frechet_distance", "frechet_infinity", "precision", "recall"}
    data, unseen = load_data(split="train[:80%]"), load_data(split="train[80%:]")
    rows = np.random.Generator(np.random.PCG64(0)).permutation(unseen.num_rows)
    real, fresh = ((one.own(range(one.num_rows)) / 255).flatten(1) for one in (data, unseen))
    assert found.floor["frechet_distance"] == pytest.approx(metrics.frechet_distance(real, fresh[rows[:100]]), rel=1e-6)
    assert found.floor["frechet_distance"] < found.values["frechet_distance"] / 5
    assert not [note for note in found.notes if note.startswith("real rows beside the figures")]
    more = genhub.evaluate(run, 400, metrics=["frechet_distance"], **ASKED)
    assert "real rows beside the figures: 359 of split train[80%:], fewer than the 400 drawn" in more.notes
    drawn = more.values["frechet_distance_held_out"]
    assert drawn != more.values["frechet_distance"]
    images = genhub.sample(run, 400, seed=0).flatten(1) / 255
    assert drawn == pytest.approx(metrics.frechet_distance(fresh, images), rel=1e-3)


def test_where_there_are_no_such_rows_there_is_no_floor(run):
    found = genhub.evaluate(run, 30, metrics=["frechet_distance"], extractor="pixels", seed=2)
    assert found.values.keys() == {"frechet_distance"}
    assert found.floor == {}
    # Nor of rows that are compared with themselves.
    other = genhub.evaluate(run, 30, metrics=["frechet_distance"], seed=2, overrides=["data.split=train[80%:]"], **ASKED)
    assert other.floor == {}


def test_real_rows_are_asked_for_what_they_are():
    """Labels that the probe reads, numbers that a function tells, of other rows than the model was asked for."""
    conditions = ("label", "ink")
    data, unseen = (load_data(conditions=conditions, split=split) for split in ("train[:80%]", "train[80%:]"))
    model = NoiseModel(genhub.ModelConfig(conditions=conditions, data=data.spec.model_data))
    drawing = Drawing(60, conditions={"label": torch.arange(60) % 10, "ink": torch.full((60,), 0.4)})
    subject = Measurement(model, data, unseen, "values", drawing, lambda: torch.zeros(60, 1, 8, 8, dtype=torch.uint8))
    found = measure(subject, ["condition_error"], 0)
    assert found.floor["condition_error"] < 0.01 < found.values["condition_error"]

    class Reads:  # by heart
        accuracy, fingerprint = 1.0, "none"

        def probabilities(self, values: torch.Tensor) -> torch.Tensor:
            every = unseen.own(range(unseen.num_rows)).flatten(1)
            same = torch.stack([(every == value).all(1).int().argmax() for value in values.flatten(1)])
            return torch.nn.functional.one_hot(unseen.column("label").kept(range(unseen.num_rows))[same], 10).float()

    subject = replace(subject)
    subject.probe = Reads()
    measured = measure(subject, ["label_accuracy", "label_entropy"], 0)
    assert measured.floor["label_accuracy"] == 1
    assert 8 < measured.floor["label_entropy"] <= 10
    assert measured.values["label_accuracy"] == pytest.approx(0.1, abs=0.01)
    assert measured.probe_accuracy == 1


def test_the_floor_is_kept_for_the_next_model(run, monkeypatch):
    data, unseen = load_data(split="train[:80%]"), load_data(split="train[80%:]")
    model = NoiseModel(genhub.ModelConfig(data=data.spec.model_data))
    chosen = metric_named("density_coverage")

    def subject() -> Measurement:
        return Measurement(model, data, unseen, "pixels", Drawing(50), lambda: data.own(range(50)))

    first = floor_of(chosen, subject())
    monkeypatch.setattr(type(chosen.metric), "compute", None)
    assert floor_of(chosen, subject()) == first


# Other libraries


@pytest.mark.parametrize("channels", [1, 3])
def test_an_npz_is_what_adms_evaluator_reads(tmp_path, channels):
    """`arr_0` in colour, (n, h, w, 3) uint8; as data, such a file has each image once."""
    pixels = torch.randint(256, (7, channels, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "real.npz", image=pixels.permute(0, 2, 3, 1).numpy())
    recipe = RECIPE | {"model": GAN, "data": {"name": str(tmp_path / "real.npz")}, "run_dir": str(tmp_path / "run")}
    run = genhub.train(recipe)
    drawn = genhub.sample(run, 5, out=tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        assert set(arrays.files) == {"image", "arr_0", "arr_0_of"}
        colour = arrays["arr_0"]
    assert (colour.shape, colour.dtype) == ((5, 8, 8, 3), np.uint8)
    assert np.array_equal(colour, drawn.expand(5, 3, 8, 8).permute(0, 2, 3, 1).numpy())
    data = load_data(str(tmp_path / "x.npz"))
    assert (list(data.spec.columns), data.notes) == (["image"], ())
    assert torch.equal(data.own(range(5)), drawn)


FIDELITY = os.environ.get("GENHUB_TORCH_FIDELITY") or importlib.util.find_spec("torch_fidelity")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not FIDELITY, reason="needs torch-fidelity: pip install --no-deps --target DIR torch-fidelity, "
                                         "GENHUB_TORCH_FIDELITY=DIR")  # fmt: skip
def test_torch_fidelity_measures_the_same(tmp_path):
    """FID to 1e-5, KID within the spread of a mean of random subsets; of PNGs and of the .npz."""
    script = Path(__file__).with_name("beside_torch_fidelity.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    ours = found["ours"]
    for theirs in found["theirs"]:
        assert ours["frechet_distance"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
        spread = theirs["kernel_inception_distance_std"]
        assert ours["kernel_distance"] == pytest.approx(theirs["kernel_inception_distance_mean"], abs=spread)
        assert ours["kernel_distance_std"] == pytest.approx(spread, rel=0.5)
