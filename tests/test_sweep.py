"""`genhub sweep`: which runs a grid has, what stops them, and how many threads they have. More in test_compare.py."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import yaml
from faults import write_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trainer import pair, wait_for

import genhub
from genhub.jobs.local import LocalLauncher
from genhub.store.run_folder import RunFolder
from genhub.sweeps.sweep import grid, sweep

WORD = st.text("ab1.-é*/ ", min_size=1, max_size=4).filter(lambda text: text.strip() == text and ".." not in text)
VALUE = st.one_of(
    WORD,
    st.builds("{}[{}:{}]".format, WORD, WORD, WORD),
    st.builds("[{}, [{}]]".format, WORD, WORD),
    st.builds('"{},[{}"'.format, WORD, WORD),
    st.builds("{{a: {}, b: {}}}".format, WORD, WORD),
    st.builds("{}{}".format, WORD, st.just("x" * 300)),
)


@settings(deadline=None)
@given(st.lists(st.lists(VALUE, min_size=1, max_size=3), min_size=1, max_size=3))
def test_different_values_are_different_runs_in_different_folders(axes):
    points = grid("digits-gan", [f"data.key{at}={','.join(values)}" for at, values in enumerate(axes)])
    wanted = {()}
    for at, values in enumerate(axes):
        wanted = {(*before, f"data.key{at}={value}") for before in wanted for value in values}
    assert {point.overrides for point in points} == wanted
    assert len({point.run_dir for point in points}) == len(points) == len(wanted)
    assert all(point.run_dir.parent == Path("runs/digits-gan-sweep") for point in points)
    assert all(len(point.run_dir.name.encode()) < 250 for point in points)


def test_splits_of_one_data_set():
    points = grid("digits-gan", ["data.split=train[:900],train[900:]"])
    assert [point.overrides for point in points] == [("data.split=train[:900]",), ("data.split=train[900:]",)]
    assert points[0].run_dir != points[1].run_dir
    assert grid("digits-gan", ["seed=1,2,1"]) == grid("digits-gan", ["seed=1,2"])
    assert grid("digits-gan", ["seed=0..1"])[0].run_dir.name == "seed=0"  # a name that says all needs no more
    with pytest.raises(genhub.InputError, match="a key is given twice"):
        grid("digits-gan", ["seed=1", "seed=2"])


@pytest.fixture
def long_recipe(tiny, tmp_path) -> str:
    return str(write_recipe(tmp_path, pair(tiny), max_steps=10**6, log_every=1, save_every=10**6))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_a_sweep_stops_its_trainings_and_loses_nothing(zygote, long_recipe, tmp_path, number):
    words = ["sweep", long_recipe, "--set", "seed=0..2", "--jobs", "2", "--run-dir", str(tmp_path / "s")]
    job = zygote.genhub(*words, cwd=tmp_path)
    runs = [tmp_path / "s" / f"seed={seed}" for seed in range(3)]
    wait_for(lambda: all((run / "metrics.jsonl").exists() for run in runs[:2]))
    owners = [int(re.search(r"process (\d+)", (run / ".owner").read_text())[1]) for run in runs[:2]]
    job.signal(number)
    assert job.wait() == 128 + number
    assert job.err == (
        f"genhub: {number.name}: the runs finish their step and save (once more: stop at once)\n"
        "genhub: stopped; the same command goes on with what is not done\n"
    )
    assert not any(Path(f"/proc/{owner}").exists() for owner in owners)
    assert all(RunFolder(run).newest_whole()[0] for run in runs[:2])
    assert not runs[2].exists()


@pytest.mark.slow
def test_each_job_has_its_share_of_the_cores(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("genhub.jobs.local.cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    recipe = str(write_recipe(tmp_path, pair(tiny), max_steps=1))
    swept = sweep(recipe, ["data.split=train[:900],train[900:]"], folder=str(tmp_path / "s"), jobs=2)
    assert (len(swept.done), swept.faults, swept.best) == (2, [], [])
    for folder, split in zip(swept.done, ("train[:900]", "train[900:]"), strict=True):
        assert yaml.safe_load((folder / "recipe.yaml").read_text())["data"]["split"] == split
        state = json.loads((RunFolder(folder).newest_whole()[0] / "trainer" / "state.json").read_text())
        assert state["machine"]["threads"] == 1


def test_one_job_at_a_time_has_what_a_run_by_itself_has(monkeypatch):
    """And so the same bits; and what the user has set holds."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "OMP_NUM_THREADS" not in LocalLauncher(1).environment
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert LocalLauncher(2).environment["OMP_NUM_THREADS"] == "7"
