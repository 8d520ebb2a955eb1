"""The main job: the shipped digits recipe, through the command line, ends in digits."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from judge import judge
from sklearn.datasets import load_digits


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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_ddpm_draws_digits(tmp_path):
    def genhub(*arguments: str) -> str:
        command = [sys.executable, "-m", "genhub", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    said = genhub("train", "digits-ddpm")
    assert "Picture  runs/digits-ddpm/samples/step-001600.png" in said
    genhub("sample", "runs/digits-ddpm", "-n", "2000", "--out", "digits.npz")
    figures = judge(np.load(tmp_path / "digits.npz")["images"])
    assert figures["frechet"] <= 0.12, figures
    assert figures["smallest_class"] >= 0.06, figures
    assert figures["near"] >= 0.98, figures
    assert figures["copies"] <= 0.03, figures
