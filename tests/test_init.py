"""`genhub init`: a recipe that suits data, for every family that fits them."""

from __future__ import annotations

import json
import re
import wave
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import genhub
from genhub.cli import app
from genhub.interfaces.registry import MODELS, plugin_names
from genhub.run.suited import duration, suited_keys, task_of

MODELS_HERE = plugin_names(MODELS)
SOURCES = {  # by name: source, keys, a condition
    "digits": ("digits", {}, "label"),
    "moons": ("moons", {}, "label"),
    "wine": ("wine", {"target": "features"}, "label"),
    "photos": ("photos", {}, "label"),
    "sounds": ("sounds", {}, "label"),
}
NEED_A_CONDITION, OF_SIDES, OF_FEW_LEVELS, OF_FEW_NUMBERS = {"cgan"}, {"tarflow"}, {"ar"}, {"ebm"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of all sizes, of two kinds, and sounds of all lengths."""
    folder, random = tmp_path_factory.mktemp("init"), np.random.default_rng(0)
    for number in range(12):
        kind = ("cats", "dogs")[number % 2]
        sides = random.integers(70, 90, 2)
        for place in (folder / "photos" / kind, folder / "sounds" / kind):
            place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*sides, 3), dtype=np.uint8)).save(
            folder / "photos" / kind / f"{number}.jpg"
        )
        with wave.open(str(folder / "sounds" / kind / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(random.integers(-9000, 9000, 3000 + 200 * number, dtype=np.int16).tobytes())
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def init(*words: str) -> str:
    result = CliRunner().invoke(app, ["init", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def fits(model: str, source: str, given: bool) -> bool:
    without_sides, otherwise = source in ("moons", "wine"), source != "digits"
    wrong = (model in OF_SIDES and without_sides) or (model in OF_FEW_LEVELS and otherwise)
    wrong = wrong or (model in OF_FEW_NUMBERS and source in ("photos", "sounds"))
    return not wrong and (given or model not in NEED_A_CONDITION)


@pytest.mark.parametrize("accelerator", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("given", [False, True], ids=["", "given"])
@pytest.mark.parametrize("source", SOURCES)
def test_every_family_has_a_recipe_for_what_it_can_draw(source, given, accelerator):
    name, keys, condition = SOURCES[source]
    task = task_of(name, keys, [condition] if given else [], 10, accelerator)
    for model in MODELS_HERE:
        if not fits(model, source, given):
            with pytest.raises(genhub.InputError):
                suited_keys(task, model)
            continue
        written = suited_keys(task, model)
        recipe = genhub.read_recipe(written)
        assert recipe.model.name == model
        assert recipe.model.conditions == ((condition,) if given else ())
        assert recipe.trainer.max_time == "10m"
        assert recipe.data.batch_size <= max(8, task.means.rows // 4)
        assert (recipe.trainer.mixed_precision == "bf16") == accelerator
        assert list(written) == ["model", "data", "trainer", "seed"]


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_what_is_written_trains_and_draws(source, tmp_path):
    name, keys, condition = SOURCES[source]
    for model in MODELS_HERE:
        if fits(model, source, True):
            file, run = tmp_path / f"{model}.yaml", tmp_path / model
            init(
                name,
                *(f"{key}={value}" for key, value in keys.items()),
                "--model",
                model,
                "--condition",
                condition,
                "--out",
                str(file),
            )
            genhub.train(
                file, ["trainer.max_time=null", "trainer.max_steps=2", "trainer.sample_every=null"], run_dir=str(run)
            )
            assert torch.isfinite(genhub.sample(run, 2).float()).all()


def test_the_file_is_what_was_chosen_with_its_schema_beside_and_comments_that_change_nothing(tmp_path):
    file = tmp_path / "mine.yaml"
    said = init("photos", "--condition", "label", "--model", "ddpm", "--minutes", "2.5", "--out", str(file))
    text = file.read_text()
    assert text.startswith(
        "# yaml-language-server: $schema=recipe.schema.json\n# ddpm for photos, 12 rows of image: image 3x32x32, given label.\n"
    )
    content = yaml.safe_load(text)
    jsonschema.validate(content, json.loads((tmp_path / "recipe.schema.json").read_text()))
    assert content == suited_keys(task_of("photos", {}, ["label"], 2.5, torch.accelerator.is_available()), "ddpm")
    assert content["trainer"]["max_time"] == "150s"
    assert content["data"]["columns"]["image"] == {"size": 32}
    assert all(len(line) <= 125 for line in text.splitlines())
    assert "# channels at each level" in text
    assert "A GPU    would change: " in said
    assert "data.columns.image.size=64" in said
    assert "# With a GPU: " in text
    assert said.endswith(f"Next     genhub train {file}\n")


def test_a_family_is_chosen_and_the_file_named_where_nobody_says_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init("moons")
    assert genhub.read_recipe("moons-flow.yaml").model.name == "flow"
    init("wine", "target=features", "data.batch_size=16")
    assert genhub.read_recipe("wine-flow.yaml").data.batch_size == 16


def test_sounds_get_a_rate_and_a_length():
    keys = suited_keys(task_of("sounds", {}, [], 10, False), "gan")
    ((name, options),) = keys["data"]["columns"].items()
    assert options == {"length": 2048, "rate": 4000, "peak": 0.9}
    said = suited_keys(task_of("sounds", {"columns": {name: {"length": 512}}}, [], 10, False), "gan")
    assert said["data"]["columns"][name] == {"length": 512, "rate": 4000, "peak": 0.9}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--model", "flwo"], "no model is called 'flwo'; did you mean 'flow'"),
        (["digits", "--condition", "lable"], "digits has no column 'lable'; did you mean 'label'"),
        (["moons", "--model", "ar"], "has no levels to draw one by one"),
        (["nowhere-at-all"], "no such folder or file"),
        (["wine", "target=label"], "'label' is a label, which can be a condition alone"),
        (["digits", "batch_sise=3"], "batch_sise"),
        (["digits", "--out", "there.yaml"], "there.yaml: is there already"),
    ],
)
def test_what_cant_be_is_told_and_nothing_is_written(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("mine")
    with pytest.raises(genhub.InputError, match=re.escape(message)):
        init(*words)
    assert [path.name for path in tmp_path.iterdir()] == ["there.yaml"]
    assert Path("there.yaml").read_text() == "mine"


@pytest.mark.parametrize(("minutes", "text"), [(10, "10m"), (0.5, "30s"), (2.5, "150s"), (90, "90m"), (0.001, "1s")])
def test_minutes_as_a_recipe_has_them(minutes, text):
    assert duration(minutes) == text
