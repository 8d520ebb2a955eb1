"""How a step's time and a run's peak memory grow with the batch, the resolution, the parameters and the number of images.

    python benchmarks/growth.py [--mnist path/to/mnist] [--out docs/images] [--steps 10]

Each point is a fresh process that trains digits-ddpm with one key changed; the data sizes are slices of MNIST. The time is
the median of the steps after the first three. One plot for each key, GROWTH.png in OUT; the figures in results/growth.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from measure import from_fresh_process, keep, peak_mib, rounded

WIDTHS = (16, 32, 64, 128)
POINTS: dict[str, dict[float, list[str]]] = {
    "batch": {n: [f"data.batch_size={n}"] for n in (8, 32, 128, 512)},
    "resolution": {side: [f"data.columns.image.size={side}", "data.batch_size=16"] for side in (8, 16, 32, 64)},
    "parameters": {width: [f"model.network.block_out_channels=[{width},{2 * width}]"] for width in WIDTHS},
    "images": {n: [f"data.split=train[:{n}]", "data.columns.image.size=8"] for n in (1000, 10_000, 60_000)},
}
UNITS = {"batch": "images a step", "resolution": "pixels a side (16 images a step)", "parameters": "parameters",
         "images": "images in the data (made 8x8)"}  # fmt: skip


def trained(steps: int, overrides: list[str]) -> dict[str, float]:
    """Median seconds of a step, seconds before the first, peak MiB and parameters, of this process."""
    import genhub

    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        quiet = ["trainer.log_every=1", "trainer.sample_every=null", "trainer.trackers=[]", f"trainer.max_steps={steps}"]
        checkpoint = genhub.train("digits-ddpm", [*overrides, *quiet], run_dir=run)
        at = [json.loads(line)["seconds"] for line in Path(run, "metrics.jsonl").read_text().splitlines()]
        parameters = sum(p.numel() for p in genhub.load(checkpoint).parameters())
    seconds = statistics.median(later - earlier for earlier, later in pairwise(at[2:]))
    peak = peak_mib()
    return {"ms": 1000 * seconds, "mib": peak, "parameters": parameters}


def plot(key: str, found: dict[float, dict[str, float]], file: Path) -> None:
    from matplotlib.figure import Figure

    at = [found[x]["parameters"] if key == "parameters" else x for x in found]
    figure = Figure(figsize=(7, 3), layout="constrained")
    for axes, name, unit in zip(figure.subplots(1, 2), ("ms", "mib"), ("ms a step", "peak MiB"), strict=True):
        axes.plot(at, [point[name] for point in found.values()], marker="o")
        axes.set(xscale="log", xlabel=UNITS[key], ylabel=unit, ylim=(0, None))
        axes.set_xticks(at, [f"{x:,.0f}" for x in at])
        axes.set_xticks([], minor=True)
        axes.grid(linewidth=0.3)
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", help="a folder of parquet files; without it, the number of images is left out")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--point", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(trained(args.steps, args.point)))
        return

    def point(overrides: list[str]) -> dict[str, float]:
        return from_fresh_process(__file__, "--steps", str(args.steps), "--point", *overrides)

    for key, points in POINTS.items():
        if key == "images" and not args.mnist:
            continue
        data = [f"data.name={args.mnist}"] if key == "images" else []
        found = {x: rounded(point([*data, *overrides])) for x, overrides in points.items()}
        row: dict[str, Any] = {str(x): values for x, values in found.items()}
        keep("growth", {key: row})
        plot(key, found, args.out / f"growth-{key}.png")
        print(key, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
