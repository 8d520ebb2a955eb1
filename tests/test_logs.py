"""metrics.jsonl: whatever happened to the file, every verb that reads it goes on, and every undamaged line is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_evaluation_during import EVALUATE, figures
from test_trainer import metrics, pair

import genhub
from genhub.evaluation.compare import compare
from genhub.evaluation.page import html
from genhub.ground.disk import append
from genhub.ground.run_log import RunLog, read_metrics
from genhub.views.log import Losses
from genhub.views.viewed import Viewed

LINES = [json.dumps({"step": step, "fit/loss": 1 / step, "seconds": 0.1 * step}).encode() for step in range(1, 9)]
DAMAGED = {
    "zeros": b"\0" * 30, "half": b'{"step": 4, "fit/lo', "no object": b"[3]", "a number": b"7", "null": b"null", "a text": b'"step"',
    "no step": b'{"fit/loss": 1.0}', "step of text": b'{"step": "x"}', "a step that is true": b'{"step": true}', "half a step": b'{"step": 1.5}',
    "negative": b'{"step": -1}', "no number": b'{"step": 3, "fit/loss": "x"}', "a list": b'{"step": 3, "fit/loss": [1]}',
    "many digits": b'{"step": 3, "fit/loss": ' + b"9" * 400 + b"}", "more digits": b'{"step": 1' + b"0" * 5000 + b"}",
    "deep": b"[" * 100_000, "not UTF-8": b'{"step": 3, "fit/l\xff\xfess": 1.0}', "UTF-16": '{"step": 3}'.encode("utf-16"),
    "glued": b'{"step": 4, "fit/l{"step": 5, "fit/loss": 1.0}', "a separator": '{"step": 3\u2028'.encode(),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_every_kind_of_damage_is_passed_over_and_said(tmp_path, what):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"\n".join([*LINES[:3], DAMAGED[what], *LINES[3:]]) + b"\n")
    lines, fault = read_metrics(file)
    assert lines == [json.loads(line) for line in LINES]
    assert fault == f"{file}: line 4 is damaged; left out"
    file.write_bytes(b"\n".join([DAMAGED[what], *LINES, DAMAGED[what], b"", b"{}"]) + b"\n" + DAMAGED[what])
    lines, fault = read_metrics(file)
    assert lines == [json.loads(line) for line in LINES]
    assert fault == f"{file}: line 1 is damaged, and 2 later ones; left out"  # the last is being written


@given(st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_leaves_the_other_lines(tmp_path, data):
    """Any bytes in the place of any others: what is read is the lines that were not touched, in their order."""
    content = b"\n".join(LINES) + b"\n"
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 200, len(content))))
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(content[:start] + data.draw(st.binary(max_size=40)) + content[end:])
    touched, at = set(), 0
    for number, line in enumerate(LINES):
        if start <= at + len(line) and end >= at:  # its bytes, or a neighbour of them
            touched.add(number)
        at += len(line) + 1
    lines, _ = read_metrics(file)
    whole = [json.loads(line) for number, line in enumerate(LINES) if number not in touched]
    assert [line for line in lines if line in whole] == whole


def test_a_line_after_one_that_was_cut_off_is_not_lost(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(LINES[0] + b"\n" + LINES[1][:9])
    append(file, LINES[2].decode())
    assert read_metrics(file)[0] == [json.loads(LINES[0]), json.loads(LINES[2])]
    file.write_bytes(LINES[0])  # whole, but for the end of its line
    append(file, LINES[2].decode())
    assert read_metrics(file) == ([json.loads(LINES[0]), json.loads(LINES[2])], None)


def test_a_loss_that_is_not_finite_is_a_number_still(tmp_path):
    """A trainer of one's own may log it: its line counts, and what is computed of it is computed of the others."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    lines = ['{"step": 1, "fit/loss": NaN, "seconds": 2}', '{"step": 2, "fit/loss": -Infinity, "seconds": 1e999}']
    (run / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    found, fault = read_metrics(run / "metrics.jsonl")
    assert ([line["step"] for line in found], fault) == ([1, 2], None)
    assert [str(line["fit/loss"]) for line in found] == ["nan", "-inf"]
    log = RunLog(run / "metrics.jsonl", 3, 1, 2, writes=True)
    log.sync()
    log.close()
    assert (run / "metrics.jsonl").read_text().splitlines() == lines


def test_a_log_that_goes_on_keeps_what_is_whole(tmp_path, capsys):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"\n".join([*LINES[:2], DAMAGED["zeros"], LINES[2], DAMAGED["half"], *LINES[3:]]))
    log = RunLog(file, 10, 1, 6, writes=True)
    log.line(7, {}, {})
    log.close()
    assert [line["step"] for line in read_metrics(file)[0]] == [1, 2, 3, 4, 5, 6, 7]
    assert read_metrics(file)[1] is None
    assert f"{file}: line 3 is damaged, and 1 later ones; left out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[dict, Path]:
    """A recipe and a run that stopped at step 3, of 6."""
    from conftest import TINY_DDPM

    folder = tmp_path_factory.mktemp("logs")
    recipe = pair(json.loads(json.dumps(TINY_DDPM)), log_every=1) | {"evaluate": EVALUATE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENHUB_CACHE", str(folder / "cache"))
        genhub.train(recipe, ["trainer.max_steps=3"], run_dir=str(folder / "run"))
    return recipe, folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["a line of losses", "the line of figures", "half a line at the end", "all of it"])
def test_every_verb_goes_on_with_a_damaged_log(stopped, tmp_path, monkeypatch, capsys, damage):
    monkeypatch.setenv("GENHUB_CACHE", str(tmp_path / "cache"))
    recipe, original = stopped
    run = Path(shutil.copytree(original, tmp_path / "run"))
    file = run / "metrics.jsonl"
    lines = file.read_bytes().splitlines()
    assert b"evaluate/" in lines[3]
    lines = {
        "a line of losses": [lines[0], DAMAGED["zeros"], *lines[2:], b""], "the line of figures": [*lines[:3], DAMAGED["half"], b""],
        "half a line at the end": [*lines, DAMAGED["half"]], "all of it": [DAMAGED["zeros"]] * 4,
    }[damage]  # fmt: skip
    file.write_bytes(b"\n".join(lines))
    whole, fault = read_metrics(file)
    comparison = compare([run])
    assert ([fault] if fault else []) == [note for note in comparison.notes if "damaged" in note]
    assert comparison.rows[0].rows_seen == 48
    assert html(comparison)
    if whole:
        assert Losses().draw(Viewed(run))
        assert (fault or "") in capsys.readouterr().err
    else:
        with pytest.raises(genhub.InputError, match="nothing is logged yet"):
            Losses().draw(Viewed(run))
    genhub.train(recipe, run_dir=str(run))
    assert (fault or "") in capsys.readouterr().err
    kept = [line["step"] for line in whole] + ([3] if damage in ("the line of figures", "all of it") else [])  # made up for
    assert [line["step"] for line in metrics(run)] == sorted([*kept, 4, 5, 6, 6])
    assert list(figures(run)) == [3, 6]
