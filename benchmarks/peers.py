"""genhub against what people use: the same networks, batch and data in a peer's training loop and in genhub's.

    python -m venv peers && peers/bin/pip install . denoising-diffusion-pytorch pythae torchgan
    peers/bin/python benchmarks/peers.py [PEER ...] --mnist path/to/mnist [--diffusers path/to/diffusers] [--rounds 3]

Each round runs the peer and genhub in fresh processes, in turn, with the peer's defaults and genhub's; both stop after so
many optimizer steps. Both train on the first 10,000 MNIST images, which each loads in its own way. The step time is the
median after the first 14, by which genhub has chosen whether to keep memory; "first step" counts from the start of the
process; memory is its peak. `--diffusers` is a checkout whose examples/unconditional_image_generation/train_unconditional.py
is run. Where torchvision has no build for the torch that is installed, stand_in/ does its few transforms of images.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from measure import from_fresh_process, keep, of_ratios, peak_mib, rounded

HERE = Path(__file__).resolve().parent
IMAGES = 10_000
UNET = {
    "block_out_channels": [32, 64, 64], "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 32,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
COLOUR = {"image": {"size": 32, "channels": 3}}
LINEAR = {"beta_schedule": "linear", "prediction_type": "epsilon"}
# Model, data and trainer of genhub's side; its loops log every 50 steps as they do by default, and draw and save nothing.
OURS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "diffusers": ({"name": "ddpm", "network": {"name": "unet", **UNET}, "scheduler": LINEAR}, {"columns": COLOUR, "batch_size": 64}, {}),
    "lucidrains": ({"name": "peer_nets:Lucidrains"}, {"columns": COLOUR, "batch_size": 64},
                   {"ema": {"decay": 0.995, "every": 10}}),
    "pythae": ({"name": "peer_nets:PythaeVAE"}, {"batch_size": 128}, {"ema": None, "max_grad_norm": None}),
    "torchgan": ({"name": "peer_nets:TorchGAN"}, {"columns": {"image": {"size": 32}}, "batch_size": 64}, {"ema": None, "max_grad_norm": None}),
}  # fmt: skip
STEPS = {"diffusers": 40, "lucidrains": 40, "pythae": 600, "torchgan": 200}
SETTLED = 14
UPDATES = {"torchgan": 2}
"""Optimizer steps of an iteration, where it is not one."""


# In the process that is measured


def stop_after(steps: int, updates: int) -> None:
    """Report and end the process after so many iterations, seen from the optimizers, whose loop it may be."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    at: list[float] = []

    def count(*_: Any) -> None:
        at.append(time.time())
        if len(at) == steps * updates:
            ends = at[updates - 1 :: updates]
            passed = [later - earlier for earlier, later in pairwise(ends[SETTLED - 1 :])]
            peak = peak_mib()
            first = ends[0] - float(os.environ["STARTED"])
            print(json.dumps({"step": statistics.median(passed), "first": first, "mib": peak}), flush=True)
            os._exit(0)

    register_optimizer_step_post_hook(count)


def diffusers(data: Path, script: str) -> None:
    folder = Path.cwd()
    config = {"_class_name": "UNet2DModel", "sample_size": 32, "in_channels": 3, "out_channels": 3, **UNET}
    (folder / "config.json").write_text(json.dumps(config))
    sys.argv = [script, "--dataset_name", str(data / "parquet"), "--model_config_name_or_path", str(folder), "--resolution",
                "32", "--train_batch_size", "64", "--use_ema", "--lr_warmup_steps", "10", "--checkpointing_steps", "1000000",
                "--output_dir", str(folder / "out")]  # fmt: skip
    runpy.run_path(script, run_name="__main__")


def lucidrains(data: Path, _: str) -> None:
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

    diffusion = GaussianDiffusion(Unet(dim=32, dim_mults=(1, 2, 2), channels=3), image_size=32, timesteps=1000)
    Trainer(diffusion, str(data / "png"), train_batch_size=64, calculate_fid=False).train()


def pythae(data: Path, _: str) -> None:
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    images = pixels(data, 28)
    config = BaseTrainerConfig(output_dir="out", per_device_train_batch_size=128, num_epochs=1000)
    dataset = BaseDataset(images.float() / 255, torch.zeros(len(images)))
    BaseTrainer(VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=16)), dataset, training_config=config).train()


def torchgan(data: Path, _: str) -> None:
    import torch
    from peer_nets import DISCRIMINATOR, GENERATOR
    from torchgan.losses import MinimaxDiscriminatorLoss, MinimaxGeneratorLoss
    from torchgan.models import DCGANDiscriminator, DCGANGenerator
    from torchgan.trainer import Trainer

    images = pixels(data, 32).float().div(127.5).sub(1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.zeros(len(images))), 64, shuffle=True)
    adam = {"name": torch.optim.Adam, "args": {"lr": 2e-4, "betas": (0.5, 0.999)}}
    models = {"generator": {"name": DCGANGenerator, "args": GENERATOR, "optimizer": adam},
              "discriminator": {"name": DCGANDiscriminator, "args": DISCRIMINATOR, "optimizer": adam}}  # fmt: skip
    Path("model").mkdir()
    Trainer(models, [MinimaxGeneratorLoss(), MinimaxDiscriminatorLoss()], device=torch.device("cpu"), epochs=1000)(loader)


def find_torchvision() -> None:
    """Make `import torchvision` work: stand_in/ does, once transformers and diffusers have looked for the real one, where
    torchvision has no build for the torch at hand."""
    if importlib.util.find_spec("torchvision") is None:
        import diffusers.utils
        import transformers.utils

        diffusers.utils.is_torchvision_available()
        transformers.utils.is_torchvision_available()  # its answer is kept
        sys.path.append(str(HERE / "stand_in"))


PEERS: dict[str, Callable[[Path, str], None]] = {
    "diffusers": diffusers, "lucidrains": lucidrains, "pythae": pythae, "torchgan": torchgan,
}  # fmt: skip


def pixels(data: Path, size: int) -> Any:
    """(n, 1, size, size) uint8, decoded once: what the peers that take tensors leave to their users."""
    import numpy as np
    import torch
    from PIL import Image

    files = sorted((data / "png").glob("*.png"))
    return torch.from_numpy(np.stack([np.asarray(Image.open(file).resize((size, size))) for file in files])[:, None])


def genhub_loop(peer: str, data: Path, overrides: list[str]) -> None:
    import genhub
    from genhub.ground.later import put_off_imports

    put_off_imports()  # as the command does
    model, given, trainer = OURS[peer]
    quiet = {"max_steps": 10**6, "sample_every": None, "save_every": 10**6}
    recipe = {"model": model, "data": {"name": str(data / "parquet"), **given}, "trainer": quiet | trainer}
    genhub.train(recipe, overrides, run_dir="run")


# In the process that measures


def subset(mnist: str, folder: Path, count: int = IMAGES) -> None:
    """The first images, as parquet and as PNG files."""
    import pyarrow.parquet as pq

    file = next(Path(mnist).glob("**/*train*.parquet"))
    table = pq.read_table(file).slice(0, count)
    (folder / "parquet").mkdir(parents=True)
    (folder / "png").mkdir()
    pq.write_table(table, folder / "parquet" / "train.parquet")
    for number, image in enumerate(table.column("image").to_pylist()):
        (folder / "png" / f"{number:05d}.png").write_bytes(image["bytes"])


def script_in(diffusers: str) -> str:
    """Where train_unconditional.py is, given itself or the checkout around it."""
    script = Path(diffusers)
    if script.is_dir():
        script /= "examples/unconditional_image_generation/train_unconditional.py"
    return str(script.resolve())


def environment_of_peers() -> dict[str, str]:
    """With this folder and genhub."""
    path = [str(HERE), str(HERE.parent), str(HERE.parent / "plugins")]
    if before := os.environ.get("PYTHONPATH"):
        path.append(before)
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "TENSORBOARD_LOGGING": "0"}


def measured(peer: str, side: str, data: Path, script: str, overrides: list[str]) -> dict[str, float]:
    environment = environment_of_peers() | {"STARTED": str(time.time())}
    command = [str(HERE / "peers.py"), peer, "--inside", side, "--data", str(data), "--diffusers", script]
    with tempfile.TemporaryDirectory() as folder:
        return from_fresh_process(*command, "--set", *overrides, cwd=folder, environment=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"default: all of {', '.join(PEERS)}")
    parser.add_argument("--mnist", help="a folder of parquet files")
    parser.add_argument("--diffusers", default="", help="a checkout of diffusers, or its train_unconditional.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of genhub's side")
    parser.add_argument("--inside", choices=["peer", "genhub"], help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        (peer,) = args.peers
        stop_after(STEPS[peer], UPDATES.get(peer, 1))
        if args.inside == "genhub":
            genhub_loop(peer, args.data, args.set)
        else:
            find_torchvision()
            PEERS[peer](args.data, args.diffusers)
        return
    script = script_in(args.diffusers)
    with tempfile.TemporaryDirectory() as folder:
        subset(args.mnist, Path(folder))
        for peer in args.peers or PEERS:
            rounds = [
                [measured(peer, side, Path(folder), script, args.set) for side in ("genhub", "peer")]
                for _ in range(args.rounds)
            ]
            batch = OURS[peer][1]["batch_size"]
            row: dict[str, Any] = of_ratios([ours["step"] / theirs["step"] for ours, theirs in rounds])
            for index, side in enumerate(("genhub", "peer")):
                step, first, mib = (
                    statistics.median(pair[index][key] for pair in rounds) for key in ("step", "first", "mib")
                )
                row[side] = {"images_per_second": batch / step, "ms": 1000 * step, "first_step_s": first, "peak_mib": mib}
            row["first_step_ratio"] = statistics.median(ours["first"] / theirs["first"] for ours, theirs in rounds)
            row["memory_ratio"] = statistics.median(ours["mib"] / theirs["mib"] for ours, theirs in rounds)
            row = rounded(row)
            keep("peers", {", ".join([peer, *args.set]): row})
            print(peer, *args.set, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
