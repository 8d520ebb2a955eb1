"""What genhub's loop costs over a bare torch loop: same networks, losses, batch and optimizer, in the same process.

    python benchmarks/loop.py [WORK ...] [--mnist path/to/mnist] [--seconds 50]

genhub trains a shipped recipe through its public `train`. Between every two windows of its steps a hand-written loop
(preloaded rows, fused optimizer, conditions and their dropout, averages where the recipe has them, nothing else) does as
many of its own, and then as many of forward and backward alone, so that a busy neighbour slows all three. Every window of
genhub's writes a log line. The figures are medians over the ratios of neighbouring windows: without averaged weights, on
both sides, and as the recipe says. "Waiting for data" is the share of
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
from genhub import Conditions
from genhub.data import batches as data
from genhub.data.open import load_data

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")

WORKS = {  # a recipe, and how many steps make a window of about half a second
    "digits-ddpm": 16, "mnist-ddpm": 2, "digits-vae": 60, "mnist-vae": 6, "digits-gan": 40, "mnist-gan": 8,
    "moons-ddpm": 200,
}  # fmt: skip
VARIANTS = {"no averages": ["trainer.ema=null"], "with averages": []}
clock = time.perf_counter
Part = tuple[torch.nn.Module, int, Callable[[Tensor, Conditions], Tensor]]
"""Networks that are updated, every how many steps, and the loss of x and its conditions."""


# What one would write by hand. Each takes a model for its networks alone.


def ddpm(model: Any, config: Any) -> list[Part]:
    networks = torch.nn.ModuleList([model.network, model.conditioner])

    def loss(x: Tensor, given: Conditions) -> Tensor:
        noise, timesteps = torch.randn_like(x), torch.randint(1000, (len(x),), device=DEVICE)
        each = (-1, *[1] * (x.ndim - 1))
        a, b = model.signal_scale[timesteps].view(each), model.noise_scale[timesteps].view(each)
        output = model.network(a * x + b * noise, timesteps.float(), model.conditioner(given))
        return (output - (a * noise - b * x)).square().mean()

    return [(networks, 1, loss)]


def vae(model: Any, config: Any) -> list[Part]:
    def loss(x: Tensor, given: Conditions) -> Tensor:
        mean, log_variance = model.encoder(x, given).chunk(2, 1)
        output = model.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean), given)
        if config.likelihood == "bernoulli":
            error = cross_entropy(output, (x + 1) / 2, reduction="sum")
        else:  # Gaussian, with one learned variance
            spread = 10 * model.likelihood.scaled
            error = 0.5 * ((output - x).square() * (-spread).exp() + spread).sum()
        return (error + 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()) / len(x)

    return [(model, 1, loss)]


def gan(model: Any, config: Any) -> list[Part]:
    g, d = model.generator, model.discriminator

    def fakes(x: Tensor, given: Conditions) -> Tensor:
        return g(torch.randn(len(x), config.latent_dim, device=DEVICE), given)

    def of_discriminator(x: Tensor, given: Conditions) -> Tensor:
        return discriminator_loss(config.loss, d(x, given), d(fakes(x, given), given))

    def penalty(x: Tensor, given: Conditions) -> Tensor:
        terms = zero_centred(lambda points: d(points, given), x)
        terms = terms + zero_centred(lambda points: d(points, given), fakes(x, given).detach())
        return config.penalty_interval * config.penalty_weight / 2 * terms

    def of_generator(x: Tensor, given: Conditions) -> Tensor:
        return generator_loss(config.loss, d(x, given), d(fakes(x, given), given))

    return [(d, 1, of_discriminator), (d, config.penalty_interval, penalty), (g, 1, of_generator)]


def preloaded(recipe: genhub.Recipe, rows: data.TableData) -> Callable[[Tensor], tuple[Tensor, Conditions]]:
    """A function that makes a batch of rows that lie on the device: pixels as bytes, anything else as networks take it."""
    blocks = torch.arange(rows.num_rows).split(1000)
    pixels = rows.spec.modality.dtype == "uint8"
    x = torch.cat([rows.kept(part) if pixels else rows.x(part) for part in blocks]).to(DEVICE)
    every = Conditions.joined([rows.conditions(part) for part in blocks]).to(DEVICE)
    share = recipe.model.condition_dropout

    def batch(index: Tensor) -> tuple[Tensor, Conditions]:
        given = every.rows(index)
        if given.values and share:
            given = given.without(torch.rand(len(index), device=DEVICE) < share)
        return x[index].float().div_(127.5).sub_(1) if pixels else x[index], given

    return batch


def bare_loop(recipe: genhub.Recipe) -> Callable[[int, bool], float]:
    """Do so many steps, with or without clipping, optimizer, averages and zeroing; returns seconds."""
    rows = data_of(recipe)
    batch = preloaded(recipe, rows)
    filled = recipe.filled_from(rows.spec).model
    model, kind = recipe.model_class()(filled).to(DEVICE).train(), recipe.model.name
    parts = {"ddpm": ddpm, "vae": vae, "gan": gan}[kind](model, filled)
    options, clip, ema = recipe.trainer.optimizer, recipe.trainer.max_grad_norm, recipe.trainer.ema
    given = {"lr": options.lr, "betas": options.betas or (0.9, 0.999), "fused": True}
    optimizer_class = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[options.name]
    optimizers = {net: optimizer_class(list(net.parameters()), **given) for net, _, _ in parts}
    several = len(optimizers) > 1
    averaged = list((model.generator if kind == "gan" else model).parameters()) if ema else []
    averages = [weight.detach().clone() for weight in averaged]
    batches = torch.randperm(rows.num_rows, device=DEVICE).split(recipe.data.batch_size)[:-1]
    count = 0

    def run(steps: int, update: bool = True) -> float:
        nonlocal count
        wait_for_device()
        started = clock()
        for _ in range(steps):
            x, conditions = batch(batches[count % len(batches)])
            for net, interval, loss in parts:
                if count % interval:
                    continue
                if several:  # gradients for these networks alone
                    for other in optimizers:
                        other.requires_grad_(other is net)
                loss(x, conditions).backward()
                if update:
                    if clip:
                        torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
                    optimizers[net].step()
                optimizers[net].zero_grad(set_to_none=True)
            count += 1
            if update and ema and count % ema.every == 0:
                with torch.no_grad():
                    torch._foreach_lerp_(averages, averaged, 1 - ema.decay**ema.every)
        wait_for_device()
        return clock() - started

    return run


def data_of(recipe: genhub.Recipe) -> data.TableData:
    return load_data(recipe.data, tuple(recipe.model.conditions))


def quiet(window: int, steps: int) -> list[str]:
    return [f"trainer.log_every={window}", "trainer.sample_every=null", "trainer.save_every=1000000",
            f"trainer.max_steps={steps}"]  # fmt: skip


def interleaved(recipe: str, overrides: list[str], window: int, seconds: float) -> list[tuple[float, float, float, float]]:
    """Seconds of (genhub's window, its wait for data in it, the bare loop's window, forward and backward alone)."""
    found: list[tuple[float, float, float, float]] = []
    original = data.TableData.batches
    with tempfile.TemporaryDirectory() as folder:
        read = genhub.read_recipe(recipe, [*overrides, *quiet(window, 10**6)], run_dir=f"{folder}/run")
        bare = bare_loop(read)

        def batches(self: data.TableData, *share: Any, **options: Any) -> Iterator[genhub.Batch]:
            inner, waited, started, end = original(self, *share, **options), 0.0, 0.0, clock() + seconds
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

        data.TableData.batches = batches
        try:
            with redirect_stdout(StringIO()):
                genhub.train(read)
        except Enough:
            pass
        finally:
            data.TableData.batches = original
    return found[1:]


class Enough(Exception):
    """The time is up."""


def alone(what: str, recipe: str, overrides: list[str], window: int) -> float:
    """Peak MiB of a process that does nothing else."""
    steps = 3 * window
    with tempfile.TemporaryDirectory() as folder:
        read = genhub.read_recipe(recipe, [*overrides, *quiet(window, steps)], run_dir=f"{folder}/run")
        if what == "bare":
            bare_loop(read)(steps, True)
        else:
            genhub.train(read)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_mib()


def measure(recipe: str, overrides: list[str], peak: Callable[..., float], seconds: float) -> dict[str, Any]:
    window, row = WORKS[recipe], {}
    for variant, extra in VARIANTS.items():
        rounds = interleaved(recipe, [*overrides, *extra], window, seconds)
        ours, _, bare, floor = (1000 / window * statistics.median(column) for column in zip(*rounds, strict=True))
        row[variant] = {
            "ms": ours, "bare_ms": bare, "forward_backward_ms": floor, **of_ratios([r[0] / r[2] for r in rounds]),
            "over_forward_backward": statistics.median(r[0] / r[3] for r in rounds),
            "data_wait": statistics.median(r[1] / r[0] for r in rounds), "memory_ratio": peak("genhub", extra) / peak("bare", extra),
        }  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"default: all of {', '.join(WORKS)}")
    parser.add_argument("--mnist", help="a folder of parquet files, in place of the Hub's ylecun/mnist")
    parser.add_argument("--seconds", type=float, default=50, help="for each work and variant")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="on top of every recipe")
    parser.add_argument("--alone", choices=["bare", "genhub"], help=argparse.SUPPRESS)
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
        print(alone(args.alone, work, overrides[work], WORKS[work]))
        return

    def peak(work: str, what: str, extra: list[str]) -> float:
        command = [sys.executable, __file__, work, "--alone", what, "--set", *overrides[work], *extra]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])

    for work, given in overrides.items():
        row = rounded(measure(work, given, partial(peak, work), args.seconds))
        keep("loop", {f"{work}, one thread's CPU time" if args.cpu_time else work: row})
        for variant, figures in row.items():
            print(f"{work:14}{variant:16}", *(f"{key} {value}" for key, value in figures.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
