"""Time that training waits for a checkpoint: as it is, and where all of it is written before the next step.

    python benchmarks/saving.py [--width 2048] [--rounds 5]

Trains moons-ddpm by an MLP of that width (2,048: 55M parameters, so 1.1 GB a checkpoint) for a few steps, and saves after each
third. Each round is one training of either way, in turn. A copy of the same bytes in memory is beside them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import genhub
from genhub.run.run import FolderRun


@contextmanager
def saves_timed(wait: bool) -> Iterator[list[float]]:
    """Give a list that gets the seconds of each save; `wait`: until all of it is written."""
    save, seconds = FolderRun.save_checkpoint, list[float]()

    def timed_save(run: FolderRun, *arguments: Any) -> Path:
        run.check_saved(wait=True)  # the one before, whose rest is not this one's time
        started = time.perf_counter()
        folder = save(run, *arguments)
        if wait:
            run.check_saved(wait=True)
        seconds.append(time.perf_counter() - started)
        return folder

    FolderRun.save_checkpoint = timed_save  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        FolderRun.save_checkpoint = save  # type: ignore[method-assign]


def seconds_of_saves(width: int, wait: bool, folder: Path) -> list[float]:
    keys = [f"model.network.hidden={width}", "trainer.max_steps=9", "trainer.save_every=3", "trainer.sample_every=null"]
    with saves_timed(wait) as seconds:
        genhub.train("moons-ddpm", keys, run_dir=str(folder), fresh=True)
    return seconds


def seconds_of_copy(checkpoint: Path) -> float:
    """Return the seconds that copying all tensors of a checkpoint takes, in memory that is there."""
    tensors = [tensor for file in checkpoint.rglob("*.safetensors") for tensor in load_file(file).values()]
    copies = [tensor.clone() for tensor in tensors]
    started = time.perf_counter()
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    times: dict[str, list[float]] = {"in the background": [], "waiting": [], "a copy alone": []}
    with tempfile.TemporaryDirectory(prefix="genhub-saving-") as place:
        for number in range(args.rounds):
            order = [("waiting", True), ("in the background", False)]
            for name, wait in order if number % 2 else order[::-1]:
                times[name] += seconds_of_saves(args.width, wait, Path(place, "run"))
            times["a copy alone"].append(seconds_of_copy(next(Path(place, "run", "checkpoints").iterdir())))
    for name, seconds in times.items():
        print(f"{name}: median {statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f}")
    ratio = statistics.median(times["in the background"]) / statistics.median(times["waiting"])
    print(f"training waits for {ratio:.2f} of a whole save, with {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
