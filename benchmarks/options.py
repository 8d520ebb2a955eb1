"""What an option of a recipe does to the step time and to peak memory: with it over without it.

    python benchmarks/options.py [OPTION ...] [--recipes mnist-ddpm ...] [--mnist path/to/mnist] [--rounds 5]
    python benchmarks/options.py cache_latents      # behind `genhub train digits-vae-kl`, in the same folder

Each round is two fresh processes in turn, which train a shipped recipe with and without the option for some seconds; the
figure is the median over the rounds' ratios of median step times.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from measure import from_fresh_process, keep, of_ratios, peak_mib, rounded

OPTIONS = {  # with, without
    "bf16": ("trainer.mixed_precision=bf16", "trainer.mixed_precision=no"),
    "cache_latents": ("data.cache_latents=true", "data.cache_latents=false"),
    "channels_last": ("trainer.channels_last=true", "trainer.channels_last=false"),
}
RECIPES = ("digits-ddpm", "mnist-ddpm", "digits-vae", "mnist-vae", "digits-gan", "mnist-gan")
OF_OPTION = {"cache_latents": ("digits-ddpm-latent",)}
"""The recipes that an option means something to, where these are not all."""


def trained(recipe: str, seconds: float, overrides: list[str], cpu_time: bool) -> dict[str, float]:
    """Seconds of a step, and peak MiB, of this process: the median, or the mean of one thread's time on the CPU."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import genhub

    ends: list[float] = []
    register_optimizer_step_post_hook(lambda *_: ends.append(time.process_time()))
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        given = ["trainer.log_every=1", "trainer.sample_every=null", "trainer.trackers=[]", "trainer.max_steps=1000000",
                 "trainer.save_every=1000000", f"trainer.stop_after={seconds:.0f}s"]  # fmt: skip
        with contextlib.suppress(genhub.Interrupted):
            genhub.train(recipe, [*overrides, *given], run_dir=run)
        at = [json.loads(line)["seconds"] for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    step = statistics.median(later - earlier for earlier, later in itertools.pairwise(at[12:]))
    if cpu_time:
        updates = len(ends) // len(at)  # the penalties of a GAN come every few steps
        step = (ends[-1] - ends[12 * updates]) / (len(at) - 13)
    return {"step": step, "mib": peak_mib()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", metavar="OPTION", help=f"default: all of {', '.join(OPTIONS)}")
    parser.add_argument("--recipes", nargs="+")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="keys of the recipes, with and without")
    parser.add_argument("--mnist", help="a folder of parquet files, in place of the Hub's ylecun/mnist")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12, help="of a process, its start included")
    parser.add_argument("--cpu-time", action="store_true",
                        help="one thread, and its time on the CPU in place of the clock's: where others compute, too")  # fmt: skip
    parser.add_argument("--train", nargs="+", metavar=("RECIPE", "KEY=VALUE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        print(json.dumps(trained(args.train[0], args.seconds, args.train[1:], args.cpu_time)))
        return

    def measured(recipe: str, override: str) -> dict[str, float]:
        data = [*args.set, *([f"data.name={args.mnist}"] if args.mnist and "mnist" in recipe else [])]
        clock = ["--cpu-time"] if args.cpu_time else []
        command = [__file__, "--seconds", str(args.seconds), *clock, "--train", recipe, override, *data]
        threads = {"OMP_NUM_THREADS": "1"} if args.cpu_time else {}
        return from_fresh_process(*command, environment=os.environ | threads)

    for option in args.options or OPTIONS:
        for recipe in args.recipes or OF_OPTION.get(option, RECIPES):
            rounds = [[measured(recipe, override) for override in OPTIONS[option]] for _ in range(args.rounds)]
            row = {
                "ms": 1000 * statistics.median(with_["step"] for with_, _ in rounds),
                "ms_without": 1000 * statistics.median(without["step"] for _, without in rounds),
                **of_ratios([with_["step"] / without["step"] for with_, without in rounds]),
                "memory_ratio": statistics.median(with_["mib"] / without["mib"] for with_, without in rounds),
            }
            row = rounded(row)
            keys = "".join(f" {key}" for key in args.set)
            keep("options", {f"{option}, {recipe}{keys}" + ", one thread's CPU time" * args.cpu_time: row})
            print(time.strftime("%H:%M:%S"), option, recipe, row, flush=True)


if __name__ == "__main__":
    main()
