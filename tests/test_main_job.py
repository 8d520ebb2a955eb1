"""The main job: the shipped digits recipe, through the command line, ends in digits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from judge import judge
from sklearn.datasets import load_digits
from test_ddpm import SAMPLERS

import genhub


def test_the_judge_tells_real_from_noise():
    real = (load_digits().images[..., None] / 16 * 255).round().astype(np.uint8)
    half = judge(real[::2])
    assert half["frechet"] < 0.12
    assert half["near"] > 0.98
    noise = np.random.default_rng(0).integers(0, 256, (500, 8, 8, 1)).astype(np.uint8)
    assert judge(noise)["frechet"] > 5
    assert judge(noise)["near"] < 0.05
    assert judge(real)["copies"] == 1.0
    assert judge(real[load_digits().target == 3])["smallest_class"] == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The shipped recipe, trained through the command line as a newcomer would; `.ci/run` has done so, and names the run."""
    folder = tmp_path_factory.mktemp("main-job")
    if done := os.environ.get("GENHUB_MAIN_JOB"):
        shutil.copytree(done, folder / "runs" / "digits-ddpm")
        return folder
    command = [sys.executable, "-m", "genhub", "train", "digits-ddpm"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert "Picture  runs/digits-ddpm/samples/step-001200.png" in said
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_ddpm_draws_digits(trained):
    command = [sys.executable, "-m", "genhub", "sample", "runs/digits-ddpm", "-n", "2000", "--out", "digits.npz"]
    subprocess.run(command, cwd=trained, check=True)
    figures = judge(np.load(trained / "digits.npz")["image"])
    assert figures["frechet"] <= 0.12, figures
    assert figures["smallest_class"] >= 0.06, figures
    assert figures["near"] >= 0.98, figures
    assert figures["copies"] <= 0.03, figures


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_every_scheduler_draws_digits(trained, scheduler):
    """In 25 steps; of 300 images only, so the distance has a bias of about 0.07."""
    model = genhub.load(trained / "runs" / "digits-ddpm")
    images = genhub.sample(model, 300, scheduler=scheduler, num_inference_steps=25)
    figures = judge(images.permute(0, 2, 3, 1).numpy())
    assert figures["frechet"] <= 0.25, figures
    assert figures["near"] >= 0.93, figures
