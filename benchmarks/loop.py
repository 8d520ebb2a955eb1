"""What genhub's loop costs over a bare torch loop: same U-Net, batch and optimizer, on the same machine at the same time.

    python benchmarks/loop.py [--windows 40] [--recipe digits-ddpm] [key.path=value ...]

genhub trains the recipe through its public `train`; between every two windows of 25 of its steps, a hand-written loop
(preloaded tensors, fused AdamW, clipping, nothing else) does 25 of its own in the same process, so that a busy neighbour
slows both. Each window of genhub's writes a log line. The figure is the median over the ratios of neighbouring windows.
Once without averaged weights, once with. Peak memory comes from fresh processes that do one or the other alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import torch

import genhub
from genhub import data

STEPS = 25
QUIET = [f"trainer.log_every={STEPS}", "trainer.sample_every=null", "trainer.save_every=1000000"]
VARIANTS = {"genhub, no averages": ["trainer.ema=null"], "genhub": []}


def bare_loop(recipe: genhub.Recipe, images: data.ImageData) -> Callable[[], float]:
    """The loop one would write by hand; each call does STEPS steps and returns its seconds."""
    pixels = images.images(range(images.spec.num_images)).add(1).mul(127.5).round().to(torch.uint8)
    model = recipe.model_class()(recipe.filled_from(images.spec).model)
    net, optimizer = model.unet, torch.optim.AdamW(model.unet.parameters(), lr=recipe.trainer.optimizer.lr, fused=True)
    signal, noise_scale = model.signal_scale.view(-1, 1, 1, 1), model.noise_scale.view(-1, 1, 1, 1)

    def window() -> float:
        started = time.perf_counter()
        for _ in range(STEPS):
            batch = pixels[torch.randint(len(pixels), (recipe.data.batch_size,))].float().div_(127.5).sub_(1)
            noise, timesteps = torch.randn_like(batch), torch.randint(1000, (len(batch),))
            a, b = signal[timesteps], noise_scale[timesteps]
            loss = (net(a * batch + b * noise, timesteps).sample - (a * noise - b * batch)).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    return window


def interleaved(recipe: str, overrides: list[str], windows: int) -> list[tuple[float, float]]:
    """Seconds of (genhub's window, the bare loop's next to it)."""
    pairs: list[tuple[float, float]] = []
    steps = f"trainer.max_steps={STEPS * (windows + 2)}"
    with tempfile.TemporaryDirectory() as folder:
        read = genhub.read_recipe(recipe, [*overrides, *QUIET, steps], run_dir=f"{folder}/run")
        bare, original = bare_loop(read, data.load_data(read.data)), data.ImageData.batches

        def batches(self: data.ImageData, **options: object) -> Iterator[data.Batch]:
            started = None
            for count, batch in enumerate(original(self, **options)):
                if count % STEPS == 0:
                    if started is not None:
                        ours = time.perf_counter() - started
                        pairs.append((ours, bare()))
                    started = time.perf_counter()
                yield batch

        data.ImageData.batches = batches
        try:
            genhub.train(read)
        finally:
            data.ImageData.batches = original
    return pairs[1:]  # the first has the imports and the first allocations


def alone(what: str, recipe: str, overrides: list[str]) -> float:
    """Peak MiB of a process that does nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        read = genhub.read_recipe(recipe, [*overrides, *QUIET, "trainer.max_steps=50"], run_dir=f"{folder}/run")
        if what == "bare":
            window = bare_loop(read, data.load_data(read.data))
            window(), window()
        else:
            genhub.train(read)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--recipe", default="digits-ddpm")
    parser.add_argument("--alone", choices=["bare", *VARIANTS], help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if args.alone:
        print(alone(args.alone, args.recipe, [*args.overrides, *VARIANTS.get(args.alone, [])]))
        return

    def peak(what: str) -> float:
        command = [sys.executable, __file__, "--alone", what, "--recipe", args.recipe, *args.overrides]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])

    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    result = {"recipe": args.recipe, "overrides": args.overrides, "machine": machine, "windows": args.windows}
    memory = peak("bare")
    rows = []
    for name, extra in VARIANTS.items():
        pairs = interleaved(args.recipe, [*args.overrides, *extra], args.windows)
        ratios = sorted(ours / bare for ours, bare in pairs)
        low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
        ours, theirs = (1000 / STEPS * statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        row = {"ms": ours, "bare_ms": theirs, "ratio": statistics.median(ratios), "quartiles": [low, high],
               "memory_ratio": peak(name) / memory}  # fmt: skip
        result[name] = row
        rows.append(
            f"{name:22}{ours:9.2f}{theirs:9.2f}{row['ratio']:9.3f}   [{low:.3f}..{high:.3f}]{row['memory_ratio']:12.3f}"
        )
    print(f"{'':22}{'ms/step':>9}{'bare':>9}{'ratio':>9}{'quartiles':>19}{'memory':>12}", *rows, sep="\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
