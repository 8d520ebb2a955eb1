"""What genhub's loop costs over a bare torch loop: same U-Net, batch, optimizer and steps, fresh processes in turn.

    python benchmarks/loop.py [--rounds 5] [--steps 300] [--recipe digits-ddpm] [key.path=value ...]

Each round runs, one after another: a bare loop (preloaded tensors, fused AdamW, clipping, nothing else), genhub without
averaged weights, and genhub as the recipe has it (averages and logging). Steps are timed in windows, the first of which
is dropped; a round's figure is the median window, the result the median of the rounds' ratios. Prints a table and JSON.
Run it on an otherwise idle machine: a busy neighbour costs more than anything measured here.
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
from pathlib import Path

WINDOW = 20
ROLES = {"bare": [], "genhub, no averages": ["trainer.ema=null"], "genhub": []}


def bare(recipe: str, overrides: list[str], steps: int) -> list[float]:
    """Milliseconds a step, a value a window, of the loop one would write by hand."""
    import torch

    import genhub
    from genhub.data import load_data

    read = genhub.read_recipe(recipe, overrides)
    data = load_data(read.data)
    images = torch.cat([data.images(range(len(data.labels)))]).add(1).mul(127.5).round().to(torch.uint8)
    torch.manual_seed(0)
    model = read.model_class()(read.model.filled_from(data.spec))
    net, optimizer = model.unet, torch.optim.AdamW(model.unet.parameters(), lr=read.trainer.optimizer.lr, fused=True)
    signal, noise_scale = model.signal_scale.view(-1, 1, 1, 1), model.noise_scale.view(-1, 1, 1, 1)
    batch_size, windows, started = read.data.batch_size, [], time.perf_counter()
    for step in range(1, steps + 1):
        batch = images[torch.randint(len(images), (batch_size,))].float().div_(127.5).sub_(1)
        noise, timesteps = torch.randn_like(batch), torch.randint(1000, (batch_size,))
        a, b = signal[timesteps], noise_scale[timesteps]
        loss = (net(a * batch + b * noise, timesteps).sample - (a * noise - b * batch)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % WINDOW == 0:
            now = time.perf_counter()
            windows.append((now - started) / WINDOW * 1000)
            started = now
    return windows


def through_genhub(recipe: str, overrides: list[str], steps: int) -> list[float]:
    import genhub

    with tempfile.TemporaryDirectory() as folder:
        quiet = [f"trainer.max_steps={steps}", f"trainer.log_every={WINDOW}", "trainer.sample_every=null",
                 f"trainer.save_every={steps}"]  # fmt: skip
        read = genhub.read_recipe(recipe, [*overrides, *quiet], run_dir=f"{folder}/run")
        genhub.train(read)
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    return [1000 * read.data.batch_size / line["images_per_second"] for line in lines]


def one(role: str, recipe: str, overrides: list[str], steps: int) -> dict[str, float]:
    """Run a role in a fresh process."""
    command = [sys.executable, __file__, "--role", role, "--steps", str(steps), "--recipe", recipe, *overrides]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--recipe", default="digits-ddpm")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if args.role:
        run = bare if args.role == "bare" else through_genhub
        windows = run(args.recipe, [*args.overrides, *ROLES[args.role]], args.steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"ms": statistics.median(windows[1:]), "peak_mib": peak}))
        return
    rounds = [{role: one(role, args.recipe, args.overrides, args.steps) for role in ROLES} for _ in range(args.rounds)]
    import torch

    result = {"recipe": args.recipe, "overrides": args.overrides, "torch": str(torch.__version__), "rounds": args.rounds,
              "steps": args.steps, "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"}  # fmt: skip
    print(f"{'':22}{'ms/step':>9}{'/ bare':>9}{'range':>16}{'peak MiB':>10}{'/ bare':>9}")
    for role in ROLES:
        ratios = [r[role]["ms"] / r["bare"]["ms"] for r in rounds]
        ms, mib = (statistics.median(r[role][key] for r in rounds) for key in ("ms", "peak_mib"))
        memory = statistics.median(r[role]["peak_mib"] / r["bare"]["peak_mib"] for r in rounds)
        result[role] = {"ms": ms, "ratio": statistics.median(ratios), "range": [min(ratios), max(ratios)],
                        "peak_mib": mib, "memory_ratio": memory}  # fmt: skip
        spread = f"[{min(ratios):.3f}..{max(ratios):.3f}]"
        print(f"{role:22}{ms:9.2f}{statistics.median(ratios):9.3f}{spread:>16}{mib:10.0f}{memory:9.3f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
