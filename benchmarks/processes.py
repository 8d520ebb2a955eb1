"""What a second process is worth: a recipe's images/s by one process of one thread, by two, and by one of two threads.

    python benchmarks/processes.py [--recipe mnist-ddpm] [--rounds 3] [--steps 20] [--out results.json] [key.path=value ...]

Each is a command of its own, in turn, round by round; the batch is the recipe's in all. The first half of the steps is
left out.
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

WAYS = {"1 process, 1 thread": (1, 1), "2 processes, 1 thread each": (2, 1), "1 process, 2 threads": (1, 2)}


def speed(recipe: str, keys: list[str], steps: int, processes: int, threads: int) -> float:
    with tempfile.TemporaryDirectory(prefix="genhub-processes-") as run:
        command = [
            sys.executable,
            "-m",
            "genhub",
            "train",
            recipe,
            "--run-dir",
            run,
            "--num-processes",
            str(processes),
            *keys,
        ]
        command += [f"trainer.max_steps={steps}", f"trainer.log_every={steps // 2}", "trainer.sample_every=null"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        return float(json.loads((Path(run) / "metrics.jsonl").read_text().splitlines()[-1])["rows_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keys", nargs="*")
    parser.add_argument("--recipe", default="mnist-ddpm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rounds = [{way: speed(arguments.recipe, arguments.keys, arguments.steps, *how) for way, how in WAYS.items()}
              for _ in range(arguments.rounds)]  # fmt: skip
    first = next(iter(WAYS))
    print("| | images/s | against the first |\n| --- | --- | --- |")
    for way in WAYS:
        ratio = statistics.median(line[way] / line[first] for line in rounds)
        print(f"| {way} | {statistics.median(line[way] for line in rounds):,.0f} | {ratio:.2f} |")
    if arguments.out:
        arguments.out.write_text(json.dumps(rounds, indent=2) + "\n")


if __name__ == "__main__":
    main()
