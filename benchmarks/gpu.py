"""On a GPU: a U-Net, trained and drawn from by genhub, a bare loop and diffusers' script.

    python benchmarks/gpu.py --data path/to/cifar10 [--diffusers path/to/diffusers]     # that of Ho et al. 2020
    python benchmarks/gpu.py --network digits-ddpm                                      # a shipped recipe's, and its data
    python benchmarks/gpu.py --data path/to/cifar10 --network tiny --batch 8            # to try the command on a CPU

Each round runs the sides in fresh processes, one after another, for each setting: genhub and a loop written by hand that
has the same network, batch, precision, optimizer and average of the weights, and, where it has the setting, diffusers'
train_unconditional.py with its own data loading; none flips its images. A step's time is the median over windows of
steps that end with the GPU's work done, after the first windows, which compile and choose kernels. `of_matrix_rate`: the
network's floating-point operations a second, forward and backward, over those of large bf16 matrix products on the same
card. Drawing: 50 DDIM steps through genhub, and as many bare calls of diffusers' U-Net.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import torch
from measure import keep, of_ratios, rounded, timed, wait_for_device
from peers import environment_of_peers, find_torchvision, script_in
from torch.utils.flop_counter import FlopCounterMode

import genhub
from genhub.data.open import load_data
from genhub.run.scale import FLOPS

NETWORKS: dict[str, dict[str, Any]] = {"ho2020": {  # 35.7 million parameters
    "block_out_channels": [128, 256, 256, 256], "layers_per_block": 2, "norm_num_groups": 32, "attention_head_dim": None,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "dropout": 0.1,
}}  # fmt: skip
NETWORKS["tiny"] = NETWORKS["ho2020"] | {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4}
SETTINGS = {  # of genhub's trainer
    "tf32": [], "tf32, compiled": ["trainer.compile=true"], "bf16": ["trainer.mixed_precision=bf16"],
    "bf16, compiled": ["trainer.mixed_precision=bf16", "trainer.compile=true"],
}  # fmt: skip
SCRIPTS = {"tf32": "no", "bf16": "bf16"}
"""What diffusers' script calls the settings that it has. Its "no" is torch's default: TF32 in convolutions."""
WINDOW, WARM, WINDOWS = 10, 3, 8


def shipped(name: str) -> Any:
    return genhub.read_recipe(name, run_dir="run")


def recipe(args: argparse.Namespace, setting: str) -> genhub.Recipe:
    network = NETWORKS[args.network] if args.network in NETWORKS else shipped(args.network).model.network.model_dump()
    content = {
        "model": {"name": "ddpm", "network": {"name": "unet", **network},
                  "scheduler": {"beta_schedule": "linear", "prediction_type": "epsilon"}},
        "data": {"name": args.data, "batch_size": args.batch},
        "trainer": {"max_steps": 10**6, "log_every": 50, "sample_every": None, "save_every": 10**6,
                    "optimizer": {"name": "adamw", "lr": 2.0e-4}, "ema": {"decay": 0.9999}},
    }  # fmt: skip
    return genhub.read_recipe(content, SETTINGS[setting], run_dir="run")


# In a process that is measured


def report_and_end(window: int) -> None:
    """End the process after some windows of optimizer steps, whoever makes them."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    ends: list[float] = []
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps % window == 0:
            wait_for_device()
            ends.append(time.perf_counter())
        if len(ends) == WARM + WINDOWS:
            step = statistics.median(later - earlier for earlier, later in pairwise(ends[WARM - 1 :])) / window
            mib = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
            print(json.dumps({"step": step, "mib": mib}), flush=True)
            os._exit(0)

    register_optimizer_step_post_hook(count)


def by_hand(args: argparse.Namespace, setting: str) -> None:
    read = recipe(args, setting)
    data = load_data(read.data)
    model = read.filled_from(data.spec)
    ddpm: Any = model.model_class()(model.model)
    config, device = model.trainer, torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
    half = config.mixed_precision == "bf16"
    layout = torch.channels_last if half and device.type == "cuda" else torch.contiguous_format
    unet = ddpm.network.unet.to(device, memory_format=layout).train()
    if config.compile:
        unet.compile(mode="reduce-overhead")  # with CUDA graphs
    weights = list(unet.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=2e-4, fused=True)
    pixels = data.kept(range(data.num_rows)).to(device)
    signal, scale = (x.to(device).view(-1, 1, 1, 1) for x in (ddpm.signal_scale, ddpm.noise_scale))
    while True:
        images = pixels[torch.randint(len(pixels), (args.batch,), device=device)].float().div_(127.5).sub_(1)
        noise, timesteps = torch.randn_like(images), torch.randint(1000, (args.batch,), device=device)
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            predicted = unet(signal[timesteps] * images + scale[timesteps] * noise, timesteps, return_dict=False)[0]
        (predicted.float() - noise).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1e-4)
        optimizer.zero_grad(set_to_none=True)


def diffusers_script(args: argparse.Namespace, setting: str) -> None:
    read = recipe(args, setting)
    unet: Any = read.model_class()(read.filled_from(load_data(read.data).spec).model).network.unet
    network = {**unet.config, "_class_name": "UNet2DModel"}
    Path("config.json").write_text(json.dumps(network))
    sys.argv = [args.diffusers, "--dataset_name", args.data, "--model_config_name_or_path", ".",
                "--resolution", str(unet.config.sample_size), "--train_batch_size", str(args.batch), "--use_ema",
                "--checkpointing_steps", "1000000", "--mixed_precision", SCRIPTS[setting], "--output_dir", "out"]  # fmt: skip
    find_torchvision()
    runpy.run_path(args.diffusers, run_name="__main__")


def trained_by_genhub(args: argparse.Namespace, setting: str) -> None:
    genhub.train(recipe(args, setting))


def drawing(args: argparse.Namespace, setting: str) -> None:
    """Images a second through `genhub.sample`, and through bare calls of diffusers' own network."""
    from diffusers import UNet2DModel

    read = recipe(args, setting)
    filled = read.filled_from(load_data(read.data).spec)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    dtype = torch.bfloat16 if "bf16" in setting else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = filled.trainer.tf32
    model: Any = filled.model_class()(filled.model).eval().requires_grad_(False).to(device, dtype)
    bare: Any = UNet2DModel.from_config(model.network.unet.config).eval().to(device, dtype)
    for network in (model.network, bare) if filled.trainer.compile else ():
        network.compile()
    noisy = torch.randn(args.batch, *filled.model.shape, device=device, dtype=dtype)

    def calls() -> None:
        with torch.inference_mode():
            for step in range(args.steps):
                bare(noisy, torch.tensor(step, device=device), return_dict=False)

    def ours() -> None:
        genhub.sample(model, args.batch, batch_size=args.batch, scheduler="ddim", num_inference_steps=args.steps)

    found = [(timed(ours), timed(calls)) for _ in range(6)][1:]
    ratios = of_ratios([a / b for a, b in found])
    print(json.dumps({"images_per_second": args.batch / statistics.median(a for a, _ in found), **ratios}))


SIDES = {"genhub": trained_by_genhub, "bare": by_hand, "diffusers": diffusers_script, "drawing": drawing}


# In the process that measures


def operations(args: argparse.Namespace) -> float:
    """Floating-point operations of one image, forward and backward."""
    read = recipe(args, "tf32")
    filled = read.filled_from(load_data(read.data).spec)
    unet: Any = filled.model_class()(filled.model).network.unet
    counter = FlopCounterMode(display=False)
    counter.flop_registry |= FLOPS  # attention, too, as a CPU has it
    with counter:
        unet(torch.randn(1, *filled.model.shape), torch.tensor([5]), return_dict=False)[0].sum().backward()
    return float(counter.get_total_flops())


def matrix_rate(side: int) -> float:
    """Operations a second of bf16 products of square matrices, the best of ten."""
    a = torch.randn(side, side, device=torch.accelerator.current_accelerator(check_available=True) or "cpu").bfloat16()
    return 2 * side**3 / min(timed(lambda: a @ a) for _ in range(10))


def measured(setting: str, sides: Sequence[str], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What processes found that import side by side, and then run one after another."""
    waiting, found = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            command = [sys.executable, str(Path(__file__).resolve()), "--inside", side, setting, "--network", args.network,
                       "--data", args.data, "--batch", str(args.batch), "--steps", str(args.steps),
                       "--diffusers", args.diffusers]  # fmt: skip
            Path(folder, side).mkdir()
            with Path(folder, f"{side}.txt").open("w") as told:
                waiting[side] = Popen(command, stdin=PIPE, stdout=PIPE, stderr=told, text=True, cwd=f"{folder}/{side}",
                                      env=environment_of_peers())  # fmt: skip
        for process in waiting.values():
            process.stdout.readline()
        for side, process in waiting.items():
            lines = [line for line in process.communicate("go\n")[0].splitlines() if line.startswith("{")]
            if not lines:
                raise SystemExit(
                    f"{side}, {setting}: nothing was measured\n{Path(folder, f'{side}.txt').read_text()[-2000:]}"
                )
            found[side] = json.loads(lines[-1])
    return found


def wait_in_line() -> None:
    """Import what takes long, then wait until it is this process's turn."""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    from diffusers import DDPMPipeline, UNet2DModel  # noqa: F401

    import genhub.training.loop  # noqa: F401

    print("ready", flush=True)
    sys.stdin.readline()


def training(setting: str, args: argparse.Namespace, per_image: float, rate: float) -> dict[str, Any]:
    able = {"genhub", "bare", *["diffusers"] * bool(args.diffusers and setting in SCRIPTS)}
    sides = [side for side in SIDES if side in able.intersection(args.sides)]
    rounds = [measured(setting, sides, args) for _ in range(args.rounds)]
    step = {side: statistics.median(each[side]["step"] for each in rounds) for side in sides}
    row: dict[str, Any] = {
        side: {"ms": 1000 * step[side], "images_per_second": args.batch / step[side],
               "of_matrix_rate": per_image * args.batch / step[side] / rate,
               "mib": statistics.median(each[side]["mib"] for each in rounds)} for side in sides
    }  # fmt: skip
    for side in sides[1:] if "genhub" in sides else []:
        row[f"genhub / {side}"] = of_ratios([each["genhub"]["step"] / each[side]["step"] for each in rounds])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="ho2020", help=f"{', '.join(NETWORKS)}, or a shipped recipe of a ddpm")
    parser.add_argument("--data", help="a folder of parquet files; default: the recipe's")
    parser.add_argument("--diffusers", default="", help="a checkout of diffusers, or its train_unconditional.py")
    parser.add_argument("--batch", type=int, help="default: 128, or the recipe's")
    parser.add_argument("--steps", type=int, default=50, help="of a drawing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--inside", nargs=2, metavar=("SIDE", "SETTING"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        side, setting = args.inside
        wait_in_line()
        if side != "drawing":
            report_and_end(2 if args.network == "tiny" else WINDOW)
        SIDES[side](args, setting)
        return
    of_recipe = None if args.network in NETWORKS else shipped(args.network).data
    args.batch = args.batch or (of_recipe.batch_size if of_recipe else 128)
    args.data = str(Path(args.data).resolve()) if args.data else of_recipe.name if of_recipe else "digits"
    args.diffusers = script_in(args.diffusers) if args.diffusers else ""
    per_image, rate = operations(args), matrix_rate(8192 if torch.cuda.is_available() else 512)
    print(f"{per_image / 1e9:.3g} GFLOP an image, forward and backward; bf16 matrix products: {rate / 1e12:.3g} TFLOP/s")
    for setting in args.settings:
        name = f"{args.network}, {setting}"
        rows = {name: training(setting, args, per_image, rate)}
        if "drawing" in args.sides:
            rows |= {f"{name}, {side}": row for side, row in measured(setting, ["drawing"], args).items()}
        rows = {name: rounded(row) for name, row in rows.items() if row}
        print(json.dumps(rows), flush=True)
        if torch.cuda.is_available():
            keep("gpu", rows)


if __name__ == "__main__":
    main()
