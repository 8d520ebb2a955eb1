"""A figure belongs to the weights it was measured on: of other weights it is shown nowhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from test_evaluation_during import EVALUATE, figures

import genhub
from genhub.evaluation.compare import compare
from genhub.evaluation.page import html
from genhub.evaluation.protocol import evaluations_in, read_evaluation, stored_evaluations, weights_digest
from genhub.store.manifest import MANIFEST, read_manifest

GAN = {"name": "gan", "latent_dim": 4, "generator": {"channels": [4]}, "discriminator": {"channels": [4]}}
RECIPE = {"model": GAN, "data": {"split": "train[:300]"}, "trainer": {"max_steps": 2, "sample_every": None, "trackers": []}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[int, Path]:
    """Two runs that differ in their seed, and so in their weights."""
    folder = tmp_path_factory.mktemp("runs")
    return {seed: genhub.train(RECIPE | {"seed": seed, "run_dir": str(folder / str(seed))}).parents[1] for seed in (0, 1)}


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the first run, to be changed."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def measured(folder: Path, **options) -> float:
    return genhub.evaluate(folder, 20, metrics=["frechet_distance"], extractor="pixels", **options).values[
        "frechet_distance"
    ]


def replace_weights(run: Path, other: Path) -> None:
    (checkpoint,) = (run / "checkpoints").iterdir()
    shutil.rmtree(checkpoint)
    shutil.copytree(other / "checkpoints" / checkpoint.name, checkpoint)


def shown(folder: Path, hub) -> list[float]:
    """The figures in every place that shows some, which must agree."""
    row = compare([folder]).rows[0]
    values = [found.values["frechet_distance"] for found in row.evaluations]
    page = html(compare([folder]))
    assert all(f"{value:,.4g}" in page for value in values)
    assert ("How it was measured" in page) == bool(values)
    genhub.push_to_hub(folder, "alice/shown")
    files = hub.repos["alice/shown"].files
    pushed = [figure["value"] for figure in json.loads(files.get("metrics.json", b"[]"))]
    card = [result.metric_value for result in ModelCard(files["README.md"].decode()).data.eval_results or ()]
    assert values == pushed == card
    return values


def test_new_weights_at_an_old_path(trained, run, hub, capsys):
    first = measured(run)
    assert shown(run, hub) == [first]
    replace_weights(run, trained[1])
    assert shown(run, hub) == []
    assert compare([run]).notes == (f"{run}: no figures are stored of it: genhub evaluate {run}",)
    second = measured(run)
    assert second != first  # of its own images, not of those that were drawn before
    assert shown(run, hub) == [second]
    replace_weights(run, trained[0])
    assert shown(run, hub) == [first]  # they are not lost


def test_two_models_under_one_folder(trained, tmp_path, hub):
    """A folder of `save_pretrained` that is written to again; also one that diffusers would have saved."""
    folder = tmp_path / "model"
    models = [genhub.load(trained[seed]) for seed in (0, 1)]
    models[0].save_pretrained(folder)
    first = measured(folder, overrides=["data.split=train[:300]"])
    assert shown(folder, hub) == [first]
    models[1].save_pretrained(folder)
    assert shown(folder, hub) == []
    shutil.copytree(folder, tmp_path / "elsewhere")
    models[0].save_pretrained(tmp_path / "elsewhere")
    assert shown(tmp_path / "elsewhere", hub) == [first]  # the same weights at another place


def test_what_images_depend_on_is_told_apart(trained, run, tmp_path):
    checkpoint = next((run / "checkpoints").iterdir())
    same = weights_digest(checkpoint)
    (checkpoint / "trainer" / "state.json").write_text("{}")
    (checkpoint / "README.md").write_text("another")
    assert weights_digest(checkpoint) == same
    assert weights_digest(Path(shutil.copytree(checkpoint, tmp_path / "moved"))) == same
    assert weights_digest(next((trained[1] / "checkpoints").iterdir())) != same
    manifest = read_manifest(checkpoint)
    other = manifest.model_copy(update={"config": manifest.config | {"latent_dim": 5}})
    (checkpoint / MANIFEST).write_text(other.text())
    assert weights_digest(checkpoint) != same
    foreign = tmp_path / "foreign"  # without genhub.json
    (foreign / "unet").mkdir(parents=True)
    seen = set()
    for name, content in [("model_index.json", b"{}"), ("unet/a.safetensors", b"1"), ("unet/a.safetensors", b"2"), ("model_index.json", b"{ }")]:  # fmt: skip
        (foreign / name).write_bytes(content)
        seen.add(weights_digest(foreign))
    assert len(seen) == 4


def test_weights_that_are_not_those_of_genhub_json_show_nothing(trained, run):
    measured(run)
    checkpoint = next((run / "checkpoints").iterdir())
    weights = next(checkpoint.glob("*.safetensors"))
    weights.write_bytes(next(file for file in trained[1].rglob(weights.name)).read_bytes())
    with pytest.raises(genhub.CheckpointError, match=f"{weights}: damaged"):
        compare([checkpoint])


def test_a_run_started_over_shows_no_figures_of_the_old_one(run, hub):
    first = measured(run)
    genhub.train(RECIPE | {"seed": 1, "run_dir": str(run)}, fresh=True)
    assert shown(run, hub) == []
    assert shown(run.with_name("run.old-1"), hub) == [first]


def test_figures_of_an_older_genhub_are_not_shown_and_said(run):
    measured(run)
    (file,) = (run / "evaluations").glob("*.json")
    content = json.loads(file.read_text())
    del content["weights"], content["checksum"]
    file.with_name("step-000002-0123456789ab.json").write_text(json.dumps(content))
    file.unlink()
    comparison = compare([run])
    assert comparison.rows[0].evaluations == ()
    assert comparison.notes == (f"{run}: its figures don't say what weights they are of: genhub evaluate {run}",)
    measured(run)
    assert (len(compare([run]).rows[0].evaluations), compare([run]).notes) == (1, ())


def test_figures_that_came_with_other_weights_are_not_published(trained, run, tmp_path, hub, capsys):
    """A repository is fetched, its weights are replaced, and it is pushed again."""
    first = measured(run)
    genhub.push_to_hub(run, "alice/one")
    copy = tmp_path / "copy"
    for name, content in hub.repos["alice/one"].files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    genhub.push_to_hub(copy, "alice/two")
    assert json.loads(hub.repos["alice/two"].files["metrics.json"])[0]["value"] == first
    kept = (copy / "metrics.json").read_bytes()
    genhub.load(trained[1]).save_pretrained(copy)
    (copy / "metrics.json").write_bytes(kept)
    genhub.push_to_hub(copy, "alice/two")
    assert "metrics.json" not in hub.repos["alice/two"].files
    assert "figures that are not known to be of these weights are left out: genhub evaluate" in capsys.readouterr().err


def test_the_best_is_chosen_by_figures_of_its_own_weights(tiny, tmp_path, capsys):
    """A run of another seed left its figures, the best of all, in the folder of a run that starts anew there."""
    recipe = tiny | {"model": GAN, "evaluate": EVALUATE | {"save_best": "frechet_distance"}}
    folder = genhub.train(recipe, ["seed=1"], run_dir=str(tmp_path / "old"))
    left = evaluations_in(folder.parents[1] / "evaluations")[0]
    values = {"frechet_distance": 0.0}
    run = Path(tiny["run_dir"])
    left.model_copy(update={"values": values}).write(run / "evaluations")
    (run / "recipe.yaml").write_text("model: {name: gan}\n")  # whose checkpoints somebody has deleted
    (run / ".lock").touch()
    folder = genhub.train(recipe, ["trainer.keep_last=2"])
    found = {step: line["evaluate/frechet_distance"] for step, line in figures(run).items()}
    best = min(found, key=lambda step: found[step])
    assert f"Best     {folder.parent}/step-{best:06d}, frechet_distance {found[best]:.4g}" in capsys.readouterr().out


def test_other_weights_of_a_step_are_measured_when_the_run_goes_on(tiny, tmp_path):
    recipe = tiny | {"model": GAN, "evaluate": EVALUATE}
    folders = [genhub.train(recipe, [f"seed={seed}"], run_dir=str(tmp_path / str(seed))) for seed in (0, 1)]
    before = figures(tmp_path / "0")[6]
    replace = folders[0]
    shutil.rmtree(replace)
    shutil.copytree(folders[1], replace)
    genhub.train(recipe, ["seed=0"], run_dir=str(tmp_path / "0"))
    assert figures(tmp_path / "0")[6] == figures(tmp_path / "1")[6] != before
    (stored,) = stored_evaluations(replace)
    assert stored.weights == weights_digest(replace)
    assert read_evaluation(next((tmp_path / "0" / "evaluations").glob(f"*-{stored.weights[:12]}-*"))) == stored
