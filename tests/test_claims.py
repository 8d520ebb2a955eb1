"""Which folders a run may have, by which recipe it goes on, and that a mistake leaves nothing behind."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import torch
from PIL import Image
from test_trainer import same_bits
from typer.testing import CliRunner

import genhub
from genhub import cli
from genhub.interfaces.annotations import members
from genhub.interfaces.section import MAY_CHANGE, Section
from genhub.run.claims import changes
from genhub.run.prepare import prepare_run

BASE = {
    "model": {"name": "models:Pair"},
    "data": {"batch_size": 16},
    "trainer": {"max_steps": 4, "log_every": 1, "sample_every": None, "save_every": 2, "num_samples": 4, "trackers": []},
}


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Any]:
    return copy.deepcopy(BASE) | {"run_dir": str(tmp_path / "run")}


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# A mistake leaves nothing behind

MISTAKES = {
    "data.name=phtos/*.png": "data.name",
    "data.name=[]": "data.name",
    "data.split=tset": "split",
    "data.split=train[5000:]": "split",
    "data.split=train[": "split",
    "data.target=x": "data.target",
    "model.conditions=[nope]": "model.conditions",
    "data.columns={image: nope}": "data.columns.image",
    "data.batch_size=0": "data.batch_size",
    "data.columns={image: {modality: image, channels: true}}": "data.columns.image.channels: can't be True",
    "data.cache_latents=true": "latents",
    "data.resolution=8": "did you mean 'data.columns'?",
    "model.name=nope": "model.name",
    "model.hidden=yes": "model.hidden: must be a valid integer, not True",
    "model.num_classes=7": "model.num_classes: unknown key; the data fill it in",
    "model.sample_shape=[3, 8, 8]": "model.sample_shape: unknown key; the data fill it in",
    "model.data={}": "model.data: unknown key; the columns are filled in",
    "model.from=nowhere": "model.from: nowhere",
    "trainer.name=nope": "trainer.name",
    "trainer.epochs=3": "give trainer.max_steps, which is epochs x rows / data.batch_size",
    "trainer.mixed_precision=fp16": "trainer.mixed_precision: fp16 needs a CUDA device",
    "trainer.trackers=[foo]": "trainer.trackers: no tracker is called 'foo'",
    "trainer.trackers=[comet_ml]": "trainer.trackers: comet_ml is not installed",
    "trainer.optimizer.momentum=0.9": "trainer.optimizer.momentum: AdamW has no such argument",
    "trainer.optimizer.betas=[1.0, 0.9]": "trainer.optimizer: adamw: Invalid beta",
    "trainer.optimizer={name: sgd, nesterov: true}": "trainer.optimizer: sgd: ",
    "trainer.optimizers.critic={name: sgd, betas: [0.5, 0.9]}": "trainer.optimizers.critic.betas: SGD has no such argument",
    "trainer.optimizers.critc.lr=1": "no phase trains it; did you mean 'critic'?",
    "trainer.gradient_accumulation_steps=3": "data.batch_size: 16 can't be split",
    "trainer.stop_after=soon": "trainer.stop_after: must be a duration",
    "trainer={sharding: full, find_batch_size: true}": "trainer.sharding: full does not go with",
    "evaluate.extractor=nope": "evaluate.extractor",
    "evaluate={every: 1000, metrics: [memorised], held_out: nope, extractor: pixels}": "evaluate.metrics: memorised",
    "evaluate={every: 1000, metrics: [bits_per_dimension], extractor: pixels}": "evaluate.metrics: bits_per_dimension",
    "evaluate.every=7": "evaluate.every: 7 must be a multiple of trainer.save_every",
    "hub.repo_id=noslash": "hub.repo_id",
    "hub.repo_id=a/b..c": "hub.repo_id",
    "seed=-1": "seed: ",
    "seed=yes": "seed: must be a valid integer, not True",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_told_before_anything_is_written(base: dict[str, Any], override: str) -> None:
    if torch.cuda.is_available() and "fp16" in override:
        pytest.skip("fp16 works here")
    if override.startswith("trainer={"):
        base["trainer"] |= {"sharding": "full", "find_batch_size": True}
        overrides = []
    else:
        overrides = [override]
    said = []
    for attempt in (lambda: genhub.train(base, overrides), lambda: prepare_run(genhub.read_recipe(base, overrides))):
        with pytest.raises(genhub.GenhubError) as caught:
            attempt()
        assert caught.value.exit_code == 2
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert MISTAKES[override] in said[0]
    assert "\n" not in said[0]
    assert not Path(base["run_dir"]).exists()


def test_mistakes_in_the_data_leave_nothing_behind(base: dict[str, Any], tmp_path: Path) -> None:
    for number in range(3):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    base["data"] |= {"name": str(tmp_path), "batch_size": 2}
    with pytest.raises(genhub.DataError, match="model.conditions: .* has no column 'label'"):
        genhub.train(base, ["model.name=models:Labelled", "model.conditions=[label]"])
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(genhub.DataError, match=r"bad\.png|row 3"):
        genhub.train(base)
    assert not Path(base["run_dir"]).exists()


def test_the_command_line_says_the_same_with_dry_run(base: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(genhub.read_recipe(base).yaml())
    for more in ([], ["--dry-run"]):
        result = CliRunner().invoke(cli.app, ["train", str(tmp_path / "r.yaml"), "trainer.trackers=[foo]", *more])
        assert isinstance(result.exception, genhub.InputError)
        assert str(result.exception).startswith("trainer.trackers: no tracker is called 'foo'")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.yaml"]
    result = CliRunner().invoke(cli.app, ["train", str(tmp_path / "r.yaml"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "Memory   in all" in result.output
    assert not Path(base["run_dir"]).exists()


# Folders


def test_only_a_runs_folder_is_trained_in_or_moved(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin's folder has a recipe.yaml and is no run's."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "recipe.yaml").write_text(genhub.read_recipe(base).yaml())
    (mine / "my_model.py").write_text("# work")
    before = content_of(mine)
    monkeypatch.chdir(mine)
    for run_dir in (".", str(mine), "../mine"):
        for fresh in (True, False):
            with pytest.raises(genhub.RecipeError, match=r"run_dir: .* holds other files .* and is no run's folder"):
                genhub.train(base, run_dir=run_dir, fresh=fresh)
    assert content_of(mine) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_fresh_does_not_move_the_folder_it_runs_in(base: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    genhub.train(base, ["trainer.max_steps=1"])
    run = Path(base["run_dir"])
    before = content_of(run)
    for inside in (run, run / "checkpoints"):
        monkeypatch.chdir(inside)
        with pytest.raises(genhub.RecipeError, match="where this command runs, so it can't be moved"):
            genhub.train(base, run_dir=os.path.relpath(run), fresh=True)
    assert content_of(run) == before
    monkeypatch.chdir(run)
    assert genhub.train(base, ["trainer.max_steps=2"], run_dir=".").name == "step-000002"  # going on is fine


# By which recipe a run goes on


def leaves(section: Section, prefix: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Every key of a recipe: its path, its annotation, and whether it may change."""
    for name, field in type(section).model_fields.items():
        value, free = getattr(section, name), MAY_CHANGE in field.metadata
        if (prefix, name) == ("model.", "data"):
            continue  # no key of a recipe
        if isinstance(value, Section):
            yield from ((path, kind, free or inner) for path, kind, inner in leaves(value, f"{prefix}{name}."))
        elif not field.exclude:
            yield prefix + name, field.annotation, free


TRIED = (
    True, False, 3, 2, 1, 8, 4, 32, 0.25, 0.5, 1e-3, None, "no", "memorised", "90m", "other", "a/b", "ddpm", "ddim", ["tensorboard"],
    ["label"], ["cost"], [0.5, 0.75], [8, 8], [32, 32], ["DownBlock2D", "DownBlock2D"], ["UpBlock2D", "UpBlock2D"],
    {"name": "mlp"}, {"x": "number"}, {"critic": {"lr": 0.5}}, {"repo_id": "a/b"}, {"n": 100}, {"thresholding": True}, "nadam",
    {"maximize": True},
)  # fmt: skip


def another(recipe: dict[str, Any], path: str, annotation: Any) -> tuple[str, genhub.Recipe] | None:
    """A recipe with another legal value at a key, and the override that makes it."""
    words = [word for member in members(annotation) if get_origin(member) is Literal for word in get_args(member)]
    before = genhub.read_recipe(recipe)
    for value in (*words, *TRIED):
        text = "null" if value is None else str(value).replace("'", "").replace("True", "true").replace("False", "false")
        try:
            made = genhub.read_recipe(recipe, [f"{path}={text}"])
        except genhub.InputError:
            continue
        if made.dump() != before.dump() and made.model.name == before.model.name:
            return f"{path}={text}", made
    return None


@pytest.mark.parametrize("model", ["ddpm", "models:Pair"])
def test_every_other_key_is_refused_with_both_values(base: dict[str, Any], model: str) -> None:
    base |= {
        "model": {"name": model},
        "evaluate": {"every": 2},
        "hub": {"repo_id": "a/c"},
    }
    read = genhub.read_recipe(base)
    refused, allowed, without = [], [], []
    for path, annotation, free in leaves(read):
        found = another(base, path, annotation)
        if found is None:
            without.append(path)
            continue
        differs = changes(found[1], read.dump())
        if free:
            assert differs == [], path
            allowed.append(path)
        else:
            (key, old, new), *_ = differs
            assert key.startswith(path) or path.startswith(key), (path, key)
            assert old != new
            refused.append(path)
    idle = {"model.sampling.guidance_scale", "model.condition_dropout", "model.vlb_weight", "model.min_snr_gamma",
            "model.sampling.guidance_interval"}  # fmt: skip
    others = {f"trainer.optimizer.{key}" for key in ("momentum", "alpha", "nesterov")}  # AdamW has no such argument
    assert others <= set(without)
    assert set(without) - idle - others == {
        "data.streaming",
        "trainer.name",
        "model.name",
    }  # no other name; a stream is not measured
    assert model != "ddpm" or idle <= set(without)  # they would change nothing, so that no recipe may have them
    assert changes(genhub.read_recipe(base, ["data.streaming=true", "evaluate=null"]), read.dump()) == [
        ("data.streaming", False, True)
    ]
    assert {"seed", "data.name", "data.split", "data.flip", "trainer.optimizer.lr", "trainer.mixed_precision", "trainer.compile",
            "trainer.lr_scheduler.warmup_steps", "trainer.optimizers", "trainer.ema.decay"} <= set(refused)  # fmt: skip
    assert {"run_dir", "hub.every", "evaluate.n", "data.in_memory", "trainer.max_steps"} <= set(allowed)


def test_a_key_that_an_older_genhub_did_not_have_is_no_change(base: dict[str, Any]) -> None:
    read = genhub.read_recipe(base, ["data.flip=true"])
    for path, _, free in leaves(read):
        before: dict[str, Any] = read.dump()
        *sections, key = path.split(".")
        section: Any = read
        inner = before
        for name in sections:
            section, inner = getattr(section, name), inner[name]
        value = inner.pop(key)
        default = type(section).model_fields[key].get_default(call_default_factory=True)
        same = free or value is None or getattr(section, key) == default
        assert changes(read, before) == ([] if same else [(path, None, value)]), path
    assert changes(read, {"model": {"name": "ddpm"}}) != []


def test_a_key_that_no_recipe_has_any_more_is_no_change(base: dict[str, Any]) -> None:
    before: dict[str, Any] = genhub.read_recipe(base).dump()
    before["trainer"]["keep_memory"] = True
    assert changes(genhub.read_recipe(base), before) == []


SAFE = ["evaluate={every: 2, n: 8, metrics: [cost], extractor: pixels}", "data.num_workers=0", "data.in_memory=false",
        "trainer.stop_after=9h", "trainer.skip_bad_steps=3", "trainer.log_every=2", "trainer.sample_every=3",
        "trainer.num_samples=2", "trainer.save_every=1", "trainer.keep_last=1", "trainer.keep_every=2",
        "trainer.trackers=[tensorboard]", "trainer.device=cpu"]  # fmt: skip
OTHER_BITS = ["trainer.max_steps=6", "trainer.gradient_accumulation_steps=2", "trainer.find_batch_size=true",
              "trainer.sharding=full"]  # fmt: skip
"""Keys that may change, though what comes out is not the same to the bit, or not always."""


def test_a_run_goes_on_with_every_key_changed_that_may(base: dict[str, Any], tmp_path: Path) -> None:
    read = genhub.read_recipe(base)
    elsewhere = {"run_dir", "hub", "data.cache_latents", "trainer.max_time"}  # where they are tried
    free = {path for path, _, may in leaves(read) if may} - elsewhere
    assert {override.partition("=")[0] for override in (*SAFE, *OTHER_BITS)} == free
    whole = genhub.train(base, run_dir=str(tmp_path / "whole"))
    genhub.train(base, ["trainer.max_steps=2"])
    for override in (*SAFE, *OTHER_BITS):  # one by one: nothing keeps it from going on
        prepare_run(genhub.read_recipe(base, [override]))
    parts = genhub.train(base, SAFE)
    same_bits(whole, parts)
    again = genhub.train(base, [*SAFE, *OTHER_BITS[:-1], "data.in_memory=true"])  # and back; the last goes with no third
    assert again.name == "step-000006"


def test_images_in_memory_or_not_are_the_same_data(base: dict[str, Any], tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        Image.new("L", (8, 8), number * 9).save(images / f"{number}.png")
    base["data"] |= {"name": str(images), "batch_size": 4, "num_workers": 0}
    for number, in_memory in enumerate(("null", "false", "true", "false", "null"), start=1):
        folder = genhub.train(base, [f"data.in_memory={in_memory}", f"trainer.max_steps={number}"])
        assert folder.name == f"step-00000{number}"
    Image.new("L", (8, 8), 200).save(images / "0.png")
    for in_memory in ("null", "true"):
        with pytest.raises(genhub.RecipeError, match="data: the values or the order of .* have changed since"):
            genhub.train(base, [f"data.in_memory={in_memory}", "trainer.max_steps=9"])


class Patient(genhub.Trainer):
    """A stranger's trainer: marks a key of its own, and finds out by itself what it can't do."""

    class Config(genhub.TrainerConfig):
        patience: Annotated[int, genhub.MAY_CHANGE] = 3
        lr: float = 0.1

    config: Config

    def check(self, model: genhub.GenerativeModel, data: genhub.TrainingData) -> None:
        if self.config.patience > 9:
            raise genhub.RecipeError(f"trainer.patience: at most 9, not {self.config.patience}")

    def fit(self, model: genhub.GenerativeModel, data: genhub.TrainingData) -> Path:
        return self.run.save_checkpoint(1, model, data, genhub.TrainerState())


def test_a_strangers_trainer_marks_its_own_keys(base: dict[str, Any]) -> None:
    base["trainer"] = {"name": f"{__name__}:Patient"}
    with pytest.raises(genhub.RecipeError, match="trainer.patience: at most 9, not 10"):
        genhub.train(base, ["trainer.patience=10"])
    assert not Path(base["run_dir"]).exists()
    genhub.train(base)
    genhub.train(base, ["trainer.patience=5"])
    with pytest.raises(genhub.RecipeError, match=r"trainer.lr: was 0.1, is 0.2"):
        genhub.train(base, ["trainer.lr=0.2", "trainer.patience=5"])


def test_a_changed_recipe_is_refused_with_what_to_do(base: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    genhub.train(base, ["trainer.max_steps=1"])
    run = Path(base["run_dir"])
    before = content_of(run)
    said = []
    for attempt in (genhub.train, lambda recipe, overrides: prepare_run(genhub.read_recipe(recipe, overrides))):
        with pytest.raises(genhub.RecipeError) as caught:
            attempt(base, ["seed=3", "trainer.optimizer.name=sgd"])
        said.append(str(caught.value))
    assert said[0] == said[1]
    first, *lines, last = said[0].splitlines()
    assert first == f"{run} was started with another recipe:"
    assert "  seed: was 0, is 3" in lines
    assert "  trainer.optimizer.name: was 'adamw', is 'sgd'" in lines
    assert last.endswith(f"the same command with model.from={run} --run-dir {run}-2.")
    assert content_of(run) == before
    offered = base | {"model": {"from": str(run)} | base["model"]}
    assert genhub.train(offered, ["seed=3", "trainer.max_steps=1"], run_dir=f"{run}-2").name == "step-000001"
    prepare_run(genhub.read_recipe(base, ["seed=3"]), fresh=True)  # is not this run
    assert content_of(run) == before
