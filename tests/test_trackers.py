"""Trackers: what each of them has of a run, read back, and of one that was killed and went on."""

from __future__ import annotations

import io
import json
import re
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from faults import write_recipe
from models import Brightens
from PIL import Image

import genhub
from genhub.ground.run_log import read_metrics
from genhub.modalities.sounds import wav_of

ALL = ["tensorboard", "wandb", "trackio"]
PLACES = ("WANDB_MODE", "WANDB_DIR", "WANDB_RUN_ID", "TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
COLUMNS = ["step", "figure", "value", "low", "high"]
Read = dict[str, dict[int, Any]]
"""Content of a tracker, by name and step: one value each, else the test fails."""


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a working folder that should stay empty, and no settings of the machine's."""
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    for name in ("home", "cwd"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "home"


def put(found: Read, name: str, step: int, value: Any) -> None:
    assert step not in found.setdefault(name, {}), f"{name} has step {step} twice"
    found[name][step] = value


# Readers: numbers as float, media as bytes, tables as rows


def in_tensorboard(run: Path) -> Read:
    """Return the content of TensorBoard's own accumulator, from which it shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    (folder,) = {file.parent for file in (run / "logs").rglob("events.out.tfevents.*")}
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "audio": 0, "tensors": 0})
    accumulator.Reload()
    found: Read = {}
    tags = accumulator.Tags()
    for name in tags["scalars"]:
        for event in accumulator.Scalars(name):
            put(found, name, event.step, event.value)
    for name in tags["images"]:
        for event in accumulator.Images(name):
            put(found, name, event.step, event.encoded_image_string)
    for name in tags["audio"]:
        for event in accumulator.Audio(name):
            put(found, name, event.step, event.encoded_audio_string)
    for name in tags["tensors"]:
        for event in accumulator.Tensors(name):
            text = tensor_util.make_ndarray(event.tensor_proto)
            if name.endswith("/text_summary"):
                put(found, name.removesuffix("/text_summary"), event.step, text.item().decode())
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    values = HParamsPluginData.FromString(content).session_start_info.hparams
    found["config"] = {0: {key: getattr(value, value.WhichOneof("kind")) for key, value in values.items()}}
    return found


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log after a head of 7 bytes. Its blocks of 32 KiB hold pieces, each with a
    checksum, a length and a kind: whole, first, middle, last."""
    from wandb.proto import wandb_internal_pb2

    content = file.read_bytes()
    at, parts = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        parts = content[at + 7 : at + 7 + size] if kind in (1, 2) else parts + content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(parts)


def in_wandb(run: Path) -> Read:
    """Return the content of the one offline run that there is."""
    (folder,) = (run / "logs" / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    found: Read = {"config": {0: {}}}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        assert kind != "run" or (record.run.project, record.run.display_name) == (run.parent.name, run.name)
        if kind in ("run", "config"):
            updates = record.run.config.update if kind == "run" else record.config.update
            found["config"][0] |= {one.key: json.loads(one.value_json) for one in updates if one.key != "_wandb"}
        if kind != "history":
            continue
        row: dict[str, Any] = {}
        media: dict[str, dict[str, Any]] = {}
        for item in record.history.item:
            name, *key = item.nested_key or [item.key]
            value = json.loads(item.value_json)
            if key:
                media.setdefault(name, {})[key[0]] = value
            else:
                row[name] = value
        for name, value in media.items():
            content = (folder / "files" / value["path"]).read_bytes()
            row[name] = json.loads(content)["data"] if value["_type"] == "table-file" else content
        step = row.pop("_step")
        for name, value in row.items():
            if not name.startswith("_"):
                put(found, name, step, value)
    found["recipe"] = {0: (folder / "files" / "recipe.yaml").read_text()}
    return found


def in_trackio(run: Path) -> Read:
    """Return the one run as trackio's own storage gives it to its dashboard."""
    import trackio

    from genhub.training.trackers import move_trackio

    home = run / "logs" / "trackio"
    move_trackio(home)
    (one,) = trackio.Api().runs(run.parent.name)
    assert one.name == run.name
    found: Read = {"config": {0: one.config}}
    for line in trackio.SQLiteStorage.get_logs(run.parent.name, one.name, run_id=one.id):
        for name, value in line.items():
            if name in ("step", "timestamp"):
                continue
            if isinstance(value, dict) and "file_path" in value:
                value = (home / "media" / value["file_path"]).read_bytes()
            elif isinstance(value, dict):
                rows = value["_value"]
                value = [[row[column] for column in COLUMNS] for row in rows] if isinstance(rows, list) else rows
            put(found, name, line["step"], value)
    return found


READERS = {"tensorboard": in_tensorboard, "wandb": in_wandb, "trackio": in_trackio}


def check_numbers(found: Read, run: Path) -> None:
    """Each number of metrics.jsonl, once, and no other."""
    expected: dict[str, dict[int, float]] = {}
    for line in read_metrics(run / "metrics.jsonl")[0]:
        for name in line.keys() - {"step"}:
            expected.setdefault(name, {})[int(line["step"])] = line[name]
    assert expected.keys() == {name for name, steps in found.items() if all(type(v) is float or type(v) is int for v in steps.values())}  # fmt: skip
    for name, steps in expected.items():
        assert found[name] == pytest.approx(steps, rel=1e-6), name


def check_previews(found: Read, run: Path, steps: list[int]) -> None:
    assert list(found["preview"]) == steps
    for step, content in found["preview"].items():
        with Image.open(run / "samples" / f"step-{step:06d}.png") as drawn, Image.open(io.BytesIO(content)) as shown:
            np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), np.asarray(drawn.convert("RGB")))


def check_film(content: bytes, run: Path) -> None:
    """A frame a preview; those of few colours come through a GIF as they are."""
    with Image.open(io.BytesIO(content)) as film:
        previews = sorted((run / "samples").glob("step-*.png"))
        assert (film.format, film.n_frames) == ("GIF", len(previews))
        for number, file in enumerate(previews):
            film.seek(number)
            with Image.open(file) as drawn:
                assert film.size == drawn.size
                difference = np.asarray(film.convert("RGB"), float) - np.asarray(drawn.convert("RGB"), float)
                assert np.abs(difference).mean() < 8


def check_table(found: Read, run: Path, step: int) -> None:
    """All figures up to a step, with the ends of their intervals."""
    stored = {one["step"]: one for one in map(json.loads, map(Path.read_text, (run / "evaluations").glob("step-*.json")))}
    rows = [
        [at, name, value, *stored[at]["intervals"].get(name, (None, None))]
        for at in sorted(stored) if at <= step
        for name, value in stored[at]["values"].items()
    ]  # fmt: skip
    assert len(rows) == len({row[0] for row in rows}) >= 1
    table = found["figures"][step]
    if isinstance(table, str):  # Markdown
        head, rule, *lines = table.splitlines()
        assert (head, set(rule)) == ("|" + "|".join(COLUMNS) + "|", set("|-"))
        cells = [line.strip("|").split("|") if line.endswith("|||") is False else line[1:-1].split("|") for line in lines]
        table = [[int(a), b, *(float(x) if x else None for x in more)] for a, b, *more in cells]
        rows = [[a, b, *(x and pytest.approx(x, rel=1e-5) for x in more)] for a, b, *more in rows]
    assert table == rows


def check_recipe(found: Read, run: Path, step: int) -> None:
    """The recipe with all its keys, as text and as a config."""
    text = found["recipe"][step]
    if text.startswith("```yaml"):
        text = text.removeprefix("```yaml\n").removesuffix("\n```")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert yaml.safe_load(text) == recipe
    config = found["config"][0]
    assert config["trainer.max_steps"] == recipe["trainer"]["max_steps"]
    assert config["trainer.optimizer.lr"] == recipe["trainer"]["optimizer"]["lr"]
    assert config["model.name"] == recipe["model"]["name"]
    assert config["trainer.trackers"] == "[" + ", ".join(recipe["trainer"]["trackers"]) + "]"


class Hum(Brightens):
    """Sounds instead of images: nothing in it knows which."""

    def __init__(self, config: genhub.ModelConfig) -> None:
        super().__init__(config)


@pytest.fixture
def sounds(tmp_path: Path) -> str:
    """A folder of 40 short sounds."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    times = np.arange(64) / 8000
    for number in range(40):
        wave = 0.5 * np.sin(2 * np.pi * (200 + 20 * number) * times)[None]
        (folder / f"{number:02d}.wav").write_bytes(wav_of(wave, 8000))
    return str(folder)


def test_each_tracker_has_what_a_run_has_made(tmp_path: Path, sounds: str, own_home: Path) -> None:
    """Numbers, pictures, sounds, the film, the table and the recipe; and nothing lies anywhere else."""
    run = tmp_path / "run"
    genhub.train({
        "model": {"name": "test_trackers:Hum"}, "data": {"name": sounds, "batch_size": 8}, "run_dir": str(run),
        "trainer": {"max_steps": 4, "log_every": 2, "sample_every": 2, "save_every": 2, "num_samples": 6, "trackers": ALL, "device": "cpu"},
        "evaluate": {"every": 2, "n": 20, "extractor": "values", "metrics": ["frechet_distance"]},
    })  # fmt: skip
    for name, read in READERS.items():
        found = read(run)
        check_numbers(found, run)
        check_previews(found, run, [2, 4])
        for number in range(4):  # the first few of six
            heard = {step: (run / "samples" / f"step-{step:06d}-{number}.wav").read_bytes() for step in (2, 4)}
            assert found[f"sounds/{number}"] == heard, name
        assert "sounds/4" not in found
        assert heard[4][:4] == b"RIFF"
        assert list(found["film"]) == [4]
        check_film(found["film"][4], run)
        assert list(found["figures"]) == [2, 4]
        check_table(found, run, 2)
        check_table(found, run, 4)
        check_recipe(found, run, 0)
    assert list(own_home.iterdir()) == []
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.slow
def test_a_killed_run_goes_on_in_each_tracker(zygote: Any, tiny: dict, tmp_path: Path) -> None:
    """Killed in step 9, after the checkpoint of step 6: one run in each tracker, with each step once, and all of them."""
    tiny["evaluate"] = {"every": 3, "n": 20, "extractor": "pixels", "metrics": ["frechet_distance"]}
    tiny["model"] = {"name": "models:KilledAfterEight"}
    keys = {"max_steps": 10, "log_every": 1, "sample_every": 2, "save_every": 3, "trackers": ALL}
    recipe, run = str(write_recipe(tmp_path, tiny, **keys)), Path(tiny["run_dir"])
    (tmp_path / "kill").touch()
    # Written soon, and by a service of its own, whatever a test of this process has started before the zygote.
    env = {"WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "0.2", "WANDB_SERVICE": ""}
    first = zygote.start("genhub.cli:main", "train", recipe, cwd=tmp_path, env=env)
    assert first.wait() == -signal.SIGKILL, first.err
    assert max(path.name for path in (run / "checkpoints").iterdir()) == "step-000006"
    before = {name: read(run) for name, read in READERS.items()}
    for found in before.values():  # they had more than the checkpoint
        assert max(found["fit/loss"]) > 6
    (identity,) = (run / "logs" / "wandb").glob("offline-run-*")

    (tmp_path / "kill").unlink()
    second = zygote.start("genhub.cli:main", "train", recipe, cwd=tmp_path, env=env)
    assert second.wait() == 0, second.err
    assert "resuming at step 6" in second.out
    for name, read in READERS.items():
        found = read(run)  # which takes no step twice
        check_numbers(found, run)
        assert list(found["fit/loss"]) == list(range(1, 11)), name
        check_previews(found, run, [2, 4, 6, 8, 10])
        assert list(found["film"]) == [10]
        check_table(found, run, 6)
        check_table(found, run, 10)
        check_recipe(found, run, {"tensorboard": 6, "wandb": 0, "trackio": 0}[name])
    (after,) = (run / "logs" / "wandb").glob("offline-run-*")
    assert after.name.rpartition("-")[2] == identity.name.rpartition("-")[2]
    assert after != identity
    assert not list(tmp_path.glob("home/**/*")) + list(tmp_path.glob("wandb")) + list(tmp_path.glob("mlruns"))


@pytest.mark.slow
def test_nothing_asks_for_the_network(zygote: Any, tiny: dict, tmp_path: Path) -> None:
    keys = {"max_steps": 2, "sample_every": 1, "save_every": 2, "trackers": ALL}
    tiny["model"] = {"name": "models:Brightens"}
    recipe = str(write_recipe(tmp_path, tiny, **keys))
    job = zygote.start("faults:genhub_off_line", "train", recipe, cwd=tmp_path, env={"HF_TOKEN": "", "WANDB_SERVICE": ""})
    assert job.wait() == 0, job.err


class Fails(Brightens):
    """Ends its training with an error in the fourth step, where there is a file `fail`."""

    def after_update(self, step: int) -> None:
        if step == 3 and Path("fail").exists():
            raise genhub.TrainingError("failed")


@pytest.mark.slow
def test_a_run_that_failed_goes_on_in_the_same_process(tiny: dict, tmp_path: Path) -> None:
    """As in a notebook: trackers that the error has left open are closed first."""
    tiny["model"] = {"name": "test_trackers:Fails"}
    tiny["trainer"] |= {"max_steps": 4, "log_every": 1, "save_every": 2, "trackers": ALL}
    Path("fail").touch()
    with pytest.raises(genhub.TrainingError, match="failed"):
        genhub.train(tiny)
    Path("fail").unlink()
    genhub.train(tiny)
    for read in READERS.values():
        found = read(tmp_path / "run")
        check_numbers(found, tmp_path / "run")
        assert list(found["fit/loss"]) == [1, 2, 3, 4]


def test_runs_of_one_process_keep_to_their_folders(tiny: dict, tmp_path: Path) -> None:
    """Trackio reads TRACKIO_DIR once a process."""
    tiny["model"] = {"name": "models:Brightens"}
    tiny["trainer"] |= {"max_steps": 1, "save_every": 1, "trackers": ["trackio"]}
    for name in ("one", "two", "one"):  # the last is trained already
        genhub.train(tiny, run_dir=str(tmp_path / name))
    for name in ("one", "two"):
        check_numbers(in_trackio(tmp_path / name), tmp_path / name)


@pytest.mark.slow
def test_a_store_of_ones_own_is_left_where_it_is(tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRACKIO_DIR is obeyed; a run that goes on takes its own place there, and no other's."""
    import trackio

    from genhub.training.trackers import move_trackio

    store = tmp_path / "store"
    move_trackio(store)
    monkeypatch.setenv("TRACKIO_DIR", str(store))
    other = trackio.init(tmp_path.name, name="other", embed=False)
    other.log({"fit/loss": 1.0}, step=7)
    other.finish()
    tiny["model"] = {"name": "models:Brightens"}
    tiny["trainer"] |= {"save_every": 1, "log_every": 1, "trackers": ["trackio"]}
    genhub.train(tiny, ["trainer.max_steps=1"])
    genhub.train(tiny, ["trainer.max_steps=2"])
    assert not (tmp_path / "run" / "logs" / "trackio").exists()
    runs = {one.name: one for one in trackio.Api().runs(tmp_path.name)}
    assert sorted(runs) == ["other", "run"]
    steps = {name: [line["step"] for line in trackio.SQLiteStorage.get_logs(tmp_path.name, name, run_id=one.id) if "fit/loss" in line]
             for name, one in runs.items()}  # fmt: skip
    assert steps == {"other": [7], "run": [1, 2]}


def test_any_other_tracker_gets_numbers_and_the_config(tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that accelerate knows and genhub doesn't."""
    from accelerate import accelerator, tracking
    from accelerate.utils import LoggerType

    calls: list[tuple[Any, ...]] = []

    class Elsewhere(tracking.GeneralTracker):
        name, requires_logging_directory, tracker = "aim", False, None

        def __init__(self, run_name: str) -> None:
            super().__init__()
            calls.append(("name", run_name))

        def store_init_configuration(self, values: dict) -> None:
            calls.append(("config", values["trainer.max_steps"], values["data.name"]))
            assert all(value is None or isinstance(value, bool | int | float | str) for value in values.values())

        def log(self, values: dict, step: int | None = None, **_: Any) -> None:
            calls.append((step, *sorted(values)))

        def finish(self) -> None:
            calls.append(("finish",))

    monkeypatch.setitem(accelerator.LOGGER_TYPE_TO_CLASS, "aim", Elsewhere)
    monkeypatch.setattr(tracking, "_available_trackers", [*tracking._available_trackers, LoggerType.AIM])
    tiny["model"] = {"name": "models:Brightens"}
    tiny["trainer"] |= {"max_steps": 2, "save_every": 2, "sample_every": 1, "trackers": ["aim"]}
    tiny["evaluate"] = {"every": 2, "n": 20, "extractor": "pixels", "metrics": ["frechet_distance"]}
    genhub.train(tiny)
    logged = ("epoch", "fit/grad_norm", "fit/loss", "lr", "rows_per_second", "seconds")
    measured = ("evaluate/frechet_distance",)
    assert calls == [("name", tmp_path.name), ("config", 2, "digits"), (2, *logged), (2, *measured), ("finish",)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_names_the_extra(tiny: dict, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genhub.training.checks.get_available_trackers", lambda: ["tensorboard"])
    tiny["trainer"]["trackers"] = [name]
    message = f"trainer.trackers: {name} is not installed: pip install 'genhub-framework[{name}]'"
    with pytest.raises(genhub.RecipeError, match=re.escape(message)):
        genhub.train(tiny)


def test_a_tracker_that_cannot_start_says_why(tiny: dict, tmp_path: Path) -> None:
    """Trackio takes no such name."""
    tiny["trainer"]["trackers"] = ["trackio"]
    with pytest.raises(genhub.RecipeError, match="trainer.trackers: trackio can't start: .*not allowed.*reserved"):
        genhub.train(tiny, run_dir=str(tmp_path / "my_system" / "run"))


def test_the_page_says_the_names_and_a_command_that_is_right() -> None:
    from genhub.training.trackers import FILM, PREVIEW, SOUND, TABLE, TEXT

    page = (Path(__file__).parents[1] / "docs" / "trackers.md").read_text()
    for name in (PREVIEW, SOUND.format(0), FILM, TABLE, TEXT):
        assert f"| `{name}`" in page
    (recipe, override) = re.findall(r"^genhub train (\S+) '(.*)'$", page, re.MULTILINE)[0]
    assert genhub.read_recipe(recipe, [override]).trainer.trackers == ("tensorboard", "trackio")
