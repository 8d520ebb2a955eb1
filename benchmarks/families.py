"""A leaderboard: MNIST recipes that ship, trained for the same time, judged by one evaluator on as many images.

    python benchmarks/families.py --data path/to/mnist [--minutes 10] [--n 5000] [--runs runs/leaderboard] [--out docs]

How many steps fit into the time is measured by `trainer.max_time`, and kept with the run. Run it again after a stop, and it goes on where it was; nothing is trained or drawn twice. Writes
OUT/leaderboard.md and its pictures. Let nothing else run on the machine: on two cores, an hour of training at ten minutes
each, and half an hour of drawing and measuring 5,000 images each, nearly all of it the two diffusion models' 50 steps.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch

import genhub
from genhub.evaluation.compare import Comparison, compare
from genhub.evaluation.page import arrows
from genhub.evaluation.protocol import Evaluation

RECIPES = ("mnist-autoencoder", "mnist-vae", "mnist-gan", "mnist-cgan", "mnist-ddpm", "mnist-ddpm-conditional")
COLUMNS = {
    "frechet_distance": "Frechet distance", "kernel_distance": "KID", "precision": "precision", "recall": "recall",
    "density": "density", "coverage": "coverage", "label_accuracy": "asked-for label", "memorised": "memorised",
    "parameters": "parameters", "network_evaluations": "network evaluations an image", "rows_per_second": "images/s drawn",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="MNIST: a folder of parquet files with the splits train and test")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--runs", type=Path, default=Path("runs/leaderboard"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=RECIPES)
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    for recipe in args.only:
        time = f"trainer.max_time={round(60 * args.minutes)}s"
        genhub.train(recipe, [f"data.name={args.data}", time, "trainer.sample_every=null"], run_dir=str(args.runs / recipe))
        genhub.evaluate(args.runs / recipe, args.n)
    comparison = compare([args.runs / recipe for recipe in args.only])
    pictures = args.out / "images" / "leaderboard"
    pictures.mkdir(parents=True, exist_ok=True)
    for recipe in args.only:
        genhub.sample(args.runs / recipe, 40, out=pictures / f"{recipe}.png")
    (args.out / "leaderboard.md").write_text(page(comparison, args.minutes))
    print(f"{args.out / 'leaderboard.md'}")


def page(comparison: Comparison, minutes: float) -> str:
    """The leaderboard in Markdown, best Frechet distance first."""
    rows = sorted(comparison.rows, key=lambda row: row.evaluations[-1].values["frechet_distance"])
    columns = [key for key in COLUMNS if any(key in row.evaluations[-1].values for row in rows)]
    head = ["recipe", "steps", "seconds of training", *(COLUMNS[key] + arrows().get(key, "") for key in columns)]
    lines = [
        [row.checkpoint.parent.parent.name, f"{row.steps:,}", f"{row.seconds or 0:,.0f}",
         *(figure(row.evaluations[-1], key) for key in columns)] for row in rows
    ]  # fmt: skip
    table = "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])
    pictures = "\n".join(
        f"**{line[0]}**\n\n![Digits drawn by {line[0]}](images/leaderboard/{line[0]}.png)\n" for line in lines
    )
    protocol = rows[0].evaluations[-1].protocol
    notes = dict.fromkeys(note for row in rows for note in (*row.evaluations[-1].notes, *comparison.notes))
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"""# MNIST, {minutes:g} minutes each

MNIST recipes that ship, trained for {minutes:g} minutes on the same machine ({machine}), without previews, and judged by the same
measure. How many steps fit was measured before, so that the learning rate's schedule ends with the time; the seconds are what they came
to. ↓ less is better, ↑ more. Made by `python benchmarks/families.py --data path/to/mnist`; what the figures are:
[evaluation.md](evaluation.md). The other families: [families.md](families.md).

{table}

**Protocol.** {protocol.n:,} images of seed {protocol.seed}, beside {protocol.reference_rows:,} training images; features by
{protocol.extractor}, {protocol.extractor_hash[:12]}; preprocessing: {protocol.preprocessing}; held out: {protocol.held_out.split if protocol.held_out else "none"};
each model by its recipe's own sampler.

{"".join(f"- {note}{chr(10)}" for note in notes)}
## Pictures

The first 40 images of seed 0, none left out.

{pictures}"""


def figure(evaluation: Evaluation, key: str) -> str:
    value = evaluation.values.get(key)
    if value is None:
        return ""
    spread = evaluation.values.get(f"{key}_std")
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" + (f" ± {spread:.2g}" if spread is not None else "")


if __name__ == "__main__":
    main()
