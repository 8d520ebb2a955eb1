"""`genhub data`: what is in data, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from image_files import noise, save, table, ten_images
from PIL import Image

from genhub.cli import main


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["genhub", "data", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else 0, out, err


def test_digits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(monkeypatch, capsys, "digits", "--out", tmp_path / "x.png")
    assert code == 0
    lines = out.splitlines()
    assert lines[:2] == ["Data     digits, 1,797 rows of split train; it has train", "Target   image"]
    assert lines[2].split() == ["column", "modality", "shape", "missing", "about"]
    assert [line.split()[:4] for line in lines[3:6]] == [
        ["image", "image", "1x8x8", "0"], ["label", "label", "-", "0"], ["ink", "number", "-", "0"]]  # fmt: skip
    assert "0: 178, 1: 182, 2: 177" in lines[4]
    assert "low 0.1807; high 0.4229" in lines[5]
    assert lines[-1] == f"Picture  {tmp_path / 'x.png'}"
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 64


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table(4, price=[0.5, None, 1.5, 2.5], when=[[[1]], [[2]], None, [[3]]]).to_parquet(str(tmp_path / "x.parquet"))
    _, out, _ = run(monkeypatch, capsys, tmp_path / "x.parquet", "--json", "columns.image.size=4")
    facts = json.loads(out)
    assert (facts["rows"], facts["splits"], facts["target"]) == (4, ["train"], "image")
    assert facts["columns"]["image"]["shape"] == [3, 4, 4]
    assert facts["columns"]["label"]["rows_of_each"] == {"even": 2, "odd": 2}
    assert facts["columns"]["price"]["missing"] == 1
    assert (facts["columns"]["price"]["low"], facts["columns"]["price"]["high"]) == (0.5, 2.5)
    assert facts["unrecognised"] == ["when"]


def test_several_targets_and_a_column_with_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = table(3, point=[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]], odd=[[0.0], [1.0, 2.0], [2.0]])
    rows.to_parquet(str(tmp_path / "x.parquet"))
    code, out, _ = run(monkeypatch, capsys, tmp_path / "x.parquet")
    assert code == 0
    assert "Target   has to be said, data.target=..., one of: image, point" in out
    assert "--out data.png writes a picture" in out


def test_a_stream_and_a_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table(6).to_parquet(str(tmp_path / "x.parquet"))
    _, out, _ = run(monkeypatch, capsys, tmp_path / "x.parquet", "streaming=true")
    assert "6 rows of split train" in out
    assert [line.split()[:3] for line in out.splitlines()[3:5]] == [["image", "image", "3x6x6"], ["label", "label", "-"]]
    ten_images(tmp_path)
    save(tmp_path / "set" / "dog" / "x.png", noise(0, 9, 9))
    _, out, _ = run(monkeypatch, capsys, tmp_path / "set", "--json")
    assert json.loads(out)["columns"]["label"]["rows_of_each"] == {"cat": 4, "dog": 7}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.parquet"], "genhub: data.name: no such folder or file: nowhere.parquet"),
        (["digits", "split=test"], "genhub: data.split: no split 'test'; the splits of digits: train"),
        (["digits", "target=label"], "genhub: data.target: 'label' is a label, which can be a condition alone"),
        (["digits", "colums.x=number"], "genhub: data.colums: unknown key"),
        (["digits", "columns.x=number"], "genhub: data.columns.x: digits has no column 'x'; known: image, ink, label"),
    ],
)
def test_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, out, err = run(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
