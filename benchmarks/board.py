"""The board: `genhub bench` on data sets, and their part of docs/leaderboard.md made anew; the other parts stay.

    python benchmarks/board.py NAME ... --data path/to/data [--minutes 5] [--seeds 3] [-n 10000] [--jobs 1] [--folder bench]

NAMES are digits, moons and wine, which need no files, and mnist, fashion_mnist and cifar10, folders of parquet files in --data.
Run again after a stop, it goes on. Let nothing else run on the machine. Five minutes, three seeds and a dozen families are some
four hours for each. With a GPU: --minutes 60.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
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
    parser.add_argument("names", nargs="+", metavar="NAME", choices=list(BOARDS), help=", ".join(BOARDS))
    parser.add_argument("--data", default="data")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    file = args.out / "leaderboard.md"
    for name in args.names:
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
        found = json.loads((args.folder / name / "bench.json").read_text())
        picture = args.out / "images" / "leaderboard" / f"{name}.png"
        first = args.folder / name / found["families"][0]["model"] / "seed-0"
        genhub.sample(first, 1000 if name in POINTS else 40, out=picture)
        file.write_text(with_part(file.read_text(), name, board(name, found, args.jobs)))
        lines = [
            f"{json.dumps(sides)}: {json.dumps(names)}"
            for sides, names in (best_families() | best(file.read_text())).items()
        ]
        best_file().write_text("{\n " + ",\n ".join(lines) + "\n}\n")
        print(f"{file}: {name}")


def with_part(page: str, name: str, part: str) -> str:
    """Return the page with a data set's part in place of the one that it has, or after the others."""
    begin, end = f"<!-- board {name} -->", f"<!-- end of board {name} -->"
    whole = f"{begin}\n{part}\n{end}"
    if begin in page:
        return page[: page.index(begin)] + whole + page[page.index(end) + len(end) :]
    after = page.rfind("<!-- end of board ")
    after = page.index("\n", after) if after >= 0 else len(page.rstrip())
    return f"{page[:after]}\n\n{whole}{page[after:]}"


def orders(page: str) -> dict[str, list[str]]:
    """Return the families of each board on the page, the best first."""
    parts = re.findall(r"<!-- board (\w+) -->(.*?)<!-- end of board", page, re.DOTALL)
    return {name: re.findall(r"^\| (\w+) \|", part, re.MULTILINE)[1:] for name, part in parts}


def best(page: str) -> dict[str, list[str]]:
    """Return, by the number of sides, the three families whose mean place on the boards is best, of those that are on all;
    of two with the same, the one that is better on the last board comes first."""
    found, boards = {}, orders(page)
    for sides, places in (
        ("0", [boards[name] for name in boards if name in POINTS]),
        ("2", [boards[name] for name in boards if name not in POINTS]),
    ):
        if places:
            common = set.intersection(*map(set, places))
            by_place = {model: (sum(order.index(model) for order in places), places[-1].index(model)) for model in common}
            found[sides] = sorted(by_place, key=by_place.__getitem__)[:3]
    return found


def board(name: str, found: dict[str, Any], jobs: int) -> str:
    """Return one data set's part of the page."""
    families, settings = found["families"], found["settings"]
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
    first, title = families[0]["model"], TITLES.get(name, name)
    seeds = max(len(family["results"]) for family in families)
    threads = max(1, torch.get_num_threads() // jobs)
    return f"""## {title}

{settings["minutes"]:g} minute{"s" * (settings["minutes"] != 1)} each, {seeds} seed{"s" * (seeds > 1)}, {settings["n"]:,} rows drawn of each run; {platform.machine()}, \
{threads} thread{"s" * (threads > 1)} a run, torch {torch.__version__}.

{table}

{left_out}
![Drawn by {first}, the first of {title}](images/leaderboard/{name}.png)

*{first}, rows of seed 0, none left out.*
"""


if __name__ == "__main__":
    main()
