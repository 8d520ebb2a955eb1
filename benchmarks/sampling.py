"""What drawing costs over the network calls it is made of, and which sampler is good after how many of them.

    python benchmarks/sampling.py cost [--mnist path/to/mnist] [--rounds 15]
    python benchmarks/sampling.py quality RUN [-n 2000] [data.name=path/to/mnist] [--plot docs/images/samplers-x.png]

`cost`: a model's own `sample`, as the command line calls it, against the same number of bare calls of diffusers' own
U-Net, in turn, at several batch sizes; networks are untrained, which changes no time. `quality`: the Frechet distance of a trained DDPM's
images for every registered sampler and number of steps, by one extractor, drawn from the same seeds; a plot and a table.
What was drawn and measured is kept in the run's folder, so that a stopped command goes on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from measure import keep, of_ratios, rounded

import genhub
from genhub.data import load_data
from genhub.sampling import sample_images

STEPS = (5, 10, 20, 50, 100, 250, 1000)
LATE = ("ddim", "ddpm")
"""Samplers worth more than 100 network evaluations: the ancestral ones."""


def build(recipe: str, overrides: list[str]) -> Any:
    read = genhub.read_recipe(recipe, overrides)
    filled = read.filled_from(load_data(read.data).spec)
    return filled.model_class()(filled.model).eval().requires_grad_(False)


def cost(model: Any, batch: int, steps: int, rounds: int, options: dict[str, Any]) -> dict[str, Any]:
    """A drawing's time over that of `steps` bare calls of the U-Net; medians of neighbours."""
    noisy, timestep = torch.randn(batch, *model.unet_shape), torch.tensor(500)
    unet = diffusers.UNet2DModel.from_config(model.unet.config).eval()

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                unet(noisy, timestep, return_dict=False)

    def ours() -> None:
        sample_images(model, batch, batch_size=batch, options={"num_inference_steps": steps, **options})

    found = [(timed(ours), timed(bare)) for _ in range(rounds + 2)][2:]
    return {"ms": 1000 * statistics.median(a for a, _ in found), "bare_ms": 1000 * statistics.median(b for _, b in found),
            **of_ratios([a / b for a, b in found])}  # fmt: skip


def timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def costs(mnist: str | None, rounds: int) -> None:
    recipes = {"digits-ddpm": [], **({"mnist-ddpm": [f"data.name={mnist}"]} if mnist else {})}
    for recipe, overrides in recipes.items():
        model = build(recipe, overrides)
        for batch in (1, 16, 64):
            for sampler, options in (("ddim, eta 1", {}), ("dpmsolver", {"scheduler": "dpmsolver"})):
                steps = 20 if recipe == "digits-ddpm" else 5
                row = rounded(cost(model, batch, steps, rounds, options))
                keep("sampling", {f"{recipe}, {sampler}, batch {batch}": row})
                print(recipe, sampler, batch, row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    drawn = verbs.add_parser("cost")
    drawn.add_argument("--mnist", help="a folder of parquet files: measure mnist-ddpm, too")
    drawn.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    costs(args.mnist, args.rounds)


if __name__ == "__main__":
    main()
