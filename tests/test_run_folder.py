"""A run's folder for its readers: steps in the order of their numbers, a lost recipe, and a run that deletes what is read."""

from __future__ import annotations

import ast
import base64
import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from test_claims import BASE, content_of

import genhub
from genhub.errors import NewerFormat
from genhub.evaluation.compare import compare, read_row
from genhub.evaluation.page import write_report
from genhub.store.checkpoints import prune_checkpoints
from genhub.store.classes import describe_folder
from genhub.store.find import find_checkpoint, read_newest
from genhub.store.manifest import MANIFEST, read_manifest
from genhub.store.run_folder import RunFolder


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Any]:
    return json.loads(json.dumps(BASE)) | {"run_dir": str(tmp_path / "run")}


class LongTrainer(genhub.Trainer):
    """As a run of a million steps ends."""

    def fit(self, model: genhub.Model, data: genhub.TrainingData) -> Path:
        for step in (99_999, 100_000, 999_999, 1_000_000):
            torch.nn.init.constant_(model.generator[-1].bias, step)  # type: ignore[operator,union-attr,index]
            self.run.save_preview(step, model)
            folder = self.run.save_checkpoint(step, model, data, genhub.TrainerState())
        return folder


def test_a_million_steps_are_later_than_999_999(
    base: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base["trainer"] = {"name": f"{__name__}:LongTrainer", "max_steps": 1_000_000, "keep_last": 3, "num_samples": 1}
    run, newest = Path(base["run_dir"]), "step-1000000"
    assert genhub.train(base).name == newest
    assert f"Picture  {run}/samples/{newest}.png" in capsys.readouterr().out
    assert [folder.name for folder in RunFolder(run).checkpoints()] == [newest, "step-999999", "step-100000"]
    assert [file.stem for file in RunFolder(run).previews()] == ["step-099999", "step-100000", "step-999999", newest]
    assert find_checkpoint(run).name == newest
    assert RunFolder(run).newest_whole() == (run / "checkpoints" / newest, [])
    assert compare([run]).rows[0].steps == 1_000_000
    assert models.Pair.from_pretrained(run).generator[-1].bias[0] == 1_000_000
    (run / "samples" / f"{newest}.png").write_bytes(newest_picture := b"\x89PNG\r\n\x1a\n, the newest")
    write_report(compare([run]), tmp_path / "report.html")
    assert base64.b64encode(newest_picture).decode() in (tmp_path / "report.html").read_text()
    prune_checkpoints(RunFolder(run), keep_last=1)
    assert [folder.name for folder in RunFolder(run).checkpoints()] == [newest]


# A recipe that is lost


def lose(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def spoil(file: Path) -> None:
    file.write_bytes(b"\xff\xfe{" + file.read_bytes())


@pytest.mark.parametrize("damage", [lose, empty, zeros, spoil])
def test_a_lost_recipe_comes_back_from_the_newest_checkpoint(
    base: dict[str, Any], damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    newest = genhub.train(base, ["trainer.max_steps=2"])
    file = Path(base["run_dir"]) / "recipe.yaml"
    text = file.read_text()
    damage(file)
    with pytest.raises(genhub.RecipeError, match=r"seed: was 0, is 3"):  # it counts as before
        genhub.train(base, ["seed=3", "trainer.max_steps=2"])
    assert f"the copy in {newest} is used in its place" in capsys.readouterr().err
    if damage is not spoil:  # which may be somebody's edit, and is told with its line
        assert genhub.read_recipe(file).yaml() == text
        assert "recipe.yaml: is lost" in capsys.readouterr().err
    genhub.train(base, ["trainer.max_steps=2"])
    assert file.read_text() == text


def test_a_recipe_lost_while_a_run_trains_is_in_its_next_checkpoint(base: dict[str, Any]) -> None:
    first = genhub.train(base, ["trainer.max_steps=2"])
    run = Path(base["run_dir"])
    (run / "recipe.yaml").unlink()
    from genhub.store.checkpoints import save_checkpoint

    model, data = models.Pair.from_pretrained(first), read_manifest(first).data
    assert data is not None
    second = save_checkpoint(RunFolder(run), 3, model, genhub.TrainerState(), data)
    assert (second / "recipe.yaml").read_text() == (first / "recipe.yaml").read_text()


# A newer genhub's


def of_a_newer_genhub(folder: Path, **changes: Any) -> None:
    from genhub.store.manifest import checksum_of

    content = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(content | {"checksum": checksum_of(content)}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genhub": "99.1", "surprise": 1}, r"genhub\.json: needs genhub >= 99\.1, this is .*surprise"),
        ({"surprise": {"a": 1}}, r"genhub\.json: whole, but of another genhub than this one, .*update genhub: surprise"),
        ({"genhub": "99.1", "config": {"name": "models:Pair", "depth": 3}}, r"depth.*needs genhub >= 99\.1"),
    ],
)
def test_a_newer_genhubs_checkpoint_is_said_to_be_that_and_left_alone(
    base: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    newest = genhub.train(base)
    of_a_newer_genhub(newest, **changes)
    before = content_of(Path(base["run_dir"]))
    for attempt in (
        lambda: genhub.train(base, ["trainer.max_steps=9"]),
        lambda: models.Pair.from_pretrained(base["run_dir"]),
    ):
        with pytest.raises(NewerFormat, match=message):
            attempt()
    assert content_of(Path(base["run_dir"])) == before
    damaged = (newest / MANIFEST).read_text().replace("surprise", "surprize")
    (newest / MANIFEST).write_text(damaged.replace("depth", "depht"))
    assert genhub.train(base).name == "step-000004"  # damage is still damage: back to step 2, and on


# A run that deletes what is read


@pytest.mark.slow
def test_readers_take_the_next_checkpoint_while_a_run_deletes_theirs(base: dict[str, Any]) -> None:
    """Saving and pruning at full speed, in a thread; nobody who reads fails."""
    base["model"] = {"name": "vae"}
    first = genhub.train(base, ["trainer.max_steps=1"])
    run, stop, made = Path(base["run_dir"]), threading.Event(), [1]

    def train() -> None:
        step = 1
        while not stop.is_set():
            step += 1
            folder, temporary = run / "checkpoints" / f"step-{step:06d}", run / "checkpoints" / f".step-{step:06d}.tmp"
            shutil.copytree(first_copy, temporary)
            of_step(temporary, step)
            temporary.replace(folder)
            prune_checkpoints(RunFolder(run), keep_last=3)
            made.append(step)

    def of_step(folder: Path, step: int) -> None:
        (folder / MANIFEST).write_text(read_manifest(folder).model_copy(update={"step": step}).text())

    first_copy = Path(shutil.copytree(first, run.parent / "copy"))
    readers: list[Callable[[], Any]] = [
        lambda: genhub.load(run).state_dict().keys(),
        lambda: genhub.sample(run, 1, seed=3).tolist(),
        lambda: read_newest(run, describe_folder)["parameters"],
        lambda: read_row(str(run)).model,
        lambda: genhub.read_recipe({"model": {"from": str(run)}}).model.shape,
        lambda: find_checkpoint(run).parent,
    ]
    expected = [read() for read in readers]
    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(15):
            assert [read() for read in readers] == expected
    finally:
        stop.set()
        thread.join()
    assert len(made) > 15


def test_a_checkpoint_named_itself_is_not_exchanged_for_another(base: dict[str, Any]) -> None:
    folder = genhub.train(base, ["trainer.max_steps=1"])

    def read(found: Path) -> None:
        shutil.rmtree(found)
        (found / MANIFEST).read_text()

    with pytest.raises(genhub.CheckpointError, match="step-000001: was deleted while it was read"):
        read_newest(folder, read)
    with pytest.raises(genhub.CheckpointError, match="no such folder"):
        read_newest(folder, read)


# Its names, spelled once

NAMES = re.compile(r"(^|/)(checkpoints|samples|evaluations|metrics\.jsonl|\.?step-[^/]*)(/|$)")
WHERE = Path(genhub.__file__).parent


def spelled(module: Path) -> list[str]:
    """Return the names of what is in a run's folder that a module's code spells; messages, of several words, may name them,
    and so may docstrings."""
    nodes = list(ast.walk(ast.parse(module.read_text())))
    notes = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in notes]
    return [text for text in texts if isinstance(text, str) and " " not in text and NAMES.search(text)]


def test_no_other_module_knows_the_names_in_a_runs_folder() -> None:
    own = WHERE / "store" / "run_folder.py"
    assert len(spelled(own)) == 5
    found = {str(module): spelled(module) for module in WHERE.rglob("*.py") if module != own}
    assert not {module: names for module, names in found.items() if names}
