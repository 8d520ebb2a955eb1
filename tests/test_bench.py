"""`genhub bench`: every family that fits, one time, one page; killed, it ends with the same table."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import genhub
from genhub.benches.plan import RESULT, RunResult, Settings
from genhub.benches.ranking import Ranking, Row
from genhub.cli import app
from genhub.store.run_folder import RunFolder

WORDS = ["bench", "moons", "--minutes", "0.1", "-n", "200"]
TIMES = {"rows_per_second"}


def result(model: str, seed: int, **values: float) -> RunResult:
    return RunResult(
        model=model, recipe="", seed=seed, steps=10, seconds=1.0, values=values, intervals={"frechet_distance": (0.5, 1.5)}
    )


def ranking(ranked_by: str, **rows: list[RunResult]) -> Ranking:
    settings = Settings(source="digits", minutes=1, n=10, ranked_by=ranked_by, title="digits")
    found = tuple(Row(model=model, recipe=f"{model}.yaml", results=tuple(results)) for model, results in rows.items())
    return Ranking(folder=Path("bench"), settings=settings, seeds=2, rows=found, left_out={"ar": "doesn't fit"})


def test_a_figure_is_the_mean_over_seeds_with_students_interval():
    row = Row(
        model="vae",
        recipe="",
        results=tuple(result("vae", seed, frechet_distance=value) for seed, value in enumerate([1.0, 2.0, 6.0])),
    )
    assert row.mean("frechet_distance") == 3.0
    low, high = row.interval("frechet_distance")
    assert (low + high) / 2 == pytest.approx(3.0)
    assert high - 3.0 == pytest.approx(4.302653 * 7**0.5 / 3**0.5, rel=1e-5)  # t of 2 degrees, a variance of 7
    assert row.mean("recall") is None
    one = Row(model="vae", recipe="", results=(result("vae", 0, frechet_distance=1.0),))
    assert one.interval("frechet_distance") == (0.5, 1.5)  # of one seed, over its rows


def test_the_table_has_the_ranked_figure_first_and_real_rows_last():
    rows = {"vae": [result("vae", 0, frechet_distance=1.0, recall=0.5, parameters=1000.0)]}
    rows["vae"][0] = rows["vae"][0].model_copy(update={"floor": {"frechet_distance": 0.1}})
    names, lines = ranking("frechet_distance", **rows).table()
    assert names[:5] == ["", "model", "frechet_distance", "recall", "parameters"]
    assert lines[0][:5] == ["1", "vae", "1 ± 0.5", "0.5", "1,000"]
    assert lines[-1][:3] == ["", "real rows", "0.1"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench of two families that fit and one that doesn't, with two seeds."""
    folder = tmp_path_factory.mktemp("bench")
    found = CliRunner().invoke(
        app, [*WORDS, "--models", "flow,realnvp,ar", "--seeds", "2", "--jobs", "2", "--out", str(folder / "b")]
    )
    assert found.exit_code == 0, (found.output, found.exception)
    (folder / "said").write_text(found.output)
    return folder


def table(folder: Path) -> dict:
    """Return the figures of bench.json that don't depend on how fast this machine was."""
    content = json.loads((folder / "bench.json").read_text())
    return {
        family["model"]: [
            (
                {name: value for name, value in run["values"].items() if name not in TIMES},
                run["steps"],
                [at[1] for at in run["by_time"]],
            )
            for run in family["results"]
        ]
        for family in content["families"]
    } | {"left_out": content["left_out"]}


@pytest.mark.slow
def test_every_family_that_fits_is_ranked_and_the_others_have_a_reason(done):
    said, content = (done / "said").read_text(), json.loads((done / "b" / "bench.json").read_text())
    assert "left out ar: ar doesn't fit: model.data: a vector has no levels to draw one by one" in said
    means = [family["figures"]["sliced_wasserstein"]["mean"] for family in content["families"]]
    assert means == sorted(means)
    assert {family["model"] for family in content["families"]} == {"flow", "realnvp"}
    assert content["left_out"]["ar"].startswith("ar doesn't fit")
    for family in content["families"]:
        assert [run["seed"] for run in family["results"]] == [0, 1]
        assert len(family["results"][0]["by_time"]) == 4
        assert family["results"][0]["peak_memory"] > 2**20
        assert "likelihood" in family["results"][0]["capabilities"]
    flow = next(family for family in content["families"] if family["model"] == "flow")
    assert [at[0] for at in flow["results"][0]["by_evaluations"]] == [2, 4, 8, 16, 32, 64]  # Heun's: two a step
    page = (done / "b" / "bench.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert page.count("<svg") == 3  # time; evaluations and seconds
    assert "http" not in re.sub(
        r"http://www.w3.org|http://purl.org|https://matplotlib.org|http://creativecommons.org", "", page
    )
    assert f"genhub train {done / 'b' / content['families'][0]['recipe']} trainer.max_time=1h" in page
    assert f"Page     {done / 'b' / 'bench.html'}" in said


@pytest.mark.slow
def test_the_same_command_trains_nothing_again_and_another_bench_is_refused(done):
    words = [*WORDS, "--models", "flow,realnvp,ar", "--seeds", "2", "--out", str(done / "b")]
    before, times = table(done / "b"), {file: file.stat().st_mtime_ns for file in (done / "b").rglob(RESULT)}
    assert CliRunner().invoke(app, words).exit_code == 0
    assert table(done / "b") == before
    assert {file: file.stat().st_mtime_ns for file in (done / "b").rglob(RESULT)} == times
    with pytest.raises(genhub.InputError, match="holds another bench: n was 200, is 300; choose another folder by --out"):
        CliRunner().invoke(app, [*words, "-n", "300"], catch_exceptions=False)


@pytest.mark.slow
def test_a_bench_killed_ten_times_ends_with_the_same_table(done, zygote, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(done / "b", folder)
    for run in [path.parent for path in folder.rglob(RESULT)]:  # what is left is how many steps fit into the time here
        keep = {RunFolder(run).found_steps, RunFolder(run).lock}
        for path in run.iterdir():
            if path not in keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    words = [*WORDS, "--models", "flow,realnvp,ar", "--seeds", "2", "--out", str(folder)]
    for _ in range(10):
        job = zygote.genhub(*words, cwd=tmp_path)
        time.sleep(4)
        job.signal()
        job.wait()
    job = zygote.genhub(*words, cwd=tmp_path)
    assert job.wait() == 0, job.err
    assert table(folder) == table(done / "b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "flwo"], "--models: no family is called 'flwo'; did you mean 'flow'"),
        (["--condition", "lable"], "moons has no column 'lable'; did you mean 'label'"),
        (["--extractor", "dino"], "'dino'"),
    ],
)
def test_what_cant_be_is_told_before_anything_is_trained(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(genhub.InputError, match=re.escape(message)):
        CliRunner().invoke(app, [*WORDS, *words], catch_exceptions=False)
    assert not list(tmp_path.rglob("seed-*"))


def test_a_bench_without_a_result_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(genhub.GenhubError, match="no family has a result"):
        CliRunner().invoke(app, [*WORDS, "--models", "ar,tarflow"], catch_exceptions=False)


@pytest.mark.slow
def test_two_processes_an_edited_recipe_and_a_key_with_its_section_in_front(tmp_path, monkeypatch):
    """Wine has one split: a tenth of its rows is laid aside, however its keys are spelled."""
    monkeypatch.chdir(tmp_path)
    words = [
        "bench",
        "wine",
        "data.target=features",
        "--models",
        "realnvp",
        "--minutes",
        "0.1",
        "--seeds",
        "1",
        "-n",
        "50",
        "--num-processes",
        "2",
    ]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    file, log = Path("bench/wine/bench.json"), Path("bench/wine/realnvp/seed-0.bench.log")
    (run,) = json.loads(file.read_text())["families"][0]["results"]
    assert "memorised" in run["values"]
    assert run["floor"]["sliced_wasserstein"] > 0
    assert log.read_text().count("Training for 6s") == 1
    recipe = Path("bench/wine/realnvp.yaml")
    recipe.write_text(recipe.read_text().replace("hidden_features: 128", "hidden_features: 32"))
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    (other,) = json.loads(file.read_text())["families"][0]["results"]
    assert other["values"]["parameters"] < run["values"]["parameters"]
    assert Path("bench/wine/realnvp/seed-0.old-1").is_dir()


def test_what_cant_be_compared_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    np.savez("wide.npz", x=np.random.default_rng(0).normal(size=(40, 5000)).astype(np.float32))
    pq.write_table(pa.table({"x": [[float(i), 1.0] for i in range(40)]}), "s.parquet")
    for words, message in [
        (["wide.npz"], "extractor 'values' is for at most"),
        (["s.parquet", "streaming=true", "columns.x=vector"], "a stream's rows are not at hand to compare with"),
        (["moons", "--extractor", "values,values"], "one is named twice"),
    ]:
        with pytest.raises(genhub.InputError, match=re.escape(message)):
            CliRunner().invoke(app, ["bench", *words, "--models", "vae"], catch_exceptions=False)
    assert not list(tmp_path.rglob("*.yaml"))


@pytest.mark.parametrize("rows", [5, 12, 50, 101])
def test_a_small_table_can_be_laid_aside(rows, tmp_path):
    from genhub.benches.plan import LAID_ASIDE, TRAINED_ON

    file = tmp_path / "t.csv"
    file.write_text("a,b\n" + "".join(f"{i},{i * 2}.5\n" for i in range(rows)))
    keys = {"columns": {"v": {"from": ["a", "b"], "modality": "vector"}}, "target": "v"}
    counts = [genhub.load_data(str(file), split=split, **keys).spec.num_rows for split in (TRAINED_ON, LAID_ASIDE)]
    assert sum(counts) == rows
    assert counts[0] > counts[1]


@pytest.mark.slow
def test_a_bench_elsewhere_has_the_same_figures(done, tmp_path):
    """By submitit's own processes, with the steps that fit into the time here."""
    folder = tmp_path / "b"
    shutil.copytree(done / "b", folder)
    left = folder / "realnvp" / "seed-1"
    for path in left.iterdir():
        if path not in {RunFolder(left).found_steps, RunFolder(left).lock}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    words = [*WORDS, "--models", "flow,realnvp,ar", "--seeds", "2", "--out", str(folder)]
    elsewhere = ["--launcher", "slurm", "--launcher-option", "cluster=local"]
    assert CliRunner().invoke(app, [*words, *elsewhere], catch_exceptions=False).exit_code == 0
    assert (folder / "slurm").is_dir()
    assert table(folder) == table(done / "b")
