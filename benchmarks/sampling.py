"""What drawing costs over the network calls it is made of, and which sampler is good after how many of them.

    python benchmarks/sampling.py cost [--mnist path/to/mnist] [--rounds 15]
    python benchmarks/sampling.py quality RUN [data.name=path/to/mnist] [-n 2000] [--plot docs/images/samplers-x.png]

`cost`: a model's own `sample`, as the command line calls it, against the same number of bare calls of diffusers' own
U-Net, in turn, at several batch sizes, and what bf16 and compiling save; networks are untrained, which changes no time. `quality`: the Frechet distance of a trained DDPM's
images for every registered sampler and number of steps, by one extractor, drawn from the same seeds; a plot and a table.
What was drawn and measured is kept in the run's folder, so that a stopped command goes on.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
from measure import keep, of_ratios, rounded, timed

import genhub
from genhub.data.open import load_data
from genhub.sampling.draw import sample_elements
from genhub.sampling.request import Drawing

EVALUATIONS = (5, 10, 20, 50, 100, 250, 1000)
LATE = ("ddpm",)
"""Samplers that are given more than 100 network evaluations: the yardstick."""


def build(recipe: str, overrides: list[str]) -> Any:
    read = genhub.read_recipe(recipe, overrides)
    filled = read.filled_from(load_data(read.data, tuple(read.model.conditions)).spec)
    return filled.model_class()(filled.model).eval().requires_grad_(False)


def cost(model: Any, batch: int, steps: int, rounds: int, options: dict[str, Any]) -> dict[str, Any]:
    """A drawing's time over that of `steps` bare calls of the U-Net; medians of neighbours."""
    noisy, timestep = torch.randn(batch, *model.network_shape), torch.tensor(500)
    unet = diffusers.UNet2DModel.from_config(model.network.unet.config).eval()

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                unet(noisy, timestep, return_dict=False)

    def ours() -> None:
        sample_elements(model, Drawing(batch, batch_size=batch, options={"num_inference_steps": steps, **options}))

    found = [(timed(ours), timed(bare)) for _ in range(rounds + 2)][2:]
    return {"ms": 1000 * statistics.median(a for a, _ in found), "bare_ms": 1000 * statistics.median(b for _, b in found),
            **of_ratios([a / b for a, b in found])}  # fmt: skip


def savings(model: Any, batch: int, rounds: int) -> dict[str, dict[str, Any]]:
    """What `genhub sample --dtype bfloat16`, `--compile` and both save: times over those without, in turn."""
    torch.compiler.reset()  # or it gives up on recompiling what it has seen too often
    half, compiled, both = (copy.deepcopy(model) for _ in range(3))
    for each in (half, both):
        each.to(torch.bfloat16)
    for each in (compiled, both):
        each.network.compile()

    def draw(each: Any) -> float:
        return timed(lambda: sample_elements(each, Drawing(batch, batch_size=batch, options={"num_inference_steps": 5})))

    models = {"bfloat16": half, "compiled": compiled, "bfloat16, compiled": both}
    first = {name: draw(each) for name, each in models.items()}  # compiles
    found = [(draw(model), {name: draw(each) for name, each in models.items()}) for _ in range(rounds)]
    return {name: {"first_s": first[name], **of_ratios([took[name] / plain for plain, took in found])} for name in models}


def costs(mnist: str | None, rounds: int) -> None:
    recipes = {"digits-ddpm": [], **({"mnist-ddpm": [f"data.name={mnist}"]} if mnist else {})}
    for recipe, overrides in recipes.items():
        model = build(recipe, overrides)
        for batch in (1, 16, 64):
            for sampler, options in (("ddim, eta 1", {}), ("dpmsolver", {"scheduler": "dpmsolver"})):
                row = rounded(cost(model, batch, 20, rounds, options))
                keep("sampling", {f"{recipe}, {sampler}, batch {batch}": row})
                print(recipe, sampler, batch, row, flush=True)
            for name, row in rounded(savings(model, batch, rounds)).items():
                keep("sampling", {f"{recipe}, {name}, batch {batch}": row})
                print(recipe, name, batch, row, flush=True)


def steps_within(model: Any, sampler: str, evaluations: int) -> int | None:
    """How many steps a sampler can make of so many network evaluations; some take two a step, or four for the first."""
    for steps in range(evaluations, 0, -1):
        scheduler = model.sampler(sampler)
        try:
            scheduler.set_timesteps(steps)
        except ValueError:  # too few for it
            return None
        if len(scheduler.timesteps) <= evaluations:
            return steps
    return None


def quality(
    run: str, n: int, overrides: list[str], plot: str | None, samplers: list[str] | None, evaluations: list[int]
) -> None:
    model = genhub.load(run)
    found: dict[str, dict[str, float]] = {}
    names = samplers or [*(name for name in genhub.scheduler_names() if is_diffusers(genhub.load_scheduler(name)))]
    plain: dict[str, Any] = {"guidance_scale": 1.0} if model.conditions else {}
    settings = [(name, {"scheduler": name, **plain}) for name in names if name != "ddim"]
    etas = (0.0, 1.0) if "ddim" in names else ()
    settings += [(f"ddim, eta {eta:g}", {"scheduler": "ddim", "eta": eta, **plain}) for eta in etas]
    for name, options in settings:
        for budget in evaluations:
            sampler = options["scheduler"]
            steps = steps_within(model, sampler, budget) if budget <= 100 or sampler in LATE else None
            if steps is not None:
                started = time.perf_counter()
                measured = genhub.evaluate(run, n, metrics=["frechet_distance"], overrides=overrides,
                                           num_inference_steps=steps, **options)  # fmt: skip
                found.setdefault(name, {})[str(budget)] = measured.values["frechet_distance"]
                print(name, budget, found[name][str(budget)], f"{time.perf_counter() - started:.0f} s", flush=True)
    table(found, evaluations)
    if "ddpm" not in found:  # the yardstick
        return
    floor = found["ddpm"][str(max(evaluations))]
    keep("samplers", {Path(run).name: {"model": model.config.name, "n": n, "frechet_distance": rounded(found)}})
    good = [(int(budget), name) for name, by in found.items() for budget, value in by.items() if value <= 1.05 * floor]
    print(f"\nddpm, {max(evaluations)}: {floor:.4g}; fewest evaluations within 5% of it or below:",
          min(good) if good else "none")  # fmt: skip
    if plot:
        draw(found, floor, Path(run).name, n, Path(plot))


def is_diffusers(cls: type) -> bool:
    return cls.__module__.startswith("diffusers")


def table(found: dict[str, dict[str, float]], evaluations: list[int]) -> None:
    budgets = [str(budget) for budget in evaluations]
    print("\n| sampler | " + " | ".join(budgets) + " |\n| --- |" + " --- |" * len(budgets))
    for name, by in sorted(found.items(), key=lambda item: min(item[1].values())):
        print(f"| {name} | " + " | ".join(f"{by[b]:.3g}" if b in by else "" for b in budgets) + " |")


def draw(found: dict[str, dict[str, float]], floor: float, name: str, n: int, file: Path) -> None:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_prop_cycle(color=[*colormaps["tab10"].colors, *colormaps["Dark2"].colors])
    for sampler, by in found.items():
        axes.plot([int(budget) for budget in by], list(by.values()), marker="o", markersize=3, linewidth=1, label=sampler)
    axes.axhline(1.05 * floor, color="grey", linewidth=1, linestyle="--", label="5% above ddpm's last")
    axes.set(xscale="log", yscale="log", xlabel="network evaluations an image", ylabel="Frechet distance (probe)",
             title=f"{name}: samplers, {n:,} images each")  # fmt: skip
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    drawn = verbs.add_parser("cost")
    drawn.add_argument("--mnist", help="a folder of parquet files: measure mnist-ddpm, too")
    drawn.add_argument("--rounds", type=int, default=15)
    judged = verbs.add_parser("quality")
    judged.add_argument("run", help="a trained DDPM: a run's folder or a checkpoint")
    judged.add_argument("overrides", nargs="*", metavar="data.key=value", help="where its data are here")
    judged.add_argument("-n", type=int, default=2000, help="images for each figure")
    judged.add_argument("--samplers", nargs="+", help="default: all that diffusers brings")
    judged.add_argument("--evaluations", nargs="+", type=int, default=EVALUATIONS, help="of the network, for an image")
    judged.add_argument("--plot", help="x.png")
    args = parser.parse_args()
    if args.verb == "cost":
        costs(args.mnist, args.rounds)
    else:
        quality(args.run, args.n, args.overrides, args.plot, args.samplers, args.evaluations)


if __name__ == "__main__":
    main()
