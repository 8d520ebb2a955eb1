"""The offline extractor: a small network trained once on the data set's own labels, or, where there are none, to tell by
how much an image was turned (Gidaris et al. 2018, arXiv:1803.07728). Its features compare models of that data set."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genhub.errors import InputError
from genhub.evaluation.cache import Computed, kept
from genhub.ground.console import say
from genhub.ground.digests import digest_of, hash_of
from genhub.ground.disk import cache_folder

VERSION = 2
"""Number to raise when the network or its training changes: cached probes of other versions are not used."""
STEPS, EPOCHS, BATCH, HELD_OUT = 250, 2, 64, 10
FEATURES = 128


class Network(nn.Module):
    """Convolutions that halve the image until it is at most 4 wide; the mean over what is left is the feature."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        halvings = max(1, (min(shape[1:]) - 1).bit_length() - 2)
        widths = [shape[0], 32, *(min(64 * 2**level, FEATURES) for level in range(halvings - 1)), FEATURES]
        layers: list[nn.Module] = []
        for level, (before, after) in enumerate(itertools.pairwise(widths)):
            stride = 2 if level else 1
            layers += [nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(
            *layers, nn.Conv2d(FEATURES, FEATURES, 3, padding=1, bias=False), nn.BatchNorm2d(FEATURES)
        )
        self.head = nn.Linear(FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the features (n, FEATURES) of images (n, c, h, w) in [-1, 1]."""
        pooled: Tensor = functional.relu(self.trunk(images)).mean((2, 3))
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class Probe:
    """Classifier of the data's labels; `accuracy` is on a tenth of the images that it was not trained on."""

    preprocessing = "none"
    batch_size = 512

    def __init__(self, data: Any, source: str | None, device: torch.device) -> None:
        if source is not None:
            raise InputError("extractor 'probe' is trained on the data: it takes no source")
        self.device = device
        self.reads_labels = data.labels is not None
        classes = int(data.spec.num_classes) if self.reads_labels else 4
        self.network = Network(data.spec.shape, classes)
        file = cache_folder() / "probes" / f"{hash_of(VERSION, data.content, data.spec.shape, classes)}.safetensors"

        def trained() -> Computed:
            say(f"Probe    training a small classifier of {data.spec.name}'s images, once")
            accuracy = train(self.network, data)
            return self.network.state_dict(), {"accuracy": str(accuracy)}

        weights, notes = kept(file, trained)
        self.network.load_state_dict(weights)
        self.accuracy = float(notes["accuracy"])
        """Share that it gets right of a tenth of the images, which it was not trained on."""
        self.network.to(device).eval()
        task = "labels" if self.reads_labels else "rotations"
        self.source = f"trained on {Path(data.spec.name).name}'s {task}, {self.accuracy:.4f} right on held-out images"
        self.fingerprint = digest_of(self.network)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        return torch.cat([self.network.features(self._input(part)).cpu() for part in torch.split(images, self.batch_size)])

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities (n, classes) of images (n, c, h, w) uint8."""
        return torch.cat([self.network(self._input(part)).softmax(1).cpu() for part in torch.split(images, self.batch_size)])

    def _input(self, images: Tensor) -> Tensor:
        return images.to(self.device).float() / 127.5 - 1


def train(network: Network, data: Any) -> float:
    """Train on nine tenths of the images; return the share of the last tenth that it gets right."""
    order = np.random.Generator(np.random.PCG64(0)).permutation(data.spec.num_images)
    held_out, training = order[: max(1, len(order) // HELD_OUT)], order[max(1, len(order) // HELD_OUT) :]
    steps = max(STEPS, EPOCHS * len(training) // BATCH)
    generator = torch.Generator().manual_seed(0)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    torch.set_rng_state(state)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    network.train()
    for _ in range(steps):
        images, labels = _batch(
            data, training[torch.randint(len(training), (BATCH,), generator=generator).numpy()], generator
        )
        loss = functional.cross_entropy(network(_shifted(images, generator)), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    network.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(held_out), 500):
            images, labels = _batch(data, held_out[start : start + 500], generator)
            right += int((network(images).argmax(1) == labels).sum())
    return right / len(held_out)


def _batch(data: Any, rows: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images in [-1, 1] and their classes: their labels, or by how many quarters they were turned."""
    images = data.images(rows)
    if data.labels is not None:
        return images, data.labels[torch.from_numpy(rows)]
    turns = torch.randint(4, (len(images),), generator=generator)
    side = min(images.shape[2:])
    square = images[:, :, :side, :side]
    return torch.stack([torch.rot90(image, int(turn), (1, 2)) for image, turn in zip(square, turns, strict=True)]), turns


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the batch moved by up to a tenth of its sides: a digit stays a digit."""
    most = [side // 10 for side in images.shape[2:]]
    shifts = [int(torch.randint(-m, m + 1, (), generator=generator)) if m else 0 for m in most]
    return images.roll(shifts, (2, 3))
