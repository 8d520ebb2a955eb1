"""Shared pieces of the tests: small recipes, a tiny third-party model, and the real data where it is at hand."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from zygote import Zygote

sys.path.insert(0, str(Path(__file__).parent))  # models.py, the tests' own third-party models
from minihub import MiniHub

# The client reads these when it is imported, here and in the processes that tests start. Nothing waits for a network: the
# Hub is on loopback, and what it doesn't have it says at once.
HUB = MiniHub()
CACHE = tempfile.mkdtemp(prefix="genhub-tests-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ |= {"HF_ENDPOINT": HUB.url, "HF_HOME": CACHE, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
               "GENHUB_CACHE": str(Path(CACHE, "genhub")), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2"}  # fmt: skip
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
    os.environ.pop(name, None)

# One thread a worker: as many threads as cores in each would wait for one another more than they compute.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

settings.register_profile("thorough", max_examples=3000)  # pytest --hypothesis-profile thorough

TINY_DDPM = {
    "model": {
        "name": "ddpm",
        "network": {"name": "unet", "block_out_channels": [8, 16], "add_attention": False},
        "sampling": {"num_inference_steps": 4},
    },
    "data": {"batch_size": 16},
    "trainer": {
        "max_steps": 6, "log_every": 2, "sample_every": None, "save_every": 3, "num_samples": 4, "trackers": [],
        "ema": {"decay": 0.9},
    },
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first: the last to end should be a short one."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def _quick_collections() -> Iterator[None]:
    """Leave what a test has imported out of later collections: each training ends with one, which took half a second."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def tiny(tmp_path: Path) -> dict:
    """A recipe that trains a DDPM on digits for a few steps, in a folder of its own."""
    import copy

    return copy.deepcopy(TINY_DDPM) | {"run_dir": str(tmp_path / "run")}


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the module's own, for figures and features that its tests count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENHUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def _zygote() -> Iterator[Zygote]:
    from zygote import Zygote

    started = Zygote()
    yield started
    started.close()


@pytest.fixture
def zygote(_zygote: Zygote) -> Iterator[Zygote]:
    """Starts real processes cheaply, of one thread; this process has one, too, as the bits depend on it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield _zygote
    _zygote.end_jobs()
    torch.set_num_threads(threads)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[MiniHub]:
    """The tests' Hub, empty, without faults; alice is logged in, and no retry takes long."""
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    monkeypatch.setattr("genhub.hub.client.DELAYS", (0.01, 0.02, 0.03))
    HUB.repos, HUB.uploads, HUB.faults, HUB.requests = {}, {}, [], []
    yield HUB
    HUB.faults = []
    shutil.rmtree(Path(CACHE, "hub"), ignore_errors=True)


def shared_data(name: str) -> Path:
    """A folder of real data, or a skipped test."""
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"needs the data set {name} beside the checkout (shared/data)")
    return folder
