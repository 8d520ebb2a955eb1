"""What genhub's loop costs over a bare torch loop: same networks, losses, batch and optimizer, in the same process.

    python benchmarks/loop.py [WORK ...] [--mnist path/to/mnist] [--seconds 50]

genhub trains a shipped recipe through its public `train`. Between every two windows of its steps a hand-written loop
(preloaded bytes, fused optimizer, nothing else) does as many of its own, and then as many of forward and backward alone,
so that a busy neighbour slows all three. Every window of genhub's writes a log line. The figures are medians over the
ratios of neighbouring windows: without averaged weights, and as the recipe says. "Waiting for data" is the share of
genhub's time spent in its data's iterator. Peak memory (a GPU's, where there is one) is of fresh processes that do one
or the other alone.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from typing import Any

import torch
from genhub_gan.losses import discriminator_loss, generator_loss, zero_centred
from measure import keep, of_ratios, peak_mib, rounded, wait_for_device
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

import genhub
from genhub.data import batches as data

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")

WORKS = {  # a recipe, and how many steps make a window of about half a second
    "digits-ddpm": 16, "mnist-ddpm": 2, "digits-vae": 60, "mnist-vae": 6, "digits-gan": 40, "mnist-gan": 8,
}  # fmt: skip
VARIANTS = {"no averages": ["trainer.ema=null"], "with averages": []}
clock = time.perf_counter
Part = tuple[torch.nn.Module, int, Callable[[Tensor], Tensor]]
"""Networks that are updated, every how many steps, and the loss."""


# What one would write by hand. Each takes a model for its networks alone.


def ddpm(model: Any, config: Any) -> list[Part]:
    signal, scale = model.signal_scale.view(-1, 1, 1, 1), model.noise_scale.view(-1, 1, 1, 1)

    def loss(images: Tensor) -> Tensor:
        noise, timesteps = torch.randn_like(images), torch.randint(1000, (len(images),), device=DEVICE)
        a, b = signal[timesteps], scale[timesteps]
        return (model.unet(a * images + b * noise, timesteps).sample - (a * noise - b * images)).square().mean()

    return [(model.unet, 1, loss)]


def vae(model: Any, config: Any) -> list[Part]:
    def loss(images: Tensor) -> Tensor:
        mean, log_variance = model.encoder(images).chunk(2, 1)
        output = model.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
        if config.likelihood == "bernoulli":
            error = cross_entropy(output, (images + 1) / 2, reduction="sum")
        else:  # Gaussian, with one learned variance
            spread = 10 * model.likelihood.scaled
            error = 0.5 * ((output - images).square() * (-spread).exp() + spread).sum()
        return (error + 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()) / len(images)

    return [(model, 1, loss)]


def gan(model: Any, config: Any) -> list[Part]:
    g, d = model.generator, model.discriminator

    def fakes(images: Tensor) -> Tensor:
        return g(torch.randn(len(images), config.latent_dim, device=DEVICE))

    def of_discriminator(images: Tensor) -> Tensor:
        return discriminator_loss(config.loss, d(images), d(fakes(images)))

    def penalty(images: Tensor) -> Tensor:
        terms = zero_centred(d, images) + zero_centred(d, fakes(images).detach())
        return config.penalty_interval * config.penalty_weight / 2 * terms

    def of_generator(images: Tensor) -> Tensor:
        return generator_loss(config.loss, d(images), d(fakes(images)))

    return [(d, 1, of_discriminator), (d, config.penalty_interval, penalty), (g, 1, of_generator)]


def bare_loop(recipe: genhub.Recipe, images: data.ImageData) -> Callable[[int, bool], float]:
    """Do so many steps, with or without clipping, optimizer and zeroing; returns seconds."""
    blocks = torch.arange(images.spec.num_images).split(1000)
    pixels = torch.cat([images.images(part).add_(1).mul_(127.5).round_().to(torch.uint8) for part in blocks]).to(DEVICE)
    filled = recipe.filled_from(images.spec).model
    model, kind = recipe.model_class()(filled).to(DEVICE).train(), recipe.model.name
    parts = {"ddpm": ddpm, "vae": vae, "gan": gan}[kind](model, filled)
    options, clip = recipe.trainer.optimizer, recipe.trainer.max_grad_norm
    given = {"lr": options.lr, "betas": options.betas or (0.9, 0.999), "fused": True}
    optimizer_class = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[options.name]
    optimizers = {net: optimizer_class(list(net.parameters()), **given) for net, _, _ in parts}
    several = len(optimizers) > 1
    batches = torch.randperm(len(pixels), device=DEVICE).split(recipe.data.batch_size)[:-1]
    count = 0

    def run(steps: int, update: bool = True) -> float:
        nonlocal count
        wait_for_device()
        started = clock()
        for _ in range(steps):
            images = pixels[batches[count % len(batches)]].float().div_(127.5).sub_(1)
            for net, interval, loss in parts:
                if count % interval:
                    continue
                if several:  # gradients for these networks alone
                    for other in optimizers:
                        other.requires_grad_(other is net)
                loss(images).backward()
                if update:
                    if clip:
                        torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
                    optimizers[net].step()
                optimizers[net].zero_grad(set_to_none=True)
            count += 1
        wait_for_device()
        return clock() - started

    return run


def quiet(window: int, steps: int) -> list[str]:
    return [f"trainer.log_every={window}", "trainer.sample_every=null", "trainer.save_every=1000000",
            f"trainer.max_steps={steps}"]  # fmt: skip


def interleaved(recipe: str, overrides: list[str], window: int, seconds: float) -> list[tuple[float, float, float, float]]:
    """Seconds of (genhub's window, its wait for data in it, the bare loop's window, forward and backward alone)."""
    found: list[tuple[float, float, float, float]] = []
    original = data.ImageData.batches
    with tempfile.TemporaryDirectory() as folder:
        read = genhub.read_recipe(recipe, [*overrides, *quiet(window, 10**6)], run_dir=f"{folder}/run")
        bare = bare_loop(read, data.load_data(read.data))

        def batches(self: data.ImageData, **options: object) -> Iterator[data.Batch]:
            inner, waited, started, end = original(self, **options), 0.0, 0.0, clock() + seconds
            for count in range(10**6):
                if count % window == 0:
                    wait_for_device()
                    now = clock()
                    if count > window:  # the first has the imports and the first allocations
                        found.append((now - started, waited, bare(window), bare(window, False)))
                    if now > end and len(found) > 3:
                        raise Enough
                    waited, started = 0.0, clock()
                asked = clock()
                batch = next(inner)
                waited += clock() - asked
                yield batch

        data.ImageData.batches = batches
        try:
            with redirect_stdout(StringIO()):
                genhub.train(read)
        except Enough:
            pass
        finally:
            data.ImageData.batches = original
    return found[1:]


class Enough(Exception):
    """The time is up."""


def alone(what: str, recipe: str, overrides: list[str], window: int) -> float:
    """Peak MiB of a process that does nothing else."""
    steps = 3 * window
    with tempfile.TemporaryDirectory() as folder:
        read = genhub.read_recipe(recipe, [*overrides, *quiet(window, steps)], run_dir=f"{folder}/run")
        if what == "bare":
            bare_loop(read, data.load_data(read.data))(steps, True)
        else:
            genhub.train(read)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_mib()


def measure(recipe: str, overrides: list[str], peak: Callable[[str], float], seconds: float) -> dict[str, Any]:
    window, memory, row = WORKS[recipe], peak("bare"), {}
    for variant, extra in VARIANTS.items():
        rounds = interleaved(recipe, [*overrides, *extra], window, seconds)
        ours, _, bare, floor = (1000 / window * statistics.median(column) for column in zip(*rounds, strict=True))
        row[variant] = {
            "ms": ours, "bare_ms": bare, "forward_backward_ms": floor, **of_ratios([r[0] / r[2] for r in rounds]),
            "over_forward_backward": statistics.median(r[0] / r[3] for r in rounds),
            "data_wait": statistics.median(r[1] / r[0] for r in rounds), "memory_ratio": peak(variant) / memory,
        }  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"default: all of {', '.join(WORKS)}")
    parser.add_argument("--mnist", help="a folder of parquet files, in place of the Hub's ylecun/mnist")
    parser.add_argument("--seconds", type=float, default=50, help="for each work and variant")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="on top of every recipe")
    parser.add_argument("--alone", choices=["bare", *VARIANTS], help=argparse.SUPPRESS)
    parser.add_argument("--cpu-time", action="store_true",
                        help="one thread, and its time on the CPU in place of the clock's: where others compute, too")  # fmt: skip
    args = parser.parse_args()
    if args.cpu_time:
        torch.set_num_threads(1)
        globals()["clock"] = time.process_time
    overrides = {work: [*args.set, *([f"data.name={args.mnist}"] if args.mnist and "mnist" in work else [])]
                 for work in args.works or WORKS}  # fmt: skip
    if args.alone:
        work = args.works[0]
        print(alone(args.alone, work, [*overrides[work], *VARIANTS.get(args.alone, [])], WORKS[work]))
        return

    def peak(work: str, what: str) -> float:
        command = [sys.executable, __file__, work, "--alone", what, "--set", *overrides[work]]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])

    for work, given in overrides.items():
        row = rounded(measure(work, given, partial(peak, work), args.seconds))
        keep("loop", {f"{work}, one thread's CPU time" if args.cpu_time else work: row})
        for variant, figures in row.items():
            print(f"{work:14}{variant:16}", *(f"{key} {value}" for key, value in figures.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
