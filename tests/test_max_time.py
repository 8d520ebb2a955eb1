"""trainer.max_time: as many steps as fill a time, measured before step 0, and found again by a run that goes on."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import yaml
from faults import write_recipe
from test_launch import recipe, start
from test_trainer import metrics, pair, same_bits, wait_for

import genhub
from genhub.run import timed
from genhub.store.run_folder import RunFolder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine on which a step takes half a second; the times for which that was measured."""
    times: list[int] = []
    monkeypatch.setattr(timed, "seconds_a_step", lambda _, seconds: times.append(seconds) or 0.5)
    return times


def steps_in(run: Path) -> tuple[int, object]:
    trainer = yaml.safe_load((run / "recipe.yaml").read_text())["trainer"]
    return trainer["max_steps"], trainer["max_time"]


@pytest.mark.parametrize("name", [pytest.param("ddpm", marks=pytest.mark.slow), "models:Pair"])
def test_the_steps_are_measured_and_what_is_trained_is_what_so_many_steps_train(tiny, name, tmp_path, capsys):
    tiny["model"]["name"] = name
    if name == "models:Pair":
        pair(tiny)
    tiny["trainer"] |= {"max_time": "1s"}
    folder = genhub.train(tiny)
    said = capsys.readouterr().out
    run = Path(tiny["run_dir"])
    steps, time = steps_in(run)
    assert time is None
    assert steps > 1
    assert folder.name == f"step-{steps:06d}"
    assert "Training for 1s, steps of 16 rows" in said
    assert f"Steps    {steps:,} of " in said
    assert said.count("Model    ") == 2  # the trial says nothing
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == steps
    tiny["trainer"] |= {"max_time": None, "max_steps": steps}
    same_bits(folder, genhub.train(tiny, run_dir=str(tmp_path / "other")))
    assert metrics(run) == metrics(tmp_path / "other")


def test_a_run_goes_on_with_the_steps_that_it_began_with(tiny, measured):
    tiny["trainer"] |= {"max_time": "4s", "stop_after": None}
    run = Path(tiny["run_dir"])
    first = genhub.train(tiny)
    assert (measured, steps_in(run)) == ([4], (8, None))
    assert genhub.train(tiny) == first  # already trained
    tiny["trainer"]["max_time"] = "6s"
    assert genhub.train(tiny).name == "step-000012"
    assert (measured, steps_in(run)) == ([4, 6], (12, None))
    genhub.train(tiny, fresh=True)
    assert measured == [4, 6, 6]
    (run / "max_time.json").write_text("{half of it")
    genhub.train(tiny)
    assert measured == [4, 6, 6, 6]


def test_at_least_one_step_and_a_time_that_is_one(tiny, monkeypatch):
    monkeypatch.setattr(timed, "seconds_a_step", lambda *_: 100.0)
    assert genhub.train(tiny, ["trainer.max_time=1s"]).name == "step-000001"
    with pytest.raises(genhub.RecipeError, match="trainer.max_time: must be a duration such as 3h50m"):
        genhub.read_recipe(tiny, ["trainer.max_time=ten"])


def test_steps_asked_for_beside_a_time_are_answered():
    message = "trainer.max_steps: changes nothing beside trainer.max_time; add trainer.max_time=null, or leave it out"
    timed_recipe = {"model": {"name": "ddpm"}, "trainer": {"max_time": "10m", "max_steps": 7}}
    for source, more in ((timed_recipe, []), ("digits-ddpm", ["trainer.max_time=10m"])):
        with pytest.raises(genhub.RecipeError, match=message):
            genhub.read_recipe(source, [*more, "trainer.max_steps=5"])
    assert genhub.read_recipe(timed_recipe).trainer.max_time == "10m"
    assert genhub.read_recipe("digits-ddpm", ["trainer.max_time=10m"]).trainer.max_time == "10m"
    assert genhub.read_recipe(timed_recipe, ["trainer.max_time=null", "trainer.max_steps=5"]).trainer.max_steps == 5


def test_anybodys_trainer_is_measured(tiny):
    tiny["trainer"] = {"name": "test_max_time:Plain", "max_time": "1s", "device": "cpu"}
    steps, _ = steps_in(genhub.train(tiny).parents[1])
    assert steps > 10


@pytest.mark.slow
def test_a_kill_while_steps_are_measured_leaves_a_run_that_begins(tiny, zygote, tmp_path, monkeypatch):
    """Nothing of the trial stays: neither its steps nor a folder that is no run's."""
    tiny["trainer"] = {"name": "test_max_time:Slow", "max_time": "1s", "device": "cpu"}
    file = write_recipe(tmp_path, tiny)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        job = zygote.genhub("train", str(file), cwd=tmp_path)
        wait_for((tmp_path / "begun").exists)
        job.signal(number)
        assert job.wait() != 0
        (tmp_path / "begun").unlink()
        assert not RunFolder(Path(tiny["run_dir"])).found_steps.exists()
    steps, _ = steps_in(genhub.train(tiny, ["trainer.name=test_max_time:Plain"]).parents[1])
    assert steps > 10


def test_a_folder_with_nothing_but_the_steps_that_were_found_is_a_run(tiny, measured):
    run = RunFolder(Path(tiny["run_dir"]))
    run.path.mkdir()
    run.lock.touch()
    run.found_steps.write_text('{"max_time": "4s", "max_steps": 5}')
    tiny["trainer"] |= {"max_time": "4s"}
    assert genhub.train(tiny).name == "step-000005"
    assert measured == []


class Plain(genhub.Trainer):
    """A trainer of its own kind, which only counts."""

    def fit(self, model, data):
        start = (stopped.step if (stopped := self.run.stopped_run(data)) else 0) + 1
        log = self.run.log(data, start - 1)
        for step in range(start, self.config.max_steps + 1):
            self.pause()
            if step % self.config.log_every == 0 or step == self.config.max_steps:
                log.line(step, {}, {})
        return self.run.save_checkpoint(step, model, data, genhub.TrainerState({}, {}))

    def pause(self):
        pass


class Slow(Plain):
    """A trainer whose every step takes a while; it leaves word that it has begun."""

    def fit(self, model, data):
        Path("begun").touch()
        for _ in range(600):
            time.sleep(0.1)
        return super().fit(model, data)


@pytest.mark.slow
def test_two_processes_take_the_same_steps(tiny, tmp_path):
    file = recipe(tmp_path, tiny, max_time="2s")
    command = start("train", file, "--num-processes", "2", cwd=tmp_path)
    output, errors = command.communicate(timeout=120)
    assert command.returncode == 0, errors
    steps, _ = steps_in(Path(tiny["run_dir"]))
    assert f"step {steps}/{steps}" in output


class Uneven(Plain):
    """A trainer whose steps are slower in the second process, and that ends with an error where not all take as many."""

    def fit(self, model, data):
        (_,) = set(self.run.together.collect(self.config.max_steps))
        return super().fit(model, data)

    def pause(self):
        time.sleep(0.002 * (1 + self.run.together.rank))


@pytest.mark.slow
def test_processes_whose_clocks_differ_try_the_same_steps(tiny, tmp_path):
    """Each step waits for the other process: with other steps of the trial, both would wait for ever."""
    tiny["trainer"] = {"name": "test_max_time:Uneven", "max_time": "2s", "device": "cpu"}
    file = write_recipe(tmp_path, tiny)
    command = start("train", str(file), "--num-processes", "2", cwd=tmp_path)
    _, errors = command.communicate(timeout=120)
    assert command.returncode == 0, errors
