"""How good a model's MNIST digits are, judged by a small CNN that reads over 99% of the test images right.

    python benchmarks/mnist.py RUN ... [--data path/to/mnist] [-n 2000] [--seed 0] [--likelihood IMAGES] [--set key=value]

Prints a line of JSON for each run, checkpoint or model folder:

label_accuracy      of a conditional model: share of images that are read as the label asked for (labels in turn)
class_accuracy      the same for each label
class_shares        of an unconditional model: share of images read as each digit; in the real data 0.09 to 0.11
sure                share read with a probability of at least 0.8; of the test images 0.97
frechet             Frechet distance to the test images, of the CNN's 128 last features; `frechet_real` is that of as many
                    training images, the least that can be hoped for
frechet_pixels      the same of pixels in [0, 1]
reconstructed       of an autoencoder, on the test images: mean squared error of a pixel in [-1, 1], and the share of
                    reconstructions that are read as the label of their original
nats                with --likelihood, on the first so many test images: the bound of -log p(x), summed over an image's
                    pixels; `binarised` of images made black and white at random, each pixel white with its grey's probability

The data is what a recipe's `data.name` may say, with splits train and test. The CNN is trained once (two minutes on two
cores) and kept in runs/mnist-judge.safetensors.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import genhub
from genhub.data.open import load_data
from genhub.interfaces.columns import DataConfig

JUDGE = Path("runs/mnist-judge.safetensors")
EPOCHS, BATCH, SURE = 4, 128, 0.8


class Judge(nn.Module):
    """Reads 28x28 digits: images (n, 1, 28, 28) in [-1, 1] to logits (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *convolution(1, 16), nn.MaxPool2d(2), *convolution(16, 32), *convolution(32, 32), nn.MaxPool2d(2),
            *convolution(32, 64), nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(),
        )  # fmt: skip
        self.classes = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classes(self.features(images))
        return logits


def convolution(narrow: int, wide: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(narrow, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()


def train_judge(images: Tensor, labels: Tensor, epochs: int = EPOCHS, seed: int = 0) -> Judge:
    """A judge trained on images (n, 1, 28, 28) in [-1, 1], each batch moved by up to two pixels; in eval mode."""
    torch.manual_seed(seed)
    judge, steps = Judge(), epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(judge.parameters(), fused=True)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            down, right = torch.randint(-2, 3, (2,)).tolist()
            moved = pad(images[rows], (right, -right, down, -down), value=-1)
            cross_entropy(judge(moved), labels[rows], label_smoothing=0.05).backward()
            optimizer.step()
            rates.step()
            optimizer.zero_grad()
    return judge.eval()


@torch.inference_mode()
def read(judge: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Of images (n, 1, 28, 28) in [-1, 1]: probabilities (n, 10) and features (n, 128)."""
    features = torch.cat([judge.features(part) for part in images.split(500)])
    return judge.classes(features).softmax(1), features


def accuracy(judge: Judge, images: Tensor, labels: Tensor) -> float:
    """Share of images that are read as their labels."""
    return (read(judge, images)[0].argmax(1) == labels).float().mean().item()


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance between Gaussian fits of two sets of rows: |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)."""
    rows: list[NDArray[np.float64]] = [x.flatten(1).double().numpy() for x in (a, b)]
    (mean_a, mean_b), (cov_a, cov_b) = [x.mean(0) for x in rows], [np.cov(x.T) for x in rows]
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


class Court:
    """The real digits, and a judge that was trained on those of the split train."""

    def __init__(self, data: str, weights: Path = JUDGE) -> None:
        self.images, self.labels = split(data, "test")
        self.train = split(data, "train[:10000]")[0]  # real images to measure by
        if weights.is_file():
            self.judge = Judge()
            self.judge.load_state_dict(load_file(weights))
            self.judge.eval()
        else:
            self.judge = train_judge(*split(data, "train"))
            weights.parent.mkdir(parents=True, exist_ok=True)
            save_file(self.judge.state_dict(), weights)
        self.features = read(self.judge, self.images)[1]
        self.test_accuracy = accuracy(self.judge, self.images, self.labels)

    def figures(self, model: genhub.GenerativeModel, n: int, seed: int, options: dict[str, Any]) -> dict[str, Any]:
        """What the judge says of n images that the model draws."""
        conditional = "label" in model.conditions
        images = to_float(genhub.sample(model, n, seed=seed, **options))  # labels take turns
        found = self.of_images(images)
        if conditional:
            del found["class_shares"]
            right = (read(self.judge, images)[0].argmax(1) == torch.arange(n) % 10).float()
            found["label_accuracy"] = right.mean().item()
            found["class_accuracy"] = [right[label::10].mean().item() for label in range(10)]
        return found

    def of_images(self, images: Tensor) -> dict[str, Any]:
        """What the judge says of images (n, 1, 28, 28) in [-1, 1], whoever drew them."""
        probabilities, features = read(self.judge, images)
        real = self.train[: len(images)]
        return {
            "class_shares": (probabilities.argmax(1).bincount(minlength=10) / len(images)).tolist(),
            "sure": (probabilities.amax(1) >= SURE).float().mean().item(),
            "frechet": frechet(features, self.features), "frechet_real": frechet(read(self.judge, real)[1], self.features),
            "frechet_pixels": frechet(images / 2, self.images / 2),
            "frechet_pixels_real": frechet(real / 2, self.images / 2),
        }  # fmt: skip

    @torch.inference_mode()
    def reconstructed(self, model: genhub.Autoencoder) -> dict[str, float]:
        """Of the test images, through the autoencoder and back."""
        back = torch.cat([model.decode(model.encode(part)) for part in self.images.split(500)])
        return {
            "mse": (back - self.images).square().mean().item(),
            "label_accuracy": accuracy(self.judge, back, self.labels),
        }

    def nats(self, model: genhub.Likelihood, n: int, seed: int) -> dict[str, float]:
        """Mean bound of -log p(x) over the first n test images, as they are and binarised."""
        noise = torch.Generator().manual_seed(seed)
        images = self.images[:n]
        binary = torch.bernoulli((images + 1) / 2, generator=noise) * 2 - 1
        nats_per_bit = math.log(2) * images[0].numel()

        def mean(parts: Iterable[Tensor]) -> float:
            bits = [model.bits_per_dimension(genhub.Batch(part), generator=noise) for part in parts]
            return nats_per_bit * torch.cat(bits).mean().item()

        return {"grey": mean(images.split(500)), "binarised": mean(binary.split(500))}


def split(data: str, name: str) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28) in [-1, 1], and labels (n,)."""
    loaded = load_data(DataConfig(name=data, split=name))
    shape, labels, rows = loaded.spec.modality.shape, loaded.labels, range(loaded.num_rows)
    if shape != (1, 28, 28) or labels is None:
        raise genhub.DataError(f"--data {data}: needs labelled grey images of 28x28, not {shape}")
    return loaded.x(rows), labels.kept(rows)


def to_float(images: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else round(value, 4)


def judged(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    court = Court(args.data)
    print(f"The judge reads {court.test_accuracy:.2%} of the test images right", file=sys.stderr)
    options = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in args.set)}
    for folder in args.models:
        model = genhub.load(folder)
        figures = court.figures(model, args.n, args.seed, options)
        if isinstance(model, genhub.Autoencoder):
            figures["reconstructed"] = court.reconstructed(model)
        if args.likelihood and isinstance(model, genhub.Likelihood):
            figures["nats"] = court.nats(model, args.likelihood, args.seed)
        yield {"model": folder, "n": args.n, "judge_accuracy": round(court.test_accuracy, 4)} | rounded(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="RUN", help="runs, checkpoints; none: train the judge only")
    parser.add_argument("--data", default="ylecun/mnist")
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--likelihood", type=int, default=0, metavar="IMAGES", help="test images to bound the likelihood of")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the model's `sample`")
    try:
        for figures in judged(parser.parse_args()):
            print(json.dumps(figures), flush=True)
    except genhub.GenhubError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
