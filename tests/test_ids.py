"""Paths and Hub ids told apart: what is mistyped or moved is answered at once, with the nearest name; no password is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from conftest import HUB
from test_hub import said
from test_theirs import parquet, png

import genhub
from genhub import cli
from genhub.data.open import load_data
from genhub.errors import without_passwords
from genhub.ground.ids import data_id, nearest_path, parse_id, split_id
from genhub.interfaces.columns import DataConfig


def test_what_is_an_id_and_what_a_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert parse_id("hf://runs/x@v1") == split_id("hf://runs/x@v1") == ("runs/x", "v1")
    assert (parse_id("runs/x"), split_id("runs/x")) == (("runs/x", None), None)
    assert split_id("run/x") == ("run/x", None)
    assert parse_id("hf:///etc") is parse_id("hf://../x") is parse_id("hf://x") is None
    assert data_id("hf://datasets/a/b") == "a/b"
    assert data_id("a/b") is data_id("hf://datasets/../b") is data_id("hf://datasets/csv") is None


def test_the_nearest_path_is_one_that_is_there(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/photos32").mkdir(parents=True)
    for path, told in [("runs/photo32", "runs/photos32"), ("run/photo32", "runs/photos32"), ("run/xyz", "runs"),
                       (tmp_path / "rns", tmp_path / "runs")]:  # fmt: skip
        assert nearest_path(Path(path)) == f"; did you mean '{told}'?"
    assert nearest_path(Path("runs/xyz")) == nearest_path(Path()) == nearest_path(Path("xyz/runs")) == ""


MOVED = "runs/photo32"
VERBS = {
    "sample": ["sample", MOVED], "evaluate": ["evaluate", MOVED], "info": ["info", MOVED], "compare": ["compare", MOVED],
    "show": ["show", "reverse", MOVED], "push": ["push", MOVED, "alice/x"], "train": ["train", MOVED],
    "from": ["train", "r.yaml", f"model.from={MOVED}"], "autoencoder": ["train", "ddpm.yaml", f"model.autoencoder={MOVED}"],
    "data": ["train", "r.yaml", f"data.name={MOVED}"], "word": ["train", "r.yaml", "data.name=phtos"],
    "other data": ["evaluate", "runs/x", f"data.name={MOVED}"],
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_what_lies_in_a_folder_of_here_is_not_asked_of_the_hub(hub, tmp_path, monkeypatch, capsys, verb) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = {"model": {"name": "autoencoder"}, "trainer": {"max_steps": 1, "trackers": [], "sample_every": None}}
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    Path("ddpm.yaml").write_text(yaml.safe_dump(recipe | {"model": {"name": "ddpm"}}))
    Path("runs/photos32").mkdir(parents=True)
    Path("photos").mkdir()
    if verb == "other data":
        genhub.train("r.yaml", run_dir="runs/x")
        capsys.readouterr()
    hub.requests.clear()
    answer = said(capsys, *VERBS[verb])
    assert answer.endswith("[2]")
    assert f"did you mean '{'photos' if verb == 'word' else 'runs/photos32'}'?" in answer
    assert ("hf://" in answer) == (verb not in ("show", "push", "train"))
    assert not hub.requests


def test_both_readings_are_named_when_the_hub_has_none(hub, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/photos32").mkdir(parents=True)
    Path("r.yaml").write_text("model: {name: autoencoder}")
    for words in (["sample", "run/photo32"], ["info", "run/photo32"], ["train", "run/photo32"]):
        answer = said(capsys, *words)
        assert answer.startswith("run/photo32: no such folder, and no such model on the Hub")
        assert answer.endswith("did you mean 'runs/photos32'? [2]")
    answer = said(capsys, "train", "r.yaml", "data.name=run/photo32")
    assert "'run/photo32' doesn't exist on the Hub" in answer
    assert answer.endswith("and there is no such folder or file here; did you mean 'runs/photos32'? [2]")
    with hub.gone():
        answer = said(capsys, "sample", "run/photo32")
    assert "can't be reached" in answer
    assert answer.endswith("and there is no such folder here; did you mean 'runs/photos32'? [1]")


def test_the_hubs_goes_before_a_folder_where_it_is_spelled_so(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("eve/spelled").mkdir(parents=True)
    hub.add("datasets/eve/spelled", {"data/train-00000-of-00001.parquet": parquet({"bytes": png(7), "path": None})})
    assert load_data(DataConfig(name="hf://datasets/eve/spelled")).spec.num_rows == 1
    with pytest.raises(genhub.HubError, match="eve/spelled: no such folder, and no such model"):
        genhub.load("hf://eve/spelled")
    with pytest.raises(
        genhub.CheckpointError, match="eve/other: no such folder .*; a model on the Hub would be hf://eve/other"
    ):
        genhub.load("eve/other")


# Passwords


def test_no_password_of_an_address_is_ever_said(hub, monkeypatch, capsys, tmp_path) -> None:
    """Whatever goes wrong, and when all is well."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", HUB.url.replace("://", "://user:s3cret@"))
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("://", "://user:s3cret@")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("genhub.hub.client.DELAYS", ())
    Path("r.yaml").write_text("model: {name: autoencoder}\ntrainer: {max_steps: 1, trackers: [], sample_every: null}")
    run = genhub.train("r.yaml")
    hub.add("alice/x", {"genhub.json": b"{}"})
    commands = [["info", "alice/x"], ["sample", "alice/none"], ["push", str(run), "alice/x"], ["sample", "alice/x@v9"]]
    for fault in [
        None,
        ("status", 401),
        ("status", 403),
        ("status", 404),
        ("status", 418),
        ("status", 503),
        ("reset", None),
        "gone",
    ]:
        for words in commands:
            if isinstance(fault, tuple):
                hub.fail("*", ".", *fault, times=99)
            monkeypatch.setattr(sys, "argv", ["genhub", *words])
            if fault == "gone":
                with hub.gone(), pytest.raises(SystemExit):
                    cli.main()
            else:
                with pytest.raises(SystemExit):
                    cli.main()
            hub.faults.clear()
            out, err = capsys.readouterr()
            assert "s3cret" not in out + err, (fault, words)
            assert out + err


def test_without_passwords() -> None:
    for text in ("https://hub.example.org/a@b", "hf://alice/x@v1", "alice/x@v1", "mail bob@example.org"):
        assert without_passwords(text) == text
    assert without_passwords("'http://me:pw@proxy:80', https://token@hub/x") == "'http://proxy:80', https://hub/x"
    assert str(genhub.HubError("https://a:b@c is away")) == "https://c is away"
