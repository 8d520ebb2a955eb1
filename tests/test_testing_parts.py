"""The conformance kit finds what is wrong with modalities, networks and views, each in one check alone."""

from __future__ import annotations

import json

import broken_models
import broken_parts
import numpy as np
import pytest
from typer.testing import CliRunner

from genhub import Label, ModelData, cli
from genhub.testing import check_metric, check_modality, check_model, check_network, check_view
from genhub.testing.suites import metric_suite, modality_suite, network_suite, view_suite

MODALITIES = {
    "Restless": ("learn", "learnt twice from one column, it differs: let nothing random into learn"),
    "Renamed": ("config", "written as JSON and read again, it is "),
    "Doubles": ("read", "read gives float64 (4,): make it float32 (4,)"),
    "Centres": ("batch", "to_batch makes something else of a value that is alone"),
    "Stays": ("back", "from_batch(to_batch(kept)) is not what is kept: torch.float32"),
    "TakesNaN": ("back", "from_batch takes NaN: raise genhub.NotFinite"),
    "NoPicture": ("picture", "picture gives <class 'numpy.ndarray'>: return a PIL.Image.Image"),
    "Silent": ("words", "told gives '': say in a few words"),
    "Offers": ("control", "control offers 'loud', which ask refuses: ValueError: could not convert string to float"),
    "Misleads": ("words", "ask refuses the example 'four numbers': "),
    "Rounds": ("rows", "to_rows, from_rows: other values come back"),
    "Halves": ("files", "read_file gives other values than write_file was given"),
    "Peeks": ("condition", "beside a vector, rows that are not present depend on the values: put a learnt value there"),
    "Shortcut": ("condition", "beside a vector, with all rows present, no gradient reaches nothing: let every parameter"),
}
NETWORKS = {
    "Refuses": ("config", "it is the default for 0 sides, and refuses (3,): name: wants more"),
    "Narrow": ("shape", "x of 3, given nothing, t (4,), out_channels=4: it gives (4, 3): return finite (4, 4)"),
    "Timeless": ("given", "x of 3, given nothing: the time changes nothing: use it"),
    "Deaf": ("given", "x of 3, given a vector: the vector changes nothing: use it, or leave it out of `takes`"),
    "Spare": ("gradients", "x of 3, given nothing: no gradient reaches spare.bias, spare.weight: make only what it uses"),
    "BatchMean": ("rows_apart", "from the same row alone: let nothing run over the batch"),
    "Unsaved": ("saved", "x of 3, given nothing: saved and loaded, it makes something else: keep all it needs in"),
    "NotInBF16": ("bf16", "in bf16: what it makes is not finite: do what needs digits in float32"),
    "Counts": ("compile", "x of 3, given a vector, compiled: another output: look for Python side effects"),
}
METRICS = {
    "Nameless": ("figures", "can't name figures so: how far apart: letters, digits and _"),
    "Eager": ("missing", "of images it has the model draw: look at the model and the data alone"),
    "Partial": ("compute", "of no case there is apart_too: return all that `figures` names"),
    "Tosses": ("same", "draw by a generator of its own"),
    "Scales": ("untouched", "of images, it changes what it is given: work on new tensors"),
    "Secret": ("features", "of images, it looks at features, and by_features is False: say which it is"),
    "Greedy": ("few", "of images, with 2 rows: IndexError: "),
    "Sways": ("floor", "beside another: look at the rows alone, or say has_floor = False"),
    "Backwards": ("better", "for others, and higher is better: turn it around, or say the other way in `figures`"),
}
VIEWS = {
    "Untyped": ("options", "`draw` has an option n without a type: give it one"),
    "Sneaks": ("picture", "AttributeError: 'Sketched' object has no attribute 'decode'"),
    "Blind": ("rows", "`shows_rows` gives True, and it looks at no real rows: let them agree"),
    "Still": ("moves", "`moves` is True, and `draw` gives a picture: let them agree"),
    "Restive": ("repeats", "a second time it draws another picture: take all that is random from an option `seed`"),
    "Meddles": ("untouched", "afterwards the model is another: weights.0: work on a copy"),
}
BEFORE_COMPILE = ("compile",)
"""Check that takes seconds."""


def failing(suite, check: str, message: str) -> None:
    """One check alone fails, at the broken class or beside it; what needs it is skipped."""
    with suite:
        report = suite.report()
    assert [result.name for result in report.failures] == [check], report.failures
    failure = report.failures[0]
    assert message in failure.message
    assert failure.where.startswith(f"{broken_parts.__file__}:")
    assert all(result.message.startswith("means nothing before") for result in report.results if result.outcome == "skipped")


@pytest.mark.parametrize("name", MODALITIES)
def test_a_broken_modality_fails_in_its_check_alone(name: str) -> None:
    failing(modality_suite(getattr(broken_parts, name), None), *MODALITIES[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_broken_network_fails_in_its_check_alone(name: str) -> None:
    skip = () if name == "Counts" else BEFORE_COMPILE
    failing(network_suite(getattr(broken_parts, name), None, skip), *NETWORKS[name])


@pytest.mark.parametrize("name", METRICS)
def test_a_broken_metric_fails_in_its_check_alone(name: str) -> None:
    failing(metric_suite(getattr(broken_parts, name), None), *METRICS[name])


@pytest.mark.parametrize("name", VIEWS)
def test_a_broken_view_fails_in_its_check_alone(name: str) -> None:
    failing(view_suite(getattr(broken_parts, name), None), *VIEWS[name])


def test_every_check_has_a_part_that_fails_it() -> None:
    for suite, broken in [
        (modality_suite(broken_parts.Trace, None), MODALITIES),
        (network_suite(broken_parts.Plain, None), NETWORKS),
        (metric_suite(broken_parts.Apart, None), METRICS),
        (view_suite(broken_parts.Drawn, None), VIEWS),
    ]:
        assert {check for check, _ in broken.values()} == set(suite.checks)
        assert all(check.contract for check in suite.checks.values())


def test_sound_ones_pass() -> None:
    report = check_modality(broken_parts.Trace, [np.arange(4.0), [1, 2, 3, 9]])
    assert [result.outcome for result in report.results] == ["passed"] * 11
    report = check_network(broken_parts.Plain, {"hidden": 4}, shapes=[(5,), (2,)])
    assert [result.outcome for result in report.results] == ["passed"] * 8
    report = check_metric(broken_parts.Apart)
    assert [result.outcome for result in report.results] == ["passed"] * 9
    report = check_view(broken_parts.Drawn, {"n": 1})
    assert [result.outcome for result in report.results] == ["passed"] * 6


@pytest.mark.slow
def test_a_model_of_columns_that_nobody_registered() -> None:
    """Its rows are made up, and other processes read them by the model's own modalities."""
    data = ModelData(column="trace", target=broken_parts.Trace(scale=2.0), conditions={"label": Label(number=3)})
    report = check_model(broken_models.Sound, data=data)
    assert all(result.outcome == "passed" for result in report.results), report.results


def test_what_no_example_is_for_must_be_given_some() -> None:
    with pytest.raises(AssertionError, match=r"it can't be learnt from any of the kit's examples: call .*values=\[...\]\)"):
        check_modality(broken_parts.Seven)
    check_modality(broken_parts.Seven, [range(7), range(1, 8)], skip=("condition",))


def test_from_the_shell() -> None:
    words = ["plugins", "check", "number", "--kind", "modality", "--json"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    (report,) = json.loads(result.stdout)
    assert report["plugin"].startswith("modality 'number' from genhub-framework ")
    assert [check["name"] for check in report["checks"]][:3] == ["learn", "config", "read"]
    result = CliRunner().invoke(cli.app, ["plugins", "check", "broken_parts:Deaf", "--kind", "network"])
    assert result.exit_code == 1
    assert "FAIL  given" in result.stdout
