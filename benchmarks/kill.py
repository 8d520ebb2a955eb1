"""Does a run that is killed end with the same bits as one that never was? Ten kills at random moments for each recipe.

    python benchmarks/kill.py [--kills 10] [--steps 300] [--seed 0] [RECIPE ...]

Each recipe is trained once undisturbed, then again by the same command, which is killed with SIGKILL at a random moment
and started again until it has been killed so often, and then left to end. Start-up takes longer than training here, so a
third of the kills fall into it and the others are spread over training, which saves every ten steps. Compared are all
files of the last checkpoint by SHA-256 (weights, averages, optimizers), its counters, metrics.jsonl and the previews; times
are left out.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPES = ["digits-autoencoder", "digits-vae", "digits-gan", "digits-cgan", "digits-ddpm", "digits-ddpm-conditional"]


def start(recipe: str, run: Path, steps: int) -> subprocess.Popen[bytes]:
    keys = {"max_steps": steps, "save_every": 10, "log_every": 15, "sample_every": 100}
    command = [sys.executable, "-m", "genhub", "train", recipe, "--run-dir", str(run)]
    command += [f"trainer.{key}={value}" for key, value in keys.items()]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors.decode())


def steps_done(run: Path) -> int:
    return max((int(path.name[5:]) for path in run.glob("checkpoints/step-*")), default=0)


def results(run: Path, steps: int) -> dict[str, Any]:
    """All that a run leaves, without times."""
    folder = run / "checkpoints" / f"step-{steps:06d}"
    files = json.loads((folder / "genhub.json").read_text())["files"]
    state = json.loads((folder / "trainer" / "state.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    hashes = {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}
    pictures = {file.name: file.read_bytes() for file in sorted(run.glob("samples/*.png"))}
    times = {"seconds", "rows_per_second"}
    return {"hashes": hashes, "state": {key: value for key, value in state.items() if key not in times},
            "metrics": [{key: value for key, value in line.items() if key not in times} for line in lines],
            "pictures": pictures}  # fmt: skip


def kill_often(recipe: str, folder: Path, kills: int, steps: int, moments: random.Random) -> dict[str, Any]:
    began = time.monotonic()
    process = start(recipe, folder / "whole", steps)
    while not steps_done(folder / "whole") and process.poll() is None:
        time.sleep(0.05)
    start_up = time.monotonic() - began
    finish(process)
    training = time.monotonic() - began - start_up

    run = folder / "killed"
    row: dict[str, Any] = {"recipe": recipe, "start_up": 0, "training": 0, "saving": 0, "restarts_that_ended": 0}
    while row["start_up"] + row["training"] < kills:
        process, before = start(recipe, run, steps), steps_done(run)
        if moments.random() < 1 / 3:
            time.sleep(moments.uniform(0, start_up))
        else:  # from the first new checkpoint on
            while steps_done(run) <= before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, training / kills))
        if process.poll() is not None:
            row["restarts_that_ended"] += 1
            break
        process.kill()
        process.wait()
        row["training" if steps_done(run) > before else "start_up"] += 1
        row["saving"] += any(run.glob("checkpoints/.step-*"))
    finish(start(recipe, run, steps))
    one, other = results(folder / "whole", steps), results(run, steps)
    row["files_equal"] = sum(one["hashes"][name] == other["hashes"].get(name) for name in one["hashes"])
    row["files"] = len(one["hashes"])
    row["equal"] = one == other
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    args = parser.parse_args()
    rows = []
    print(f"{'recipe':26}{'kills':>6}{'starting':>10}{'training':>10}{'in a save':>11}{'equal files':>13}  all equal")
    for recipe in args.recipes:
        with tempfile.TemporaryDirectory() as folder:
            row = kill_often(recipe, Path(folder), args.kills, args.steps, random.Random(f"{recipe} {args.seed}"))
        rows.append(row)
        print(f"{recipe:26}{row['start_up'] + row['training']:6}{row['start_up']:10}{row['training']:10}{row['saving']:11}"
              f"{row['files_equal']:10}/{row['files']}  {row['equal']}", flush=True)  # fmt: skip
    print(json.dumps(rows))
    if not all(row["equal"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
