"""Data that are read as they come: the order is known beforehand, and a run goes on where it was, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shared_data
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from test_trainer import metrics, pair, same_bits, wait_for

import genhub
from genhub.data.open import load_data, open_data
from genhub.errors import DataError
from genhub.ground.processes import Share
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.model import Batch


def png(number: int) -> bytes:
    stream = BytesIO()
    Image.new("L", (4, 4), number).save(stream, format="PNG")
    return stream.getvalue()


def shards(folder: Path, files: int = 4, rows: int = 30, label: object = None, bad: tuple[int, ...] = ()) -> str:
    """Parquet files of grey images, each as grey as it is far in the whole; row groups of ten."""
    folder.mkdir()
    features = Features({"image": ImageFeature(), "label": label or ClassLabel(names=["even", "odd"])})
    for file in range(files):
        numbers = range(file * rows, (file + 1) * rows)
        images = [{"bytes": b"?" if number in bad else png(number), "path": None} for number in numbers]
        table = Dataset.from_dict({"image": images, "label": [number % 2 for number in numbers]}, features=features)
        table.to_parquet(folder / f"part-{file}.parquet", batch_size=10)
    return str(folder / "*.parquet")


def numbers(batch: Batch) -> list[int]:
    assert ((batch.x - batch.x[:, :1, :1, :1]) == 0).all()
    found = ((batch.x[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
    if "label" in batch.conditions.values:
        assert batch.conditions.present["label"].all()
        assert batch.conditions.values["label"].tolist() == [number % 2 for number in found]
    return found


def config(name: object, **keys) -> DataConfig:
    return DataConfig(**({"name": name, "streaming": True, "batch_size": 6, "shuffle_buffer": 16, "num_workers": 0} | keys))


def taken(stream, steps: int, **given) -> list[list[int]]:
    return [numbers(batch) for batch in islice(stream.batches(given.pop("share", Share()), seed=3, **given), steps)]


def opened(name: object, conditions: tuple[str, ...] = ("label",), **keys):
    return open_data(config(name, **keys), conditions)


def flat(lists: list[list]) -> list:
    return list(chain.from_iterable(lists))


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_has_all_images_in_an_order_of_its_own(tmp_path, workers):
    stream = opened(shards(tmp_path / "x"), num_workers=workers)
    assert stream.spec.num_rows == 120
    assert stream.spec.modality.shape == (1, 4, 4)
    assert stream.spec.conditions["label"].names == ("even", "odd")
    assert stream.columns == stream.available == ("image", "label")
    steps = taken(stream, 40)
    first, second = (flat(steps[at : at + 20]) for at in (0, 20))
    assert sorted(first) == sorted(second) == list(range(120))
    assert first != second
    assert first != list(range(120))
    assert np.abs(np.diff(first)).mean() > 20  # from several files, and well mixed
    assert taken(stream, 40) == steps
    assert [numbers(batch) for batch in islice(stream.batches(seed=4), 3)] != steps[:3]


def test_a_list_of_files_is_streamed_and_checked_before_the_first_step(tmp_path):
    shards(tmp_path / "x")
    names = [str(tmp_path / "x" / file) for file in ("part-3.parquet", "part-[01].parquet")]
    stream = opened(names, batch_size=10)
    assert stream.spec.num_rows == 90
    assert sorted(flat(taken(stream, 9))) == [*range(60), *range(90, 120)]
    (tmp_path / "x" / "part-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="data.name.1: .*part-1.parquet: "):
        open_data(config(names))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_an_epoch(tmp_path, world):
    stream = opened(shards(tmp_path / "x"), batch_size=6)
    shares = [taken(stream, 120 // 6, share=Share(rank, world)) for rank in range(world)]
    assert sorted(flat(flat(shares))) == list(range(120))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("world", [1, 2])
def test_it_goes_on_anywhere_with_and_without_its_state(tmp_path, workers, world):
    """In the middle of a block, on its edge, in the next epoch; the state goes through JSON."""
    stream = opened(shards(tmp_path / "x"), num_workers=workers, flip=True)
    share = Share(world - 1, world)
    steps = taken(stream, 45, share=share)
    for stop in (1, 8, 16, 33):
        batches = stream.batches(share, seed=3)
        for _ in range(stop):
            next(batches)
        state = json.loads(json.dumps(stream.state(stop)))
        del batches
        assert taken(stream, 45 - stop, start_step=stop, state=state, share=share) == steps[stop:], stop
        assert taken(stream, 3, start_step=stop, share=share) == steps[stop : stop + 3], stop  # by reading up to there


def test_a_state_spares_the_reading(tmp_path):
    stream = opened(shards(tmp_path / "x"), shuffle_buffer=10)
    batches = stream.batches(seed=3)
    for _ in range(15):
        next(batches)
    state, read = stream.state(15), []
    blocks = stream._blocks
    stream._blocks = lambda *given: (read.append(len(rows)) or (mark, rows) for mark, rows in blocks(*given))
    next(stream.batches(seed=3, start_step=15, state=state))
    assert sum(read) <= 20
    next(stream.batches(seed=3, start_step=15))
    assert sum(read) >= 90


def test_images_that_can_not_be_read(tmp_path):
    name = shards(tmp_path / "x", bad=(33, 70))
    with pytest.raises(DataError, match="data.columns.image: 1 of 6 rows can't be read: a row of the stream: not an image"):
        taken(opened(name), 20)
    stream = opened(name, on_error="skip")
    assert not {33, 70} & set(flat(taken(stream, 20)))
    assert len(stream.skipped) == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"name": "digits"},
            "data.streaming: digits can't be streamed: its rows are in memory; parquet, arrow, JSON lines and Hub data sets can",
        ),
        ({"in_memory": True}, "data.in_memory: a stream is not kept in memory"),
        (
            {"split": "train[:10]"},
            r"data.split: a stream has no split 'train\[:10\]', and no slices; the splits of .*: train",
        ),
        ({"target": "picture"}, "data.target: .* has no column 'picture'"),
        ({"columns": {"x": {"from": "imgae"}}}, "data.columns.x.from: .* has no column 'imgae'; did you mean 'image'"),
        ({"name": "nowhere.parquet"}, "data.name: no such folder or file: nowhere.parquet"),
    ],
)
def test_what_can_not_be_streamed(tmp_path, keys, message):
    with pytest.raises(DataError, match=message):
        open_data(config(**{"name": shards(tmp_path / "x"), **keys}))


def test_a_number_is_no_class(tmp_path):
    name = shards(tmp_path / "x", label=Value("int64"))
    assert opened(name, ()).columns == ("image",)
    with pytest.raises(
        DataError, match="data.columns.label: doesn't say what classes there are; a stream needs a ClassLabel"
    ):
        opened(name)
    said = opened(name, columns={"label": {"modality": "label", "names": ["0", "1"]}})
    assert sorted(flat(taken(said, 20))) == list(range(120))


def test_a_run_on_a_stream_resumes_exactly_and_says_what_it_reads(tiny, tmp_path, capsys):
    tiny = pair(tiny, max_steps=9, save_every=4) | {
        "data": {"name": shards(tmp_path / "x"), "streaming": True, "shuffle_buffer": 16, "batch_size": 6, "num_workers": 1}}  # fmt: skip
    whole = genhub.train(tiny, run_dir=str(tmp_path / "whole"))
    genhub.train(tiny, ["trainer.max_steps=5"], run_dir=str(tmp_path / "parts"))
    stored = json.loads((tmp_path / "parts/checkpoints/step-000005/trainer/state.json").read_text())
    assert stored["data"][0]["position"] == 16  # of its second block
    parts = genhub.train(tiny, run_dir=str(tmp_path / "parts"))
    same_bits(whole, parts)
    assert [m for m in metrics(tmp_path / "parts") if m["step"] != 5] == metrics(tmp_path / "whole")
    assert "120 rows of image: image 1x4x4" in capsys.readouterr().out
    with pytest.raises(DataError, match="data.streaming: this needs rows by number"):
        load_data(genhub.read_recipe(tiny).data)
    with pytest.raises(genhub.RecipeError, match="data.shuffle_buffer: was 16, is 8"):
        genhub.train(tiny, ["data.shuffle_buffer=8"], run_dir=str(tmp_path / "parts"))


@pytest.mark.slow
def test_the_same_images_as_without_streaming():
    folder = shared_data("cifar10_jpeg")
    name = str(folder / "test.parquet")
    stream = opened(name, batch_size=50)
    batch = next(stream.batches(seed=0))
    whole = load_data(DataConfig(name=name), ("label",))
    assert stream.spec.columns == whole.spec.columns
    assert stream.spec.num_rows == whole.spec.num_rows
    everything = {tensor.numpy().tobytes() for tensor in whole.x(range(10_000))}
    assert {tensor.numpy().tobytes() for tensor in batch.x} <= everything
    assert torch.equal(batch.conditions.values["label"].bincount(minlength=10) > 0, torch.ones(10, dtype=torch.bool))


def test_rows_without_the_target_are_passed_over_and_missing_conditions_are_not_present(tmp_path):
    images = [None if number % 5 == 0 else {"bytes": png(number), "path": None} for number in range(60)]
    features = Features({"image": ImageFeature(), "price": Value("float32")})
    rows = {"image": images, "price": [None if number % 3 == 0 else number / 60 for number in range(60)]}
    Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "x.parquet"))
    stream = opened(str(tmp_path / "x.parquet"), ("price",), batch_size=8)
    assert stream.spec.conditions["price"].modality == "number"
    seen = []
    for batch in islice(stream.batches(seed=0), 6):
        found = ((batch.x[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        assert batch.conditions.present["price"].tolist() == [number % 3 != 0 for number in found]
        seen += found
    assert sorted(seen) == [number for number in range(60) if number % 5]


def test_conditions_are_dropped_alike_on_the_way_and_after_a_stop(tmp_path):
    stream = opened(shards(tmp_path / "x"))
    stream.condition_dropout = 0.5
    whole = [batch.conditions.present["label"] for batch in islice(stream.batches(seed=1), 8)]
    assert 0.2 < torch.cat(whole).float().mean() < 0.8
    for share in (Share(0, 1, 2), Share(0, 1)):
        steps = [batch.step for batch in islice(stream.batches(share, seed=1), 4)]
        assert steps == [number // share.accumulation for number in range(4)]
    after = [batch.conditions.present["label"] for batch in islice(stream.batches(seed=1, start_step=5), 3)]
    assert all(torch.equal(a, b) for a, b in zip(after, whole[5:], strict=True))


def test_a_derived_column_of_a_stream(tmp_path):
    rows = {"a": [float(number) for number in range(20)], "b": [2.0 * number for number in range(20)], "c": ["x"] * 20}
    Dataset.from_dict(rows).to_parquet(str(tmp_path / "x.parquet"))
    stream = opened(str(tmp_path / "x.parquet"), (), columns={"p": {"from": ["a", "b"], "modality": "vector"}}, batch_size=5)
    assert stream.spec.target == "p"
    assert stream.spec.modality.names == ("a", "b")
    own = torch.cat([stream.spec.modality.from_batch(batch.x) for batch in islice(stream.batches(seed=0), 4)])
    torch.testing.assert_close(own[:, 1], 2 * own[:, 0])
    assert sorted(own[:, 0].round().tolist()) == rows["a"]


def json_lines(folder: Path, files: int = 4, rows: int = 30, text: int = 1) -> str:
    """Files of JSON lines, each row's vector its number in the whole and half of that; a text of so many letters beside."""
    folder.mkdir()
    for file in range(files):
        numbers = range(file * rows, (file + 1) * rows)
        lines = [json.dumps({"p": [float(n), n / 2], "label": ["even", "odd"][n % 2], "note": "x" * text}) for n in numbers]
        (folder / f"part-{file}.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder / "*.jsonl")


NAMED = {"columns": {"label": {"modality": "label", "names": ["even", "odd"]}}}


def points(stream, steps: int, **given) -> list[list[int]]:
    """Numbers of the rows of each step, as `taken` has them."""
    found = []
    for batch in islice(stream.batches(given.pop("share", Share()), seed=3, **given), steps):
        own = stream.spec.modality.from_batch(batch.x)
        np.testing.assert_allclose(own[:, 1], own[:, 0] / 2, atol=1e-3)
        found.append(own[:, 0].round().int().tolist())
        assert batch.conditions.values["label"].tolist() == [number % 2 for number in found[-1]]
    return found


@pytest.mark.parametrize("files", [1, 4])
def test_json_lines_are_streamed_and_gone_on_with(tmp_path, files):
    stream = opened(json_lines(tmp_path / "x", files, 120 // files), **NAMED)
    assert (stream.spec.num_rows, stream.spec.target, stream.available) == (0, "p", ("p", "label", "note"))
    steps = points(stream, 45)
    for epoch in (0, 20):
        assert sorted(flat(steps[epoch : epoch + 20])) == list(range(120))
    for stop in (1, 8, 33):
        batches = stream.batches(seed=3)
        for _ in range(stop):
            next(batches)
        state = json.loads(json.dumps(stream.state(stop)))
        assert points(stream, 45 - stop, start_step=stop, state=state) == steps[stop:], stop
    shares = [points(stream, 20, share=Share(rank, 2)) for rank in (0, 1)]
    assert sorted(flat(flat(shares))) == list(range(120))


def test_a_stream_of_json_that_can_not_be_read_to_its_end(tmp_path):
    """Damage beyond the 10 MiB that are read first is told while the stream is read."""
    name = json_lines(tmp_path / "x", 1, 1100, text=10_000)
    file = tmp_path / "x" / "part-0.jsonl"
    with file.open("a") as lines:
        lines.write('{"p": [1.0,\n')
    with pytest.raises(DataError, match=r"^data.name: .*\*.jsonl: JSON parse error: Invalid value\.?$"):
        points(opened(name, **NAMED), 200)
    file.write_text("")
    with pytest.raises(DataError, match=r"^data.name: .*\.jsonl: it has no rows$"):
        opened(str(file), **NAMED)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_json_lines_is_killed_and_goes_on_to_the_bit(tmp_path):
    """With parts of 10 MiB to a file, on the way through one and on its edge."""
    name = json_lines(tmp_path / "x", 2, 1300, text=10_000)
    recipe = {
        "model": {"name": "gan", "latent_dim": 4, "generator": {"channels": [8]}, "discriminator": {"channels": [8]}},
        "data": {"name": name, "target": "p", "streaming": True, "shuffle_buffer": 100, "batch_size": 50, "num_workers": 1},
        "trainer": {"max_steps": 60, "save_every": 10, "trackers": [], "log_every": 10},
    }  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    whole = genhub.train(recipe, run_dir=str(tmp_path / "whole"))
    command = [sys.executable, "-m", "genhub", "train", str(tmp_path / "recipe.json"), "--run-dir", str(tmp_path / "parts")]
    for saved in ("step-000010", "step-000030"):
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda saved=saved: any(each.name >= saved for each in (tmp_path / "parts/checkpoints").glob("step-*")))
        finally:
            started.kill()
            started.wait()
    parts = genhub.train(recipe, run_dir=str(tmp_path / "parts"))
    same_bits(whole, parts)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
