"""Figures while a run trains: those of `genhub evaluate`, exact after a stop, and without a trace in the training."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from models import Brightens
from test_trainer import metrics, pair, same_bits

import genhub
from genhub.evaluation.protocol import stored_evaluations

GAN = {"name": "gan", "latent_dim": 8, "generator": {"channels": [8]}, "discriminator": {"channels": [8]}}
EVALUATE = {"every": 3, "n": 60, "extractor": "pixels"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))


def figures(run: Path) -> dict[int, dict[str, float]]:
    return {line["step"]: line for line in metrics(run) if any(name.startswith("evaluate/") for name in line)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm", "gan"])
def test_training_does_not_notice(tiny, tmp_path, name):
    """The same bits and losses with and without; and the figures are those that `genhub evaluate` finds afterwards."""
    if name == "gan":
        tiny["model"] = GAN
    tiny["trainer"]["trackers"] = ["tensorboard"]
    plain = genhub.train(tiny, run_dir=str(tmp_path / "plain"))
    measured = genhub.train(tiny | {"evaluate": EVALUATE | {"metrics": ["frechet_distance", "precision_recall"]}})
    same_bits(plain, measured)
    found = figures(measured.parents[1])
    assert [line for line in metrics(measured.parents[1]) if line not in found.values()] == metrics(tmp_path / "plain")
    assert list(found) == [3, 6]
    assert found[6].keys() == {"step", "evaluate/frechet_distance", "evaluate/precision", "evaluate/recall"}
    again = genhub.evaluate(measured, 60, metrics=["frechet_distance"], extractor="pixels")
    assert again.values["frechet_distance"] == pytest.approx(found[6]["evaluate/frechet_distance"], rel=1e-3)
    (stored,) = stored_evaluations(measured)  # the same protocol, so the same file
    assert stored.values.keys() == {"frechet_distance", "precision", "recall"}


def test_the_best_checkpoint_is_kept(tiny, capsys):
    """The images get brighter from black to white; the best is on the way, and older than keep_last allows."""
    pair(tiny, "models:Brightens", max_steps=18, save_every=2, keep_last=1, optimizer={"lr": 0.1, "weight_decay": 0})
    folder = genhub.train(tiny | {"evaluate": EVALUATE | {"every": 2, "save_best": "kernel_distance"}})
    found = {step: line["evaluate/kernel_distance"] for step, line in figures(folder.parents[1]).items()}
    best = min(found, key=lambda step: found[step])
    assert 2 < best < 16
    kept = {path.name for path in folder.parent.iterdir()}
    assert kept == {f"step-{best:06d}", "step-000018"}
    assert f"Best     {folder.parent}/step-{best:06d}, kernel_distance {found[best]:.4g}" in capsys.readouterr().out
    assert Brightens.from_pretrained(folder.parent / f"step-{best:06d}")
    # More is better for another metric, and what was measured otherwise does not count.
    folder = genhub.train(
        tiny | {"evaluate": EVALUATE | {"every": 2, "n": 50, "save_best": "precision_recall"}}, ["trainer.max_steps=20"]
    )
    assert "Best     " + str(folder) in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["the line", "the line and the file", "the next steps"])
def test_a_run_stopped_while_it_measures_goes_on_exactly(tiny, tmp_path, lost):
    """Killed between a checkpoint and the end of its measurement, or after it: the same figures, bits and best."""
    recipe = tiny | {"evaluate": EVALUATE | {"save_best": "frechet_distance"}}
    whole = genhub.train(recipe, ["trainer.max_steps=9", "trainer.keep_last=9"])
    run, killed = whole.parents[1], tmp_path / "killed"
    shutil.copytree(run, killed)
    shutil.rmtree(killed / "checkpoints" / "step-000009")
    lines = [line for line in (killed / "metrics.jsonl").read_text().splitlines() if json.loads(line)["step"] <= 6]
    assert "evaluate/frechet_distance" in lines[-1]
    (killed / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines[: None if lost == "the next steps" else -1]))
    if lost == "the line and the file":
        next((killed / "evaluations").glob("step-000006-*")).unlink()
    again = genhub.train(recipe, ["trainer.max_steps=9", "trainer.keep_last=9"], run_dir=str(killed))
    same_bits(whole, again)
    assert metrics(killed) == metrics(run)
    assert {file.name: json.loads(file.read_text())["values"] for file in (run / "evaluations").glob("*.json")} == {
        file.name: json.loads(file.read_text())["values"] for file in (killed / "evaluations").glob("*.json")
    }


def test_a_stop_comes_before_a_measurement_which_is_made_up_for(tiny, tmp_path):
    """SIGTERM in the step before one is due: saved at once, and measured when the run goes on."""
    pair(tiny, "models:Terminated")
    recipe = tiny | {"evaluate": EVALUATE}
    with pytest.raises(genhub.Interrupted, match="stopped at step 3"):
        genhub.train(recipe)
    run = Path(tiny["run_dir"])
    assert not figures(run)
    genhub.train(recipe)
    assert list(figures(run)) == [3, 6]


def test_what_can_not_be_measured_is_said_before_step_0(tiny):
    for evaluate, message in [
        ({"metrics": ["label_accuracy"]}, "evaluate.metrics: label_accuracy: the model draws without labels"),
        (
            {"metrics": ["memorised"]},
            "evaluate.metrics: memorised: needs rows that were not trained on: .*no split 'test'",
        ),
        ({"save_best": "reconstruction"}, "evaluate.metrics: reconstruction: the model is no Autoencoder"),
        (
            {"metrics": ["density_coverage"], "n": 5},
            "evaluate.metrics: density_coverage: needs 6 drawn rows or more, not 5",
        ),
        ({"extractor": "pixel"}, "evaluate.extractor: no extractor is called 'pixel'; did you mean 'pixels'"),
    ]:
        with pytest.raises(genhub.RecipeError, match=message):
            genhub.train(tiny | {"evaluate": EVALUATE | evaluate})
    assert not (Path(tiny["run_dir"]) / "metrics.jsonl").exists()


@pytest.mark.slow
def test_two_processes_measure_together(tiny, tmp_path):
    """Each draws a share; the figures are those of one process, and are written once."""
    tiny["model"] = GAN
    tiny["trainer"]["max_steps"] = 3
    tiny["evaluate"] = EVALUATE | {"metrics": ["frechet_distance", "cost"]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(tiny))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "genhub",
        "train",
        "recipe.yaml",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    run = Path(tiny["run_dir"])
    assert done.stdout.count("step 3 measured") == 1
    assert [line["step"] for line in metrics(run)] == [2, 3, 3]
    again = genhub.evaluate(run, 60, metrics=["frechet_distance"], extractor="pixels")
    assert again.values["frechet_distance"] == pytest.approx(figures(run)[3]["evaluate/frechet_distance"], rel=1e-3)
