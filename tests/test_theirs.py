"""A recipe from the Hub is data: whatever a stranger writes into it, nothing of this machine is read, named or written."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from test_hub import Files, model, published, said  # noqa: F401  (fixtures)

import genhub
from genhub import cli
from genhub.data.open import load_data, open_data
from genhub.ground.parsing import TextSource
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.registry import MODELS, TRAINERS, load_all
from genhub.recipe.recipe import Recipe
from genhub.recipe.schema import _options
from genhub.recipe.sections import EvaluateConfig, HubConfig
from genhub.recipe.theirs import FREE_TEXT, OWN, check_theirs

NO_PATHS = FREE_TEXT | {("data", "revision")}
TEXT = {"data": DataConfig, "evaluate": EvaluateConfig, "hub": HubConfig}


def keys() -> Iterator[tuple[str, str]]:
    """Every key that a recipe can have, of every registered model and trainer, with the model or trainer it is of."""
    for section, config in TEXT.items():
        yield from ((f"{section}.{key}", "") for key in _options(config))
    for section, group in (("model", MODELS), ("trainer", TRAINERS)):
        for name, cls in load_all(group)[0].items():
            yield from ((f"{section}.{key}", name) for key in _options(cls.Config))
    yield from (
        ("model.from", "autoencoder"),
        ("seed", ""),
        ("run_dir", ""),
        ("init_from", ""),
        ("folder", ""),
        ("origin", ""),
    )
    yield from (("data.columns.caption.encoder", ""), ("data.columns.caption.modality", ""))
    yield from (("trainer.optimizers.unet.name", "accelerate"), ("trainer.ema.decay", "accelerate"), ("data.name.0", ""))


def stranger(key: str, name: str, value: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"model": {"name": "ddpm"}, "trainer": {"name": "accelerate"}}
    section, *rest = key.split(".")
    if name and section in content:
        content[section]["name"] = name
    target, path = content, [section, *rest]
    for part in path[:-1]:
        target = target.setdefault(part, {})
    target[path[-1]] = value
    return {"data": {"name": [value]}, "model": {"name": "ddpm"}} if key == "data.name.0" else content


def texts(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, inner in pairs:
        yield from texts(inner, (*path, key))
    if isinstance(content, str):
        yield path, content


@pytest.mark.parametrize("value", ["/etc/passwd", "./photos", "~/photos", "data/photos", "photos", "pixels:photos/x.png"])
def test_no_key_of_any_recipe_can_name_a_path(hub, tmp_path, monkeypatch, value) -> None:
    """What is read of it is text that is no path, by its key; or a Hub id, though a folder of that name is here."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "data/photos"):
        Path(folder).mkdir(parents=True)
        Image.new("L", (8, 8)).save(f"{folder}/x.png")
    file = tmp_path / "theirs" / "recipe.yaml"
    file.parent.mkdir()
    monkeypatch.setattr("genhub.recipe.recipe.find_recipe_of", lambda source: ("eve/x", file))
    tried, read = 0, dict[str, Recipe]()
    for key, name in keys():
        file.write_text(yaml.safe_dump(stranger(key, name, value)))
        tried += 1
        with contextlib.suppress(genhub.GenhubError):
            read[key] = genhub.read_recipe("eve/x")
    assert tried > 140
    own = {".".join(key) for key in OWN}
    for key, recipe in read.items():
        if key in own or key.startswith("hub."):
            assert recipe.left_out == (key.split(".")[0] if key != "trainer.trackers" else key,)
        assert recipe.run_dir == "runs/eve--x"
        assert recipe.hub is None
        for path, text in texts(recipe.dump()):
            assert value not in text or path in NO_PATHS or text.startswith("hf://"), (key, path, text)


def test_what_is_refused_is_said_with_its_key(hub, tmp_path, monkeypatch) -> None:
    file = tmp_path / "recipe.yaml"
    monkeypatch.setattr("genhub.recipe.recipe.find_recipe_of", lambda source: ("eve/x", file))
    for section, told in [
        ({"evaluate": {"extractor": "inception:/a.png"}}, "evaluate.extractor: a recipe from the Hub can name a registered extractor alone, not 'inception:/a.png'"),
        ({"data": {"name": "photos"}}, "data.name: a recipe from the Hub can name digits, moons and the like or a data set on the Hub, user/name, not 'photos'"),
        ({"data": {"name": ["a/b"]}}, "data.name.0: a recipe from the Hub can't name files, such as 'a/b'"),
        ({"data": {"revision": "../x"}}, "data.revision: '../x' can't be a branch, tag or commit"),
        ({"model": {"name": "ddpm", "autoencoder": "vae"}}, "model.autoencoder: a recipe from the Hub can name a model on the Hub, user/name, not 'vae'"),
        ({"data": {"columns": {"caption": {"encoder": "./clip"}}}}, "data.columns.caption.encoder: a recipe from the Hub can name a model on the Hub, user/name, not './clip'"),
        ({"model": {"from": "base"}}, "model.from: a recipe from the Hub can name a model on the Hub, user/name, not 'base'"),
        ({"model": {"name": "mine:Model"}}, "model.name: a recipe from the Hub can name nothing of this machine, and 'mine:Model' might"),
        ({"init_from": "x"}, "init_from: unknown key"),
    ]:  # fmt: skip
        file.write_text(yaml.safe_dump({"model": {"name": "ddpm"}} | section))
        with pytest.raises(genhub.RecipeError) as raised:
            genhub.read_recipe("eve/x")
        assert str(raised.value).startswith("eve/x: recipe.yaml:")
        assert told in str(raised.value)
        assert "\n" not in str(raised.value)


def test_the_command_line_is_the_users_own(hub, tmp_path, monkeypatch) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        yaml.safe_dump({"model": {"name": "autoencoder"}, "data": {"name": "/x"}, "evaluate": {"extractor": "clip:/x"}})
    )
    monkeypatch.setattr("genhub.recipe.recipe.find_recipe_of", lambda source: ("eve/x", file))
    own = ["data.name=/mine", "evaluate.extractor=dinov2:/mine", "trainer.trackers=[wandb]", "hub={repo_id: me/mine}"]
    read = genhub.read_recipe("eve/x", own, "/mine")
    assert (read.data.name, read.run_dir, read.left_out) == ("/mine", "/mine", ())
    assert read.evaluate is not None
    assert read.evaluate.extractor == "dinov2:/mine"
    again = genhub.read_recipe(read)
    assert (again.origin, again.data.name) == ("hf://eve/x", "/mine")


def test_hub_ids_are_spelled_so_that_no_folder_is_meant() -> None:
    content = {
        "data": {"name": "eve/data", "columns": {"caption": {"encoder": "eve/clip"}}},
        "model": {"autoencoder": "eve/vae@v1", "from": "hf://eve/x", "channels": [1]},
    }
    where = TextSource("x", theirs=True)
    assert check_theirs(content, where) == {
        "data": {"name": "hf://datasets/eve/data", "columns": {"caption": {"encoder": "hf://eve/clip"}}},
        "model": {"autoencoder": "hf://eve/vae@v1", "from": "hf://eve/x", "channels": [1]},
    }
    assert not where.faults


def test_what_is_left_out_is_said_and_a_push_leaves_it_at_home(capsys, hub, model, published, monkeypatch, tmp_path) -> None:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    ours = yaml.safe_load(published["recipe.yaml"])
    assert not {"run_dir", "hub"} & ours.keys()
    assert "trackers" not in ours["trainer"]
    theirs = ours | {
        "run_dir": "runs/mine",
        "hub": {"repo_id": "eve/steal"},
        "trainer": ours["trainer"] | {"trackers": ["wandb"]},
    }
    model("eve/x", {"recipe.yaml": yaml.safe_dump(theirs).encode()})
    genhub.train("eve/x", ["trainer.max_steps=1"])
    assert "Recipe   of hf://eve/x, without run_dir, hub, trainer.trackers: yours to set" in capsys.readouterr().out
    assert genhub.read_recipe("runs/eve--x/recipe.yaml").trainer.trackers == ("tensorboard",)
    monkeypatch.setattr("sys.argv", ["genhub", "recipe", "check", "eve/x"])
    with pytest.raises(SystemExit):
        cli.app()
    assert capsys.readouterr().out == "eve/x: fine, without run_dir, hub, trainer.trackers: yours to set\n"


# The data


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def parquet(*rows: dict[str, Any]) -> bytes:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(rows, kind)}, pa.schema([("image", kind)], metadata)), stream)
    return stream.getvalue()


def test_a_data_set_on_the_hub_goes_before_a_folder_of_its_name(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    hub.add("datasets/eve/data", {"data/train-00000-of-00001.parquet": parquet(*({"bytes": png(7), "path": None},) * 3)})
    Path("eve/data").mkdir(parents=True)
    Path("eve/data/secret.png").write_bytes(png(99))
    theirs, mine = load_data(DataConfig(name="hf://datasets/eve/data")), load_data(DataConfig(name="eve/data"))
    assert (theirs.num_rows, mine.num_rows) == (3, 1)
    assert theirs.x([0]).max().item() == pytest.approx(7 / 127.5 - 1)


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_the_hub_can_not_name_files_of_here(hub, tmp_path, streaming) -> None:
    """Also not behind images that are there: each row is looked at when it is read."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(99))
    rows = [*({"bytes": png(7), "path": None},) * 3, {"bytes": None, "path": str(secret)}]
    hub.add("datasets/eve/rows", {"data/train-00000-of-00001.parquet": parquet(*rows)})
    hub.add(
        "datasets/eve/card",
        {"README.md": f"---\nconfigs:\n- config_name: default\n  data_files: {tmp_path}/*.png\n---\n".encode()},
    )
    hub.add("datasets/eve/images", {"train/a.png": png(7), "train/b.png": png(8)})
    with pytest.raises(
        genhub.DataError, match=r"data.name: a row names the file .*secret.png, which did not come with the data"
    ):
        open_data(DataConfig(name="eve/rows", streaming=streaming))
    with pytest.raises(genhub.DataError, match="Data files don't belong to eve/card"):
        open_data(DataConfig(name="eve/card", streaming=streaming))
    if not streaming:
        assert open_data(DataConfig(name="eve/images")).spec.num_rows == 2  # fetched files are opened by their paths
    local = tmp_path / "mine.parquet"
    local.write_bytes(parquet(*rows))
    assert load_data(DataConfig(name=str(local))).num_rows == 4  # the user's own may


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("modality", ["image", "signal"])
def test_texts_of_the_hub_are_no_paths_of_here(hub, tmp_path, modality, streaming) -> None:
    """Neither said so by a recipe, as itself or as a column made of it, nor by the columns that a model was trained on; nor
    a path in a struct of its own. A person's own table may name files."""
    secret = tmp_path / {"image": "secret.png", "signal": "secret.npy"}[modality]
    secret.write_bytes(png(99)) if modality == "image" else np.save(secret, np.zeros((1, 64), np.float32))
    stream = io.BytesIO()
    pq.write_table(pa.table({"file": [str(secret)] * 3, "inner": [{"path": str(secret), "at": 0}] * 3}), stream)
    hub.add("datasets/eve/texts", {"data/train-00000-of-00001.parquet": stream.getvalue()})
    mine = tmp_path / "mine.parquet"
    mine.write_bytes(stream.getvalue())
    known = load_data(DataConfig(name=str(mine), target="file", columns={"file": modality})).spec.model_data
    refused = r"data.columns.\w+: its rows are texts, and a text of eve/texts is no path of this machine; refused"
    for target, columns in (("file", {"file": modality}), ("x", {"x": {"from": "file", "modality": modality}})):
        with pytest.raises(genhub.DataError, match=refused):
            open_data(DataConfig(name="eve/texts", target=target, columns=columns, streaming=streaming))
    with pytest.raises(genhub.DataError, match=refused):
        open_data(DataConfig(name="eve/texts", streaming=streaming), (), known)
    with pytest.raises(genhub.DataError, match=r"there is no (image|sound)"):
        open_data(DataConfig(name="eve/texts", target="inner", columns={"inner": modality}, streaming=streaming))


def test_measuring_and_showing_a_strangers_model_reads_no_file_of_here(hub, model, published, tmp_path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos/x.png").write_bytes(png(99))
    recipe = yaml.safe_load(published["recipe.yaml"]) | {"data": {"name": str(tmp_path / "photos")}}
    model("eve/x", {"recipe.yaml": yaml.safe_dump(recipe).encode()})
    told = r"eve/x: recipe.yaml:\d+: data.name: a recipe from the Hub can name digits, moons and the like or a data set on the Hub"
    with pytest.raises(genhub.RecipeError, match=told):
        genhub.evaluate("eve/x", 2, metrics=["cost"])
    with pytest.raises(genhub.RecipeError, match=told):
        genhub.show("reconstruct", "eve/x", out="x.png")
    genhub.evaluate("eve/x", 2, metrics=["cost"], extractor="pixels", overrides=["data.name=digits"])


# Whose run it is


def test_a_strangers_recipe_never_goes_on_with_a_run_of_ones_own(hub, model, published, tmp_path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load(published["recipe.yaml"])
    Path("x.yaml").write_text(yaml.safe_dump(recipe))
    mine = genhub.train("x.yaml")
    model(
        "eve/x",
        {"recipe.yaml": yaml.safe_dump(recipe | {"trainer": recipe["trainer"] | {"max_steps": 3, "keep_last": 1}}).encode()},
    )
    theirs = genhub.train("eve/x")
    assert (mine.parent.parent, theirs.parent.parent) == (Path("runs/x"), Path("runs/eve--x"))
    assert mine.is_dir()
    for source, run_dir, was, now in [
        ("eve/x", "runs/x", "a recipe of your own", "the recipe of hf://eve/x"),
        ("x.yaml", "runs/eve--x", "the recipe of hf://eve/x", "a recipe of your own"),
    ]:
        with pytest.raises(genhub.RecipeError) as raised:
            genhub.train(source, run_dir=run_dir)
        assert str(raised.value).startswith(f"run_dir: {run_dir} was started with {was}, this is {now}; choose another")
    model("bob/x", {"recipe.yaml": yaml.safe_dump(recipe).encode()})
    with pytest.raises(genhub.RecipeError, match="started with the recipe of hf://eve/x, this is the recipe of hf://bob/x"):
        genhub.train("bob/x", run_dir="runs/eve--x")
    assert list(Path("runs/x/checkpoints").iterdir()) == [mine]
    assert genhub.train("eve/x") == theirs  # goes on, or says that it is done
    assert genhub.train("runs/eve--x/recipe.yaml") == theirs  # the run's own copy says whose it is
    Path("runs").rename("moved")
    assert genhub.train("x.yaml", run_dir="moved/x").name == mine.name
    assert genhub.train("eve/x", run_dir="moved/eve--x").name == theirs.name
