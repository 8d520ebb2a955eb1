"""`genhub compare` and `genhub sweep`: what is stored, side by side; the page in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_stream import shards
from test_trainer import pair

import genhub
from genhub.evaluation.compare import compare
from genhub.evaluation.page import html, write_report
from genhub.sweeps.sweep import grid

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MODELS = {"vae": {"channels": [8]}, "gan": {"generator": {"channels": [8, 8]}, "discriminator": {"channels": [8, 8]}},
          "ddpm": {"network": {"name": "unet", "block_out_channels": [8, 16], "add_attention": False}}}  # fmt: skip
CURVES = 4 + 1 + 2
"""Losses of four runs, one figure while training, quality against evaluations and against time."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Three small evaluated runs, one of them also while it trained and with two numbers of steps, and one never evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENHUB_CACHE", str(folder / "cache"))
        for name in ("vae", "gan", "bare", "ddpm"):
            recipe = {"model": {"name": "vae" if name == "bare" else name, **MODELS.get(name, {})},
                      "trainer": {"max_steps": 20, "log_every": 5, "save_every": 10, "sample_every": None, "trackers": []}}  # fmt: skip
            if name == "ddpm":
                recipe["model"]["sampling"] = {"num_inference_steps": 2}
                recipe["evaluate"] = {"every": 10, "n": 20, "extractor": "pixels"}
            genhub.train(recipe, run_dir=str(folder / name))
        metrics = ["frechet_distance", "cost"]
        for name, n, options in [("vae", 100, {}), ("gan", 120, {}), ("ddpm", 100, {"num_inference_steps": 3}),
                                 ("ddpm", 100, {"num_inference_steps": 2}), ("ddpm", 50, {})]:  # fmt: skip
            genhub.evaluate(folder / name, n, metrics=metrics, extractor="pixels", **options)
    return [folder / name for name in ("vae", "gan", "bare", "ddpm")]


def test_the_table_and_what_does_not_compare(runs):
    comparison = compare(runs)
    names, lines = comparison.table()
    assert names[:6] == ["run", "model", "steps", "rows seen", "seconds", "frechet_distance"]
    assert [line[1] for line in lines] == ["vae", "gan", "vae", "ddpm"]
    assert lines[0][2:4] == ["20", "1,280"]
    assert lines[1][5].endswith(" *")
    assert not lines[0][5].endswith("*")
    assert lines[2][5:] == [""] * len(lines[2][5:])
    assert comparison.notes[0].endswith(f"genhub evaluate {runs[2]}")
    assert comparison.notes[1].endswith("was measured differently from " + str(runs[0]) + ", in: n")
    assert len(comparison.notes) == 2  # of the ddpm's evaluations, the one that compares is shown, not the newest
    assert [found.protocol.n for found in comparison.shown() if found] == [100, 120, 100]
    again = json.loads(comparison.model_dump_json())
    assert again["rows"][0]["evaluations"][0]["values"]["parameters"] > 0


@pytest.mark.parametrize("streaming", [False, True])
def test_images_seen_are_those_of_the_checkpoint(tiny, tmp_path, streaming):
    """Steps times the batch size, where the last line logged was of an earlier step; a stream has no epochs to count."""
    pair(tiny, log_every=4, save_every=3)
    if streaming:
        tiny["data"] |= {"name": shards(tmp_path / "data"), "streaming": True, "num_workers": 0, "shuffle_buffer": 16}
    newest = genhub.train(tiny)
    rows = compare([newest.parent / "step-000003", newest.parent / "step-000006", newest.parents[1]]).rows
    assert [(row.steps, row.rows_seen) for row in rows] == [(3, 48), (6, 96), (6, 96)]


def test_no_run_is_an_error_of_one_line(tmp_path):
    with pytest.raises(genhub.CheckpointError, match="no such folder"):
        compare([tmp_path / "nothing"])
    with pytest.raises(genhub.InputError, match="at least one"):
        compare([])


@pytest.fixture(scope="module")
def page(runs) -> str:
    return html(compare(runs))


def test_the_page_needs_nothing_else_and_is_the_same_again(runs, page, tmp_path):
    file = write_report(compare(runs), tmp_path / "a folder" / "report.html")
    assert page == file.read_text("utf-8")
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://matplotlib.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", "")  # fmt: skip
    assert page.count("data:image/png;base64,") == 3
    assert page.count("<svg") == CURVES
    assert page.count("network evaluations a row") == page.count("seconds a row") == 1
    assert "frechet distance ↓" in page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_in_a_browser(page, tmp_path, width):
    """Nothing is wider than the window but the table, which scrolls on its own."""
    probe = ("<script>addEventListener('load', () => { document.title = JSON.stringify([document.documentElement.scrollWidth,"
             " innerWidth, [...document.images].every(i => i.complete && i.naturalWidth > 0), document.querySelectorAll('svg')"
             ".length]); })</script></body>")  # fmt: skip
    (tmp_path / "report.html").write_text(page.replace("</body>", probe), "utf-8")
    # A window can't be narrower than 500 pixels: a frame can.
    frame = tmp_path / "frame.html"
    frame.write_text(f"<body style='margin:0'><iframe id=f src=report.html width={width} height=900></iframe>"
                     "<script>f.onload = () => setTimeout(() => document.body.append(f.contentDocument.title), 300)</script>")  # fmt: skip
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
               "--dump-dom", frame.as_uri()]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(said[said.index("[", said.index("</script>")) : said.rindex("]") + 1])
    wide, inner, pictures, curves = found
    assert inner == pytest.approx(width, abs=20)
    assert wide <= inner
    assert pictures is True
    assert curves == CURVES


def test_a_grid_of_settings():
    points = grid("digits-gan", ["trainer.optimizer.lr=1e-4,3e-4", "model.generator.channels=[8, 16],[16,32]", "seed=0..1"])
    assert len(points) == 8
    assert points[0].overrides == ("trainer.optimizer.lr=1e-4", "model.generator.channels=[8, 16]", "seed=0")
    assert points[1].overrides[2] == "seed=1"
    assert points[0].run_dir.name.startswith("lr=1e-4,channels=_8,_16_,seed=0-")
    assert len({point.run_dir for point in points}) == 8
    with pytest.raises(genhub.InputError, match="must look like"):
        grid("digits-gan", ["seed"])
    with pytest.raises(genhub.InputError, match="a range goes up"):
        grid("digits-gan", ["seed=4..1"])


@pytest.mark.slow
def test_a_sweep_trains_goes_on_and_compares(tmp_path):
    small = ["--set", "trainer.max_steps=4", "--set", "trainer.sample_every=null", "--set", "trainer.trackers=[]"]
    command = [
        sys.executable,
        "-m",
        "genhub",
        "sweep",
        "digits-gan",
        "--set",
        "seed=0..1",
        *small,
        "--run-dir",
        "s",
        "--json",
    ]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    facts = json.loads(first.stdout[first.stdout.index("{") :])
    assert [row["steps"] for row in facts["rows"]] == [4, 4]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    logs = sorted((tmp_path / "s").glob("*.log"))
    assert len(logs) == 2
    assert "Already trained to step 4" in logs[0].read_text()
    assert again.stdout == first.stdout
    command[command.index("seed=0..1")] = "seed=-1"
    wrong = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "seed: must be greater than or equal to 0" in wrong.stderr
