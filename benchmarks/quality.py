"""How good a picture after so many minutes: genhub's shipped MNIST recipes against what people use, by one judge.

    python -m venv peers && peers/bin/pip install . denoising-diffusion-pytorch pythae torchgan
    peers/bin/python benchmarks/quality.py [WHO ...] --mnist path/to/mnist [--diffusers path/to/diffusers] [--minutes 10]

Everyone trains on MNIST's 60,000 training images for the same time, counted from the first optimizer step: genhub's recipes
with as many steps as fit (`trainer.max_time` finds out how many, since the learning rate's schedule must know its end), the peers in
a fresh process each, with their own defaults, until the time is up; `seconds` says how long it was. What a peer leaves to its user is chosen so that a laptop can train it: the
networks of `peer_nets.py`, and for diffusers' script a small U-Net. Then each draws as many images, from averaged weights
where it has them, diffusion models in 50 DDIM steps; `mnist.py`'s judge, a CNN trained on the real digits, measures them all.
Kept in --runs: what is there is neither trained nor drawn again.
"""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import keep, rounded
from mnist import Court, to_float
from peers import environment_of_peers, find_torchvision, pixels, script_in, subset
from torch import Tensor

import genhub
from genhub.ground.run_log import read_metrics
from genhub.sampling.pictures import write_picture
from genhub.store.manifest import read_manifest

UNET = {  # genhub's own on MNIST, with channels for colours, which the script insists on
    "block_out_channels": [24, 48, 48], "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 16,
    "down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3, "in_channels": 3, "out_channels": 3,
}  # fmt: skip
FAMILIES = {
    "diffusion": ("mnist-ddpm", "diffusers", "lucidrains"), "vae": ("mnist-vae", "pythae"), "gan": ("mnist-gan", "torchgan"),
}  # fmt: skip
BATCH = 100


class TimeIsUp(Exception):
    """Raised inside a peer's training loop, which has no other way to end by the clock."""


class Clock:
    """Ends a training loop so many seconds after its first optimizer step."""

    def __init__(self, seconds: float, updates: int) -> None:
        self.seconds, self.updates, self.started, self.calls = seconds, updates, 0.0, 0

    @property
    def steps(self) -> int:
        return self.calls // self.updates

    def train(self, loop: Callable[[], Any]) -> TimeIsUp:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        register_optimizer_step_post_hook(self.count)
        try:
            loop()
        except TimeIsUp as up:
            return up
        raise SystemExit("the peer stopped before the time was up")

    def count(self, *_: Any) -> None:
        self.started = self.started or time.monotonic()
        self.calls += 1
        if self.calls % self.updates == 0 and time.monotonic() - self.started > self.seconds:
            raise TimeIsUp


# Each trains in its own way, and returns a function that draws so many images (n, 1, h, w) in [-1, 1]


def diffusers(clock: Clock, data: Path, script: str) -> Callable[[int], Tensor]:
    from diffusers import DDIMPipeline, DDIMScheduler

    Path("config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "sample_size": 28, **UNET}))
    sys.argv = [script, "--dataset_name", str(data / "parquet"), "--model_config_name_or_path", ".", "--resolution", "28",
                "--train_batch_size", "64", "--use_ema", "--checkpointing_steps", "1000000", "--output_dir", "out"]  # fmt: skip
    up = clock.train(lambda: runpy.run_path(script, run_name="__main__"))
    frame = up.__traceback__
    while frame and frame.tb_frame.f_code.co_name != "main":  # the script keeps its weights in a function's variables
        frame = frame.tb_next
    assert frame is not None
    inside = frame.tb_frame.f_locals
    inside["ema_model"].copy_to(inside["model"].parameters())
    scheduler = DDIMScheduler.from_config(inside["noise_scheduler"].config)
    pipeline = DDIMPipeline(unet=inside["model"], scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)

    def draw(n: int) -> Tensor:
        images = pipeline(batch_size=n, num_inference_steps=50, output_type="np").images
        return torch.from_numpy(images).permute(0, 3, 1, 2).mean(1, keepdim=True) * 2 - 1

    return draw


def lucidrains(clock: Clock, data: Path, _: str) -> Callable[[int], Tensor]:
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

    diffusion = GaussianDiffusion(Unet(dim=32, dim_mults=(1, 2, 2), channels=1), image_size=28, sampling_timesteps=50)
    trainer = Trainer(diffusion, str(data / "png"), train_batch_size=64, augment_horizontal_flip=False, calculate_fid=False)
    trainer.save_and_sample_every = 10**9  # its drawing would cost it minutes
    clock.train(trainer.train)
    return lambda n: trainer.ema.ema_model.sample(n) * 2 - 1


def pythae(clock: Clock, data: Path, _: str) -> Callable[[int], Tensor]:
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.samplers import NormalSampler
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    images = pixels(data, 28).float() / 255
    config = BaseTrainerConfig(output_dir="out", num_epochs=10**6)
    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=16))
    clock.train(BaseTrainer(model, BaseDataset(images, torch.zeros(len(images))), training_config=config).train)
    return lambda n: NormalSampler(model.eval()).sample(n, batch_size=n) * 2 - 1


def torchgan(clock: Clock, data: Path, _: str) -> Callable[[int], Tensor]:
    from peer_nets import DISCRIMINATOR, GENERATOR
    from torch.nn.functional import pad
    from torchgan.losses import MinimaxDiscriminatorLoss, MinimaxGeneratorLoss
    from torchgan.models import DCGANDiscriminator, DCGANGenerator
    from torchgan.trainer import Trainer

    images = pad(to_float(pixels(data, 28)), (2, 2, 2, 2), value=-1)  # to 32x32, a power of two
    pairs = torch.utils.data.TensorDataset(images, torch.zeros(len(images)))
    adam = {"name": torch.optim.Adam, "args": {"lr": 2e-4, "betas": (0.5, 0.999)}}
    models = {"generator": {"name": DCGANGenerator, "args": GENERATOR, "optimizer": adam},
              "discriminator": {"name": DCGANDiscriminator, "args": DISCRIMINATOR, "optimizer": adam}}  # fmt: skip
    Path("model").mkdir()
    losses = [MinimaxGeneratorLoss(), MinimaxDiscriminatorLoss()]
    trainer = Trainer(models, losses, device=torch.device("cpu"), epochs=10**6)
    clock.train(lambda: trainer(torch.utils.data.DataLoader(pairs, 64, shuffle=True)))
    return lambda n: trainer.generator.eval()(torch.randn(n, 100))[..., 2:-2, 2:-2]


PEERS = {"diffusers": diffusers, "lucidrains": lucidrains, "pythae": pythae, "torchgan": torchgan}
UPDATES = {"torchgan": 2}


def inside(who: str, args: argparse.Namespace) -> None:
    """Train and draw, in a process and a folder of their own."""
    torch.manual_seed(0)
    clock = Clock(60 * args.minutes, UPDATES.get(who, 1))
    find_torchvision()
    draw = PEERS[who](clock, args.data, args.diffusers)
    with torch.no_grad():
        images = torch.cat([draw(min(BATCH, args.n - start)) for start in range(0, args.n, BATCH)])
    trained = {"steps": clock.steps, "seconds": 60 * args.minutes}
    torch.save({"images": images.clamp(-1, 1).clone(), **trained}, args.inside)


# In the process that judges


def drawn_by(who: str, args: argparse.Namespace, data: Path) -> dict[str, Any]:
    """{"images": (n, 1, 28, 28) in [-1, 1], "steps": how many were trained, "seconds": in what time}."""
    if who not in PEERS:
        time = f"trainer.max_time={round(60 * args.minutes)}s"
        run = genhub.train(who, [f"data.name={args.mnist}", time, "trainer.sample_every=null"], run_dir=str(args.runs / who))
        steps = read_manifest(run).step
        options = {"num_inference_steps": 50} if who in FAMILIES["diffusion"] else {}
        seconds = read_metrics(run.parents[1] / "metrics.jsonl")[0][-1]["seconds"]
        return {"images": to_float(genhub.sample(run, args.n, **options)), "steps": steps, "seconds": seconds}
    file = args.runs / f"{who}.pt"
    if not file.is_file():
        command = [sys.executable, __file__, who, "--inside", str(file), "--data", str(data), "--diffusers",
                   script_in(args.diffusers), "--minutes", str(args.minutes), "-n", str(args.n)]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(command, cwd=folder, env=environment_of_peers(), check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = torch.load(file)
    return found


def main() -> None:
    everyone = [who for family in FAMILIES.values() for who in family]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", nargs="*", metavar="WHO", help=f"default: all of {', '.join(everyone)}")
    parser.add_argument("--mnist", help="a folder of parquet files")
    parser.add_argument("--diffusers", default="", help="a checkout of diffusers, or its train_unconditional.py")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("-n", type=int, default=1000, help="images that each draws")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args.who[0], args)
        return
    args.runs = args.runs.resolve()
    args.runs.mkdir(parents=True, exist_ok=True)
    data = args.runs / "mnist"
    if not data.is_dir():
        subset(args.mnist, data, 60_000)
    court = Court(args.mnist)
    print(f"The judge reads {court.test_accuracy:.2%} of the test images right", file=sys.stderr)
    for who in args.who or everyone:
        drawn = drawn_by(who, args, data)
        digits = genhub.Image(shape=(1, 28, 28))
        write_picture(digits.picture(digits.from_batch(drawn["images"][:40])), args.runs / f"{who}.png")
        figures = court.of_images(drawn["images"])
        row = rounded({"minutes": args.minutes, "n": args.n, "steps": drawn["steps"], "seconds": drawn["seconds"],
                       **{key: figures[key] for key in ("frechet", "frechet_real", "sure", "class_shares")}})  # fmt: skip
        keep("quality", {who: row})
        print(who, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
