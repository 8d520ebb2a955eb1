"""The board: `genhub bench` on several data sets, and docs/leaderboard.md of what came out.

    python benchmarks/board.py [NAME ...] --data path/to/data [--minutes 5] [--seeds 3] [-n 10000] [--jobs 1] [--folder bench]

NAMES are digits, moons and wine, which need no files, and mnist, fashion_mnist and cifar10, folders of parquet files in --data;
left out: all. Run again after a stop, it goes on. Let nothing else run on the machine. Five minutes, three seeds and a dozen
families are some four hours for each. With a GPU: --minutes 60.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import genhub
from genhub.evaluation.compare import figure_text
from genhub.recipe.shipped import best_families, best_file

BOARDS = {  # by name: source, what a model is given
    "digits": ("digits", ["label"]),
    "moons": ("moons", ["label"]),
    "wine": ("wine", ["label"]),
    "mnist": ("{data}/mnist", ["label"]),
    "fashion_mnist": ("{data}/fashion_mnist", ["label"]),
    "cifar10": ("{data}/cifar10_jpeg", ["label"]),
}
POINTS = ("moons", "wine")
"""Data without sides; the others are images."""
KEYS = {"wine": ["target=features"]}
TITLES = {"fashion_mnist": "Fashion-MNIST", "mnist": "MNIST", "cifar10": "CIFAR-10, 32x32 colour"}
FIGURES = {
    "sliced_wasserstein": "sliced Wasserstein ↓", "frechet_distance": "Frechet ↓", "frechet_distance_held_out": "held out ↓",
    "precision": "precision ↑", "recall": "recall ↑", "label_accuracy": "asked-for label ↑", "memorised": "memorised ↓",
}  # fmt: skip
COSTS = {"parameters": "parameters", "network_evaluations": "evaluations a row", "rows_per_second": "rows/s"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BOARDS))
    parser.add_argument("--data", default="data")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    names = args.names or list(BOARDS)
    for name in names:
        source, conditions = BOARDS[name]
        words = [
            source.format(data=args.data),
            *KEYS.get(name, []),
            "--minutes",
            str(args.minutes),
            "--seeds",
            str(args.seeds),
        ]
        words += ["-n", str(args.n), "--jobs", str(args.jobs), "--out", str(args.folder / name)]
        words += [word for condition in conditions for word in ("--condition", condition)]
        subprocess.run([sys.executable, "-P", "-m", "genhub", "bench", *words], check=True)
    boards = {name: json.loads((args.folder / name / "bench.json").read_text()) for name in names}
    pictures = args.out / "images" / "leaderboard"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    for name, found in boards.items():
        best = found["families"][0]["model"]
        n = 1000 if name in POINTS else 40
        genhub.sample(args.folder / name / best / "seed-0", n, out=pictures / f"{name}.png")
    (args.out / "leaderboard.md").write_text(page(boards, args.jobs))
    best_file().write_text(json.dumps(best_families() | best(boards), indent=1) + "\n")
    print(args.out / "leaderboard.md")


def best(boards: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Return, by the number of sides, the three families whose mean place on the boards is best, of those that are on all."""
    found = {}
    for sides, names in (
        ("0", [name for name in boards if name in POINTS]),
        ("2", [name for name in boards if name not in POINTS]),
    ):
        orders = [[family["model"] for family in boards[name]["families"]] for name in names]
        if orders:
            common = set.intersection(*map(set, orders))
            found[sides] = sorted(common, key=lambda model: sum(order.index(model) for order in orders))[:3]
    return found


def page(boards: dict[str, dict[str, Any]], jobs: int) -> str:
    settings = next(iter(boards.values()))["settings"]
    threads = max(1, torch.get_num_threads() // jobs)
    machine = f"{platform.machine()}, {threads} thread{'s' * (threads > 1)} a run, torch {torch.__version__}"
    names = " ".join(boards)
    return f"""# The board

Every family that comes with genhub, trained for {settings["minutes"]:g} minute{"s" * (settings["minutes"] != 1)} each ({machine}), from the recipe that
`genhub init` writes; {settings["n"]:,} rows drawn of each run. ↓ less is better, ↑ more. A figure is the mean over seeds and half of its 95% interval, by Student's t; of one seed, over rows.
Where two intervals overlap, the board doesn't know which is better. `real rows` is what held-out real rows get. What the figures are: [evaluation.md](evaluation.md);
how a bench works: [bench.md](bench.md). Made by `python benchmarks/board.py {names}`.

**A family of your own** is on your board as soon as it is installed: [plugins.md](plugins.md), then the same command. **With a GPU**, `python benchmarks/board.py --minutes 60`
makes the board "one GPU, one hour". Send the page and `bench.json`, with the recipe, to have it here.

{"".join(board(name, found) for name, found in boards.items())}"""


def board(name: str, found: dict[str, Any]) -> str:
    """Return one data set's part of the page."""
    families = found["families"]
    there = {key for family in families for key in family["results"][0]["values"]}
    figures = {key: title for key, title in FIGURES.items() if key in there}
    lines = [["family", *figures.values(), *COSTS.values(), "steps"]]
    for family in families:
        cells = [figure_text(family["figures"][key]["mean"], family["figures"][key]["interval"]) for key in figures]
        costs = [figure_text(family["figures"][key]["mean"]) for key in COSTS]
        steps = sum(run["steps"] for run in family["results"]) / len(family["results"])
        lines.append([family["model"], *cells, *costs, f"{steps:,.0f}"])
    lines.append(["real rows", *(figure_text(found["floor"].get(key)) for key in figures), *[""] * len(COSTS), ""])
    lines.insert(1, ["---"] * len(lines[0]))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    left_out = "".join(f"- {model}: {reason}\n" for model, reason in found["left_out"].items())
    best, title = families[0]["model"], TITLES.get(name, name)
    seeds = max(len(family["results"]) for family in families)
    return f"""## {title}, {seeds} seed{"s" * (seeds > 1)}

{table}

{left_out}
![Drawn by {best}, the first of {title}](images/leaderboard/{name}.png)

*{best}, rows of seed 0, none left out.*

"""


if __name__ == "__main__":
    main()
