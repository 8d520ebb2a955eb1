"""The offline extractor: a small network trained once on the data set's own labels, or, of images without any, to tell by
how much one was turned (Gidaris et al. 2018, arXiv:1803.07728). Its features compare models of that data set."""

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


TURNS = 4
"""Number of ways to turn an image by quarters."""


class Classifier(nn.Module):
    """Convolutions that halve the sides until the shortest is at most 4; the mean over what is left is the feature. Of
    vectors, which have no sides, two linear layers."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(_convolutions(shape) if shape[1:] else _linear(shape[0])))
        self.head = nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (n, FEATURES) of x (n, *shape), as in a batch."""
        found, sides = functional.relu(self.trunk(x)), tuple(range(2, x.ndim))
        return found.mean(sides) if sides else found

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _convolutions(shape: tuple[int, ...]) -> list[nn.Module]:
    convolution, norm = (getattr(nn, f"{kind}{len(shape) - 1}d") for kind in ("Conv", "BatchNorm"))
    halvings = max(1, (min(shape[1:]) - 1).bit_length() - 2)
    widths = [shape[0], 32, *(min(64 * 2**level, FEATURES) for level in range(halvings - 1)), FEATURES]
    layers: list[nn.Module] = []
    for level, (before, after) in enumerate(itertools.pairwise(widths)):
        stride = 2 if level else 1
        layers += [convolution(before, after, 3, stride, padding=1, bias=False), norm(after), nn.ReLU()]
    return [*layers, convolution(FEATURES, FEATURES, 3, padding=1, bias=False), norm(FEATURES)]


def _linear(numbers: int) -> list[nn.Module]:
    first = [nn.Linear(numbers, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU()]
    return [*first, nn.Linear(FEATURES, FEATURES, bias=False), nn.BatchNorm1d(FEATURES)]


def cannot_learn(data: Any) -> str | None:
    """Return why no probe can be trained on the data; None if one can."""
    if data.labels is not None or len(data.spec.modality.shape) == 3:
        return None
    return f"{Path(data.spec.name).name} has no column of labels to learn to read, and only images can be turned"


class Probe:
    """Classifier of the data's labels; `accuracy` is on a tenth of the rows that it was not trained on."""

    preprocessing = "none"
    batch_size = 512

    def __init__(self, data: Any, source: str | None, device: torch.device) -> None:
        if source is not None:
            raise InputError("extractor 'probe' is trained on the data: it takes no source")
        if reason := cannot_learn(data):
            raise InputError(f"extractor 'probe': {reason}; take the extractor `values`")
        self.device, self.modality = device, data.spec.modality
        labels = data.labels.kept(range(data.num_rows)) if data.labels else None
        classes = data.labels.modality.classes if data.labels else TURNS
        with torch.random.fork_rng(devices=[]):  # its weights are the cache's, or drawn from a seed
            self.network = Classifier(self.modality.shape, classes)
        read = None if labels is None else labels.numpy()
        key = hash_of(VERSION, data.content, self.modality.shape, classes, read)
        file = cache_folder() / "probes" / f"{key}.safetensors"

        def trained() -> Computed:
            say(f"Probe    training a small classifier of {data.spec.name}'s rows, once")
            accuracy = train(self.network, data, labels)
            return self.network.state_dict(), {"accuracy": str(accuracy)}

        weights, notes = kept(file, trained)
        self.network.load_state_dict(weights)
        self.accuracy = float(notes["accuracy"])
        """Share that it gets right of a tenth of the rows, which it was not trained on."""
        self.network.to(device).eval()
        task = "rotations" if labels is None else "labels"
        self.source = f"trained on {Path(data.spec.name).name}'s {task}, {self.accuracy:.4f} right on held-out rows"
        # What has levels is seen as it is; anything else is standardised, which is part of what the probe sees.
        self.fingerprint = digest_of(self.network, *([] if self.modality.levels else [self.modality.model_dump_json()]))

    @torch.inference_mode()
    def features(self, values: Tensor) -> Tensor:
        return torch.cat([self.network.features(self._x(part)).cpu() for part in torch.split(values, self.batch_size)])

    @torch.inference_mode()
    def probabilities(self, values: Tensor) -> Tensor:
        """Return the probabilities (n, classes) of elements (n, *shape) in their own units."""
        return torch.cat([self.network(self._x(part)).softmax(1).cpu() for part in torch.split(values, self.batch_size)])

    def _x(self, values: Tensor) -> Tensor:
        x: Tensor = self.modality.to_batch(values.to(self.device))
        return x


def train(network: Classifier, data: Any, labels: Tensor | None) -> float:
    """Train on nine tenths of the rows; return the share of the last tenth that it gets right.

    Args:
        labels: (N,) of the rows; None: to tell how images were turned.
    """
    order = np.random.Generator(np.random.PCG64(0)).permutation(data.num_rows)
    if data.labels is not None:
        order = order[data.labels.present(order).numpy()]
    held_out, training = order[: max(1, len(order) // HELD_OUT)], order[max(1, len(order) // HELD_OUT) :]
    steps = max(STEPS, EPOCHS * len(training) // BATCH)
    generator = torch.Generator().manual_seed(0)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            module.reset_parameters()
    torch.set_rng_state(state)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    network.train()
    for _ in range(steps):
        rows = training[torch.randint(len(training), (BATCH,), generator=generator).numpy()]
        x, classes = _batch(data, labels, rows, generator)
        loss = functional.cross_entropy(network(_shifted(x, generator)), classes)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    network.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(held_out), 500):
            x, classes = _batch(data, labels, held_out[start : start + 500], generator)
            right += int((network(x).argmax(1) == classes).sum())
    return right / len(held_out)


def _batch(data: Any, labels: Tensor | None, rows: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return x (b, *shape) and its classes: the labels, or by how many quarters images were turned."""
    x = data.x(rows)
    if labels is not None:
        return x, labels[torch.from_numpy(rows)]
    turns = torch.randint(TURNS, (len(x),), generator=generator)
    side = min(x.shape[2:])
    square = x[:, :, :side, :side]
    return torch.stack([torch.rot90(image, int(turn), (1, 2)) for image, turn in zip(square, turns, strict=True)]), turns


def _shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the batch moved by up to a tenth of its sides: a digit stays a digit. Vectors, without sides, stay."""
    most = [side // 10 for side in x.shape[2:]]
    shifts = [int(torch.randint(-m, m + 1, (), generator=generator)) if m else 0 for m in most]
    return x.roll(shifts, tuple(range(2, x.ndim))) if shifts else x
