"""What a training is worth beside another one on the same cores, by how long OpenMP's threads spin while they wait.

    python benchmarks/beside.py [--recipe digits-ddpm] [--steps 300] [--rounds 3] [--spins default,genhub,1000,passive]

`default` is torch's own, `genhub` what a command sets, a number GOMP_SPINCOUNT, `passive` OMP_WAIT_POLICY=passive. Each is
one training alone, then two at once, in turn, round by round; the first third of the steps is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def environment(spin: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    if spin == "genhub":
        return plain
    if spin == "default":  # said, so that a command leaves it
        return plain | {"GOMP_SPINCOUNT": "300000"}
    return plain | ({"OMP_WAIT_POLICY": "passive"} if spin == "passive" else {"GOMP_SPINCOUNT": spin})


def speeds(recipe: str, steps: int, spin: str, at_once: int) -> list[float]:
    """Return the rows a second of so many trainings at once."""
    with tempfile.TemporaryDirectory(prefix="genhub-beside-") as folder:
        runs = [Path(folder) / str(number) for number in range(at_once)]
        keys = [f"trainer.max_steps={steps}", f"trainer.log_every={steps // 3}", "trainer.sample_every=null"]
        trainings = [
            subprocess.Popen(
                [sys.executable, "-m", "genhub", "train", recipe, "--run-dir", str(run), *keys],
                stdout=subprocess.DEVNULL,
                env=environment(spin),
            )
            for run in runs
        ]
        codes = [training.wait() for training in trainings]
        if any(codes):
            raise SystemExit(f"{recipe}: a training failed")
        found = []
        for run in runs:
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            first, last = (next(line for line in lines if line["step"] == step) for step in (steps // 3, steps))
            batch = first["rows_per_second"] * first["seconds"] / (steps // 3)
            found.append(batch * (steps - steps // 3) / (last["seconds"] - first["seconds"]))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits-ddpm")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spins", default="default,genhub,passive")
    arguments = parser.parse_args()
    spins = arguments.spins.split(",")
    alone: dict[str, list[float]] = {spin: [] for spin in spins}
    beside: dict[str, list[float]] = {spin: [] for spin in spins}
    for _ in range(arguments.rounds):
        for spin in spins:
            alone[spin] += speeds(arguments.recipe, arguments.steps, spin, 1)
            beside[spin].append(sum(speeds(arguments.recipe, arguments.steps, spin, 2)))
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
