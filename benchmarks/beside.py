"""Speed of a training alone and of two at once on the same cores, by how long OpenMP's threads spin while they wait.

    python benchmarks/beside.py [--recipe digits-ddpm] [--seconds 12] [--rounds 3] [--spins default,1000,passive]

`default` is torch's own, a number GOMP_SPINCOUNT, `passive` OMP_WAIT_POLICY=passive. Each is one training alone, then two at
once, in turn, round by round; counted are the steps of so many seconds in which all were under way.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import genhub

SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
WARM = 20
"""Steps of each before counting begins."""


def environment(spin: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    if spin == "default":
        return plain
    return plain | ({"OMP_WAIT_POLICY": "passive"} if spin == "passive" else {"GOMP_SPINCOUNT": spin})


def speed(recipe: str, seconds: float, spin: str, at_once: int) -> float:
    """Return the rows a second of so many trainings at once, together."""
    keys = ["trainer.max_steps=1000000", "trainer.save_every=1000000", "trainer.sample_every=null", "trainer.log_every=5"]
    with tempfile.TemporaryDirectory(prefix="genhub-beside-") as folder:
        runs = [Path(folder) / str(number) for number in range(at_once)]
        trainings = [
            subprocess.Popen(
                [sys.executable, "-m", "genhub", "train", recipe, "--run-dir", str(run), *keys],
                stdout=subprocess.DEVNULL,
                env=environment(spin),
            )
            for run in runs
        ]
        try:
            while not all(steps_of(run) >= WARM for run in runs):
                time.sleep(0.1)
                if any(training.poll() for training in trainings):
                    raise SystemExit(f"{recipe}: a training failed")
            started, before = time.perf_counter(), sum(map(steps_of, runs))
            time.sleep(seconds)
            steps = sum(map(steps_of, runs)) - before
            return steps * genhub.read_recipe(recipe).data.batch_size / (time.perf_counter() - started)
        finally:
            for training in trainings:
                training.kill()
                training.wait()


def steps_of(run: Path) -> int:
    """Return how many steps a run has logged."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, LookupError):
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits-ddpm")
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spins", default="default,1000,passive")
    arguments = parser.parse_args()
    spins = arguments.spins.split(",")
    alone: dict[str, list[float]] = {spin: [] for spin in spins}
    beside: dict[str, list[float]] = {spin: [] for spin in spins}
    for _ in range(arguments.rounds):
        for spin in spins:
            alone[spin].append(speed(arguments.recipe, arguments.seconds, spin, 1))
            beside[spin].append(speed(arguments.recipe, arguments.seconds, spin, 2))
    print(
        "| spin | alone, rows/s | against the first | two at once, in all | of one alone |\n| --- | --- | --- | --- | --- |"
    )
    for spin in spins:
        against = statistics.median(mine / first for mine, first in zip(alone[spin], alone[spins[0]], strict=True))
        share = statistics.median(both / one for both, one in zip(beside[spin], alone[spin], strict=True))
        numbers = f"{statistics.median(alone[spin]):,.0f} | {against:.2f} | {statistics.median(beside[spin]):,.0f}"
        print(f"| {spin} | {numbers} | {share:.2f} |")


if __name__ == "__main__":
    main()
