"""`genhub sweep --trials N`: Optuna chooses, bad runs are pruned, and a search that was killed goes on."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from test_trainer import wait_for

import genhub
from genhub.store.run_folder import RunFolder
from genhub.sweeps.search import PRUNERS, SAMPLERS, STUDY, search
from genhub.sweeps.settings import Range, Setting
from genhub.sweeps.study import Journal, Study, pruner_named
from genhub.sweeps.sweep import sweep

MOONS = {
    "model": {"name": "vae", "latent_dim": 2},
    "data": {"name": "moons", "num_rows": 512, "batch_size": 64},
    "trainer": {"max_steps": 40, "log_every": 10, "save_every": 20, "sample_every": None, "trackers": []},
    "evaluate": {"every": 20, "n": 64, "extractor": "values", "metrics": ["sliced_wasserstein"]},
}
LR = "trainer.optimizer.lr"


def recipe(folder: Path, **sections: object) -> str:
    content = MOONS | sections | {"trainer": MOONS["trainer"] | sections.get("trainer", {})}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "recipe.yaml")


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(Journal(folder / STUDY)))


def test_choices_and_ranges():
    assert Setting.read("a.b=x, y,x") == Setting("a.b", ("x", "y"))
    assert Setting.read("seed=0..4") == Setting("seed", Range(0, 4, whole=True))
    assert Setting.read("lr=1e-4..1e-2") == Setting("lr", Range(1e-4, 1e-2, whole=False))
    assert Setting.read("x=-.5..1").values == Range(-0.5, 1, whole=False)
    assert [Setting.read(f"x={ends}").values.log for ends in ("1e-4..1e-2", "4..64", "0..99", "0.5..4", "-1..99")] == [
        True, True, False, False, False]  # fmt: skip
    assert Setting.read("seed=2..4").listed() == ["2", "3", "4"]


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ([f"{LR}=1e-4..1e-2"], None, "=0.0001..0.01: a range of decimals has no end of values; name some, with commas between them, or search it with --trials N"),
        (["seed=1"], {}, "--trials: nothing to search; --set takes choices, x=a,b, or a range, x=1e-4..1e-2"),
        (["seed=4..1"], {}, "--set: 'seed=4..1': a range goes up"),
        (["seed=0..1"], {"by": "frechet_distanc"}, "--by: no figure is called 'frechet_distanc'; did you mean 'frechet_distance'?"),
        (["seed=0..1"], {"by": "recall"}, "--by recall: the recipe does not measure it while it trains; evaluate.metrics: [sliced_wasserstein, precision_recall] does"),
        (["seed=0..1"], {"sampler": "tpa"}, "--sampler: can't be 'tpa'; did you mean 'tpe'?"),
        (["seed=0..1"], {"pruner": "medan"}, "--pruner: can't be 'medan'; did you mean 'median'?"),
        (["seed=0..1"], {"launcher": "slrum"}, "--launcher: can't be 'slrum'; did you mean 'slurm'?"),
        (["seed=0..1"], {"launcher_options": ["num_gpus=1"]}, "--launcher-option: num_gpus: this machine takes none; --launcher slurm or ray does"),
        ([f"{LR}=-1..1"], {}, "trainer.optimizer.lr: must be greater than 0, not -1"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, settings, options, message):
    file, folder = recipe(tmp_path), str(tmp_path / "s")
    with pytest.raises(genhub.InputError, match=re.escape(message)):
        sweep(file, settings, folder=folder) if options is None else search(file, settings, 4, folder=folder, **options)


@pytest.mark.parametrize("by", [None, "sliced_wasserstein"])
def test_a_recipe_that_measures_nothing(tmp_path, by):
    file = recipe(tmp_path, evaluate=None)
    wanted = "--by{}: the recipe measures nothing while it trains; add to it evaluate: {{every: 20, metrics: [{}]}}"
    with pytest.raises(genhub.InputError) as raised:
        search(file, ["seed=0..1"], 4, by=by, folder=str(tmp_path / "s"))
    assert str(raised.value) == wanted.format(f" {by}" if by else "", by or "frechet_distance")


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("optuna", {}, "--trials needs optuna: pip install 'genhub-framework[sweep]'"),
        ("submitit", {"launcher": "slurm"}, "--launcher slurm needs submitit: pip install 'genhub-framework[slurm]'"),
        ("ray", {"launcher": "ray"}, "--launcher ray needs ray: pip install 'genhub-framework[ray]'"),
    ],
)
def test_what_is_not_installed(tmp_path, monkeypatch, module, options, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(genhub.InputError, match=re.escape(message)):
        search(recipe(tmp_path), ["seed=0..1"], 4, folder=str(tmp_path / "s"), **options)


def test_a_line_of_the_journal_that_was_cut_off_is_passed_over(tmp_path):
    made = optuna.create_study(study_name="sweep", storage=optuna.storages.JournalStorage(Journal(tmp_path / STUDY)))
    made.tell(made.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 0.5)
    with (tmp_path / STUDY).open("a") as stream:
        stream.write('{"op_code": 4, "wor')
    again = study(tmp_path)
    again.tell(again.ask(), 0.25)
    assert [trial.value for trial in study(tmp_path).trials] == [0.5, 0.25]
    assert all(json.loads(line) for line in (tmp_path / STUDY).read_text().splitlines() if not line.endswith("wor"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_tried_is_a_function_of_the_seed_and_the_figures(tmp_path, sampler):
    """However often the search is stopped."""
    settings = [Setting.read(text) for text in ("lr=1e-7..1e-2", "width=4..64", "kind=a,b")]

    def begun(name: str, seed: int) -> Study:
        return Study(tmp_path / name, settings, "lower", seed, sampler=sampler, pruner=pruner_named("none", 13, 10))

    def tried(name: str, seed: int, stops: bool) -> list[dict[str, str]]:
        made, found = begun(name, seed), []
        for number in range(13):
            made = begun(name, seed) if stops else made
            trial = made.ask()
            found.append(made.values(trial))
            if stops and number % 3 == 0:
                made = begun(name, seed)
                (trial,) = made.opened()
                assert made.values(trial) == found[-1]
            made.tell(trial, float(found[-1]["lr"]) + int(found[-1]["width"]))
        return found

    first = tried("first", 3, stops=False)
    assert tried("stopped", 3, stops=True) == first
    assert tried("other", 4, stops=False) != first
    assert all(isinstance(yaml.safe_load(values["lr"]), float) for values in first)  # 1e-05 would be a text
    assert min(float(values["lr"]) for values in first) < 1e-4


@pytest.mark.parametrize("pruner", PRUNERS)
def test_pruners(tmp_path, pruner):
    settings = [Setting.read("x=0.0..1.0")]
    made = Study(tmp_path / STUDY, settings, "lower", 0, sampler="random", pruner=pruner_named(pruner, 12, 10))
    pruned = 0
    for number in range(12):
        trial = made.ask()
        made.values(trial)
        for step in range(10, 100, 10):
            trial.report(number, step)
            if trial.should_prune():
                pruned += 1
                made.tell(trial, None)
                break
        else:
            made.tell(trial, number)
    assert (pruned > 0) == (pruner != "none")


@pytest.mark.slow
def test_a_search_finds_the_better_learning_rate(tmp_path, zygote):
    file = recipe(tmp_path)
    words = [
        "sweep",
        file,
        "--set",
        f"{LR}=1e-9,1e-2",
        "--set",
        "seed=3",
        "--trials",
        "6",
        "--pruner",
        "none",
        "--run-dir",
        "s",
    ]
    job = zygote.genhub(*words, "--out", "s.html", cwd=tmp_path)
    assert job.wait() == 0, job.err
    trials = study(tmp_path / "s").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6  # the same values are trained once
    runs = sorted(path.name for path in (tmp_path / "s").iterdir() if path.is_dir())
    assert [name[3:] for name in runs] == [",lr=1e-9", ",lr=1e-2"] or [name[3:] for name in runs] == [",lr=1e-2", ",lr=1e-9"]
    best = next(name for name in runs if name.endswith("1e-2"))
    lines = job.out.splitlines()
    assert re.fullmatch(rf"Best     s/{best}, sliced_wasserstein 0\.\d+", lines[-2])
    assert lines[-1] == f"Next     genhub train {file} seed=3 {LR}=1e-2 --run-dir s/{best} trainer.max_steps=80"
    table = [line for line in lines if line.startswith("s/")]
    assert table[0].startswith(f"s/{best} ")
    assert len(table) == 2
    assert (tmp_path / "s.html").is_file()
    again = zygote.genhub(*words, cwd=tmp_path)
    assert again.wait() == 0
    assert again.out.splitlines()[-1] == lines[-1]
    assert "done  " not in again.out
    other = zygote.genhub(*words[:2], "--set", f"{LR}=1e-9,1e-3", *words[4:], cwd=tmp_path)
    assert other.wait() == 2
    assert "s has another search; choose another folder with --run-dir: --set: was " in other.err


def gone(folder: Path) -> bool:
    """Whether no run in a folder is being trained."""
    owners = [
        re.search(r"process (\d+)", (run / ".owner").read_text()) for run in folder.glob("*,*") if (run / ".owner").is_file()
    ]
    return not any(owner and Path(f"/proc/{owner[1]}").exists() for owner in owners)


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_with_the_same_trials(tmp_path, zygote):
    """Its trainings save when it dies; the trial that ran is trained on, and all ends as if nothing had happened."""
    file = recipe(tmp_path, trainer={"max_steps": 3000, "save_every": 500}, evaluate=MOONS["evaluate"] | {"every": 500})
    words = ["sweep", file, "--set", f"{LR}=1e-4..1e-2", "--trials", "3", "--pruner", "none", "--run-dir"]
    whole = zygote.genhub(*words, "whole", cwd=tmp_path)
    assert whole.wait() == 0, whole.err
    killed = zygote.genhub(*words, "killed", cwd=tmp_path)
    wait_for(lambda: any((tmp_path / "killed").glob("001,*/checkpoints/step-*")))
    killed.signal(signal.SIGKILL)
    killed.wait()
    wait_for(lambda: gone(tmp_path / "killed"))
    first, second = (study(tmp_path / name).trials for name in ("whole", "killed"))
    assert [trial.state.name for trial in second] == ["COMPLETE", "RUNNING"]
    assert RunFolder(next((tmp_path / "killed").glob("001,*"))).newest_whole()[0]
    again = zygote.genhub(*words, "killed", cwd=tmp_path)
    assert again.wait() == 0, again.err
    second = study(tmp_path / "killed").trials
    assert [(trial.params, trial.values, trial.intermediate_values) for trial in second] == [
        (trial.params, trial.values, trial.intermediate_values) for trial in first
    ]
    assert len(first) == 3
    log = next((tmp_path / "killed").glob("001,*.log")).read_text()
    assert re.search("SIGTERM: .*saving", log)
    assert "resuming at step" in log
    assert again.out.splitlines()[-2].replace("killed", "whole") == whole.out.splitlines()[-2]


@pytest.mark.slow
def test_a_bad_run_is_pruned_and_kept(tmp_path, zygote):
    trainer, evaluate = {"max_steps": 4000, "save_every": 50}, MOONS["evaluate"] | {"every": 50}
    file = recipe(tmp_path, trainer=trainer, evaluate=evaluate)
    words = ["sweep", file, "--set", f"{LR}=1e-9,1e-2", "--set", "seed=11", "--trials", "4", "--run-dir", "s"]
    job = zygote.genhub(*words, cwd=tmp_path)
    assert job.wait() == 0, job.err
    states = {trial.params[LR]: trial.state.name for trial in study(tmp_path / "s").trials}
    assert states == {"1e-2": "COMPLETE", "1e-9": "PRUNED"}
    assert re.search(r"pruned   s/\d{3},lr=1e-9 after step \d+\n", job.out)
    run = RunFolder(next((tmp_path / "s").glob("*,lr=1e-9")))
    assert 0 < int(run.newest_whole()[0].name.removeprefix("step-")) < 4000
    assert re.search(r"Trials   1 done, \d pruned, 0 failed", job.out)
