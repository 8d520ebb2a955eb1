"""Shared pieces of the tests: small recipes, a tiny third-party model, and the real data where it is at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from zygote import Zygote

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may wait for a network

sys.path.insert(0, str(Path(__file__).parent))  # models.py, the tests' own third-party models
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

settings.register_profile("thorough", max_examples=3000)  # pytest --hypothesis-profile thorough

TINY_DDPM = {
    "model": {
        "name": "ddpm",
        "unet": {"block_out_channels": [8, 16], "add_attention": False},
        "sampling": {"num_inference_steps": 4},
    },
    "data": {"batch_size": 16},
    "trainer": {
        "max_steps": 6, "log_every": 2, "sample_every": None, "save_every": 3, "num_samples": 4, "trackers": [],
        "ema": {"decay": 0.9},
    },
}  # fmt: skip


@pytest.fixture
def tiny(tmp_path: Path) -> dict:
    """A recipe that trains a DDPM on digits for a few steps, in a folder of its own."""
    import copy

    return copy.deepcopy(TINY_DDPM) | {"run_dir": str(tmp_path / "run")}


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts real processes cheaply."""
    from zygote import Zygote

    started = Zygote()
    yield started
    started.close()


def shared_data(name: str) -> Path:
    """A folder of real data, or a skipped test."""
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"needs the data set {name} beside the checkout (shared/data)")
    return folder
