"""Estimates of `--dry-run --gpu`: operations are counted right, and times are near those that were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import genhub
from genhub import cli
from genhub.recipe.sections import AccelerateConfig
from genhub.run.prepare import prepare
from genhub.run.scale import GPUS, Work, forecast, work_of

HO = {"name": "ddpm", "scheduler": {"beta_schedule": "linear"}, "network": {
    "name": "unet", "block_out_channels": [128, 256, 256, 256], "layers_per_block": 2, "norm_num_groups": 32,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}}  # fmt: skip
"""The U-Net of Ho et al. 2020, which docs/performance.md has figures of."""
HALF, COMPILED = "trainer.mixed_precision=bf16", "trainer.compile=true"


def seconds(recipe: genhub.Recipe, settings: list[str], gpu: str = "h200", processes: int = 1) -> float:
    work = work_of(prepare(recipe))
    trainer = genhub.read_recipe("digits-ddpm", settings).trainer
    assert isinstance(trainer, AccelerateConfig)
    return forecast(work, trainer, GPUS[gpu], processes).step


@pytest.mark.parametrize(("settings", "measured"), [([], 0.0148), ([COMPILED], 0.0043)])
def test_a_small_network_on_one_card_takes_about_what_was_measured(settings, measured):
    assert seconds(genhub.read_recipe("digits-ddpm"), settings) == pytest.approx(measured, rel=0.2)


@pytest.mark.slow
def test_a_large_network_on_one_card_takes_about_what_was_measured(tmp_path: Path):
    np.savez(tmp_path / "x.npz", image=np.zeros((128, 32, 32, 3), np.uint8))
    recipe = genhub.read_recipe({"model": HO, "data": {"name": str(tmp_path / "x.npz"), "batch_size": 128}})
    work = work_of(prepare(recipe))
    assert work.flops == pytest.approx(37.5e9, rel=0.01)
    assert work.gradients == 4 * 35_746_307
    for settings, measured in (([], 0.0606), ([HALF], 0.0620), ([HALF, COMPILED], 0.0282)):
        trainer = genhub.read_recipe("digits-ddpm", settings).trainer
        assert isinstance(trainer, AccelerateConfig)
        assert forecast(work, trainer, GPUS["h200"], 1).step == pytest.approx(measured, rel=0.1)


def test_what_is_counted_is_what_is_there(tiny, tmp_path):
    """Products by hand, and a checkpoint's bytes by its files."""
    tiny["model"], tiny["data"]["name"] = {"name": "vae"}, "moons"
    recipe = genhub.read_recipe(tiny, ["trainer.max_steps=1"])
    prepared = prepare(recipe)
    work = work_of(prepared)
    matrices = [p for p in prepared.model.parameters() if p.ndim == 2]
    forward = sum(2 * p.numel() for p in matrices)
    assert 2 * forward < work.flops < 3 * forward  # backward is twice as much, but nobody asks for x's gradient
    assert work.rows == recipe.data.batch_size
    folder = genhub.train(recipe)
    files = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert work.kept == pytest.approx(files, rel=0.1)


def test_attention_is_counted(tmp_path):
    """Forward 4 H S^2 D, backward as much again and a half: what is counted grows by it where the sides double."""
    recipes = []
    for side in (8, 16):
        file = tmp_path / f"{side}.npz"
        np.savez(file, image=np.zeros((16, side, side, 1), np.uint8))
        network = {"name": "dit", "patch_size": 1, "hidden_size": 32, "depth": 1, "num_heads": 2}
        recipes.append(genhub.read_recipe({"model": {"name": "flow", "network": network}, "data": {"name": str(file)}}))
    small, large = (work_of(prepare(recipe)).flops for recipe in recipes)
    tokens = np.array([64, 256])
    scores = 14 * tokens**2 * 32  # 2 products of S^2 D forward, 5 backward, 2 operations each
    assert large - 4 * small == pytest.approx(scores[1] - 4 * scores[0], rel=0.05)


works = st.builds(
    Work,
    rows=st.just(4096),
    operations=st.integers(10, 5000),
    graphs=st.booleans(),
    flops=st.floats(1e3, 1e12),
    bytes=st.floats(1e3, 1e10),
    fixed=st.floats(0, 1e9),
    gradients=st.floats(1e3, 1e11),
    kept=st.just(1.0),
    row_bytes=st.just(1),
    read=st.just(1.0),
)


@given(works, st.sampled_from(sorted(GPUS)), st.sampled_from([2, 8, 16, 64, 512]))
def test_no_forecast_is_better_than_what_it_is_made_of(work, name, processes):
    gpu, config = GPUS[name], AccelerateConfig()
    one, many = forecast(work, config, gpu, 1), forecast(work, config, gpu, processes)
    assert (one.wire, one.waits) == (0, 0)
    assert many.step >= max(many.card, many.host)
    assert 0 < many.waits <= many.wire
    assert many.card < one.card
    assert one.step / many.step < processes * 1.0001
    more = forecast(replace(work, gradients=2 * work.gradients), config, gpu, processes)
    assert more.wire > many.wire
    pieces = forecast(work, AccelerateConfig(sharding="full"), gpu, processes)
    assert pieces.waits == pieces.wire
    assert pieces.wire > many.wire
    assert pieces.card < many.card
    across, within = forecast(work, config, gpu, gpu.node + 1), forecast(work, config, gpu, gpu.node)
    assert across.wire > within.wire


def told(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["train", *words], catch_exceptions=True)
    return result.exit_code, result.output + (f"genhub: {result.exception}" if result.exception else "")


def test_a_dry_run_says_what_limits_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = told("digits-vae", "--dry-run", "--gpu", "H100", "--num-processes", "16")
    assert code == 0
    assert "Scale    16 H100 SXM, 4 rows each: an estimate (docs/scale.md)" in said
    assert "what limits it is the host, which starts the operations" in said
    assert "times one card" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "message"), [
    (["--dry-run", "--gpu", "h10"], "--gpu: no card is called h10; did you mean 'h100'?"),
    (["--gpu", "h100"], "--gpu: it is for an estimate, with --dry-run; training takes the GPUs that are there"),
])  # fmt: skip
def test_what_cant_be_estimated_is_said(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = told("digits-vae", *words)
    assert code
    assert message in said
