"""Compare the time that genhub.run.scale's ring of gradients takes with two real processes, on CPUs by gloo.

    python benchmarks/scale.py [RECIPE ...] [--rounds 3] [--steps 20]

Two processes of one thread are to take as long for a batch as one takes for half of it, and as adding up the gradients takes:
their bytes against what gloo moves, measured here on 64 MiB. Nothing is taken to be behind the backward pass, as the cores that
compute also add up. A GPU's rates can't be checked so.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.distributed as dist
from processes import speed

import genhub
from genhub.run.prepare import prepare
from genhub.run.scale import work_of

BYTES, TIMES = 2**26, 7


def ring(rank: int, rates: torch.Tensor) -> None:
    """Measure how many bytes a second two processes send while they add up so many."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29551", rank=rank, world_size=2)
    numbers = torch.ones(BYTES // 4)
    for number in range(TIMES):
        started = time.perf_counter()
        dist.all_reduce(numbers)
        rates[number] = BYTES / (time.perf_counter() - started)  # 2 (n - 1) / n = 1 of them
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["digits-ddpm", "digits-gan"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    rates = torch.zeros(TIMES).share_memory_()
    torch.multiprocessing.spawn(ring, (rates,), nprocs=2)
    rate = statistics.median(rates.tolist()[1:])
    print(f"gloo moves {rate / 1e9:.2f} GB/s\n")
    print("| recipe | gradients, MiB | one process, half the batch, ms | forecast for two, ms | two, ms | two / forecast |")
    print("| --- | --- | --- | --- | --- | --- |")
    for recipe in arguments.recipes:
        work = work_of(prepare(genhub.read_recipe(recipe)))
        half, ratios, both = [], [], []
        for _ in range(arguments.rounds):
            half.append(work.rows / 2 / speed(recipe, [f"data.batch_size={work.rows // 2}"], arguments.steps, 1, 1))
            both.append(work.rows / speed(recipe, [], arguments.steps, 2, 1))
            ratios.append(both[-1] / (half[-1] + work.gradients / rate))
        one = statistics.median(half)
        told = [work.gradients / 2**20, 1000 * one, 1000 * (one + work.gradients / rate), 1000 * statistics.median(both)]
        print(f"| {recipe} | {' | '.join(f'{value:.3g}' for value in told)} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
