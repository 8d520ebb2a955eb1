"""Freed memory that is kept: another speed, the same results."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import genhub
from genhub.training.allocator import page_faults

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's allocator alone is told")

TOUCH = """
import sys
import torch
from genhub.training.allocator import keep_freed_memory, page_faults
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(20):
    before = page_faults()
    torch.ones(48 * 2**20 // 4).add_(1)  # above the 32 MiB from which glibc always maps
print(page_faults() - before)
"""


@glibc
def test_kept_memory_is_not_faulted_in_again() -> None:
    faults = {}
    for mode in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", TOUCH, mode], capture_output=True, text=True, check=True)
        faults[mode] = int(done.stdout)
    assert faults["keep"] < faults["leave"] / 20
    assert page_faults() > 0


@glibc
@pytest.mark.parametrize("keep", ["true", "null"])
def test_results_are_the_same(tmp_path: Path, keep: str) -> None:
    weights = []
    for setting in ("false", keep):
        given = [
            "trainer.max_steps=14",
            "trainer.sample_every=null",
            "trainer.trackers=[]",
            f"trainer.keep_memory={setting}",
        ]
        folder = genhub.train("digits-vae", given, run_dir=str(tmp_path / setting))
        weights.append(load_file(folder / "model.safetensors"))
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])
