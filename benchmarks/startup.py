"""How long genhub takes to start: `--help`, `import genhub`, and from a command to its first optimizer step.

    python benchmarks/startup.py [--rounds 7] [--mnist path/to/mnist]

Each row is fresh processes in turn with its yardstick, and the median of the rounds' ratios: `typer --help` for the help,
and for a first step the time of importing torch and what the model itself needs from diffusers (plus, for a data set that
is not genhub's own, decoding it). Run it once before: the first round of a cold disk cache is left out.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from measure import keep, of_ratios, rounded

NEEDED = "import torch; from diffusers import UNet2DModel, DDPMScheduler"


def run(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def module(name: str) -> Callable[[], float]:
    return lambda: run(sys.executable, "-m", name, "--help")


def python(code: str) -> Callable[[], float]:
    return lambda: run(sys.executable, "-c", code)


def first_step(recipe: str, *overrides: str) -> float:
    """Seconds from the command to the log line of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "genhub", "train", recipe, "--run-dir", f"{folder}/run", *overrides,
                   "trainer.log_every=1", "trainer.max_steps=1000", "trainer.sample_every=null"]  # fmt: skip
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                if line.startswith("step 1/"):
                    seconds = time.perf_counter() - started
                    process.kill()
                    return seconds
    raise SystemExit(f"{recipe}: no step was made")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mnist", help="a folder of parquet files: measure mnist-ddpm's start, too")
    args = parser.parse_args()
    rows: dict[str, tuple[Callable[[], float], str, Callable[[], float]]] = {
        "genhub --help": (module("genhub"), "typer --help", module("typer")),
        "import genhub": (python("import genhub"), "import typer", python("import typer")),
        "digits-ddpm to its first step": (lambda: first_step("digits-ddpm"), NEEDED, python(NEEDED)),
        "digits-vae to its first step": (lambda: first_step("digits-vae"), "import torch", python("import torch")),
    }
    if args.mnist:
        load = f"from genhub import load_data; load_data({args.mnist!r})"
        rows["mnist-ddpm to its first step"] = (
            lambda: first_step("mnist-ddpm", f"data.name={args.mnist}"),
            "the imports, and decoding", python(f"{NEEDED}; {load}"),
        )  # fmt: skip
    for name, (ours, yardstick, theirs) in rows.items():
        rounds = [(ours(), theirs()) for _ in range(args.rounds + 1)][1:]
        row: dict[str, Any] = {"ms": 1000 * statistics.median(r[0] for r in rounds), "against": yardstick,
                               "against_ms": 1000 * statistics.median(r[1] for r in rounds),
                               **of_ratios([r[0] / r[1] for r in rounds])}  # fmt: skip
        row = rounded(row, 3)
        keep("startup", {name: row})
        print(name, row, flush=True)


if __name__ == "__main__":
    main()
