"""The metrics by name: their figures, the models they apply to, and what to beware of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.data.batches import ImageData
from genhub.errors import DataError
from genhub.evaluation import metrics
from genhub.evaluation.measurement import Measurement
from genhub.ground.randomness import seed_for
from genhub.interfaces.capabilities import Autoencoder, Likelihood
from genhub.sampling.draw import BATCH_SIZE, sample_images
from genhub.sampling.labels import names_of
from genhub.sampling.pictures import to_uint8

MOST_RECONSTRUCTED, MOST_BITS = 10_000, 256
"""Most held-out images that are reconstructed, and measured in bits: a diffusion model's take its full chain for each."""


READS_WELL = 0.9
"""Accuracy that a probe should have: below, its own mistakes are a good part of a figure about labels."""


@dataclass(frozen=True)
class Metric:
    """A metric: a figure, or a few that are computed together."""

    name: str
    better: Literal["lower", "higher"]
    compute: Callable[[Measurement], dict[str, float]]
    """Function that returns the figures by name."""
    lacking: Callable[[Measurement], str | None] = lambda subject: None
    """Function that returns why it does not apply; None if it does."""
    least: int = 0
    """Number of images below which it misleads."""
    bias: str = ""
    """Words for how it misleads then."""
    by_default: bool = True
    rows: int = 1
    """Least number of images, drawn and real, that it takes."""
    by_features: bool = False
    """Whether it is computed from the extractor's features."""
    by_labels: bool = False
    """Whether it is computed from the labels that the probe reads in the images."""
    figures: tuple[str, ...] = ()
    """Names of the figures, if they differ from the metric's; the first stands for the metric where one is wanted."""

    @property
    def own(self) -> str:
        return self.figures[0] if self.figures else self.name

    def missing(self, subject: Measurement) -> str | None:
        """Return why it can't be computed; None if it can."""
        return self.too_few(subject) or self.lacking(subject)

    def too_few(self, subject: Measurement) -> str | None:
        for what, found in (("drawn", subject.drawing.n), ("real", len(subject.reference_rows))):
            if found < self.rows:
                return f"needs {self.rows} {what} images or more, not {found}"
        return None

    def warning(self, subject: Measurement) -> str | None:
        if subject.drawing.n >= self.least:
            return None
        return f"{self.name}: {subject.drawing.n} images are few; below {self.least} it is {self.bias}"


def distrust(subject: Measurement) -> str | None:
    """Return a warning if the extractor can't tell good images of these data from bad ones: if more than half as much of
    what is surely bad passes for real as of real images."""
    if subject.passing is None:
        return None
    mush, real = subject.passing
    if mush <= real / 2:
        return None
    name = subject.extractor_name.partition(":")[0]
    right = f", and is right on {subject.probe.accuracy:.0%} of images it was not trained on" if name == "probe" else ""
    better = "inception" if name == "dinov2" else "dinov2"
    return (
        f"{name} can hardly tell good from bad here: it takes {mush:.0%} of means of eight real images for real, of real "
        f"images {real:.0%}{right}; --extractor {better} may do better"
    )


def _no_held_out(subject: Measurement) -> str | None:
    if isinstance(subject.held_out, DataError):
        return f"needs images that were not trained on: {subject.held_out}"
    seen, split = subject.seen, subject.unseen.spec.split
    if seen.mean() <= 0.5:  # a few may be twice in the data
        return None
    which = f"{seen.sum()} of the {len(seen)} in split {split}"
    return f"needs images that were not trained on, and {which} were: name another split"


def _not_conditional(subject: Measurement) -> str | None:
    if "labels" not in subject.model.conditions:
        return "the model draws without labels"
    return (
        _other_classes(subject, subject.reference)
        if subject.probe.reads_labels
        else "the data has no labels to learn to read"
    )


def _other_classes(subject: Measurement, data: ImageData | DataError) -> str | None:
    """Return why class numbers mean something else to the model than in the data; None if they mean the same."""
    names = names_of(subject.model) if "labels" in subject.model.conditions else ()
    if not names or isinstance(data, DataError) or data.spec.class_names == names:
        return None
    return f"the classes of {data.spec.name}, split {data.spec.split}, are not those that the model was trained on"


def _without(capability: type[Any]) -> Callable[[Measurement], str | None]:
    return lambda subject: None if isinstance(subject.model, capability) else f"the model is no {capability.__name__}"


def _kernel_distance(subject: Measurement) -> dict[str, float]:
    distance, spread = metrics.kernel_distance(*subject.features)
    return {"kernel_distance": distance, "kernel_distance_std": spread}


def _precision_recall(subject: Measurement) -> dict[str, float]:
    precision, recall = metrics.precision_recall(*subject.features, k=3, radii=subject.radii(3))
    return {"precision": precision, "recall": recall}


def _density_coverage(subject: Measurement) -> dict[str, float]:
    density, coverage = metrics.density_coverage(*subject.features, k=5, radii=subject.radii(5))
    return {"density": density, "coverage": coverage}


def _label_entropy(subject: Measurement) -> dict[str, float]:
    _say_how_well_labels_are_read(subject, "label_entropy")
    return {"label_entropy": metrics.inception_score(subject.probabilities)}


def _label_accuracy(subject: Measurement) -> dict[str, float]:
    _say_how_well_labels_are_read(subject, "label_accuracy")
    return {"label_accuracy": float((subject.probabilities.argmax(1) == subject.asked_for).double().mean())}


def _say_how_well_labels_are_read(subject: Measurement, name: str) -> None:
    if subject.probe.accuracy < READS_WELL:
        subject.notes.append(f"{name}: the probe reads only {subject.probe.accuracy:.0%} of real images' labels right")


def _memorised(subject: Measurement) -> dict[str, float]:
    training = _pixels(subject.trained_on, range(subject.trained_on.spec.num_images))
    unseen = _pixels(subject.unseen, subject.unseen_rows)
    return {"memorised": metrics.memorised(subject.images.flatten(1).float() / 255, training, unseen)}


@torch.inference_mode()
def _reconstruction(subject: Measurement) -> dict[str, float]:
    model, data = subject.model, subject.unseen
    assert isinstance(model, Autoencoder)
    errors = [
        (model.decode(model.encode(images)) - images).square().mean((1, 2, 3)).cpu() / 4  # of pixels in [0, 1]
        for images in (data.images(rows).to(model.device) for rows in _blocks(subject.unseen_rows[:MOST_RECONSTRUCTED]))
    ]
    return {"reconstruction_mse": float(torch.cat(errors).double().mean())}


@torch.inference_mode()
def _bits_per_dimension(subject: Measurement) -> dict[str, float]:
    model, data = subject.model, subject.unseen
    assert isinstance(model, Likelihood)
    bits = []
    unseen = subject.unseen_rows[:MOST_BITS]
    for rows in _blocks(unseen):
        batch = {"images": data.images(rows).to(model.device)}
        if data.labels is not None:
            batch["labels"] = data.labels[torch.from_numpy(rows)].to(model.device)
        generator = torch.Generator().manual_seed(seed_for(subject.drawing.seed, int(rows[0])))
        bits.append(model.bits_per_dimension(batch, generator=generator).cpu())
    subject.notes.append(f"bits_per_dimension: of {len(unseen)} images of split {data.spec.split}")
    return {"bits_per_dimension": float(torch.cat(bits).double().mean())}


def _cost(subject: Measurement) -> dict[str, float]:
    """Count parameters; draw a batch to count network evaluations an image, and images a second."""
    model, n = subject.model, min(subject.drawing.n, 64)
    rows = 0

    def count(module: Any, args: Any, output: Any) -> None:
        nonlocal rows
        rows += len(next(arg for arg in args if isinstance(arg, Tensor)))

    draw = partial(sample_images, model, replace(subject.drawing, n=n, batch_size=None))
    networks = [child for child in model.children() if any(True for _ in child.parameters())]
    hooks = [network.register_forward_hook(count) for network in networks]
    try:
        draw()
    finally:
        for hook in hooks:
            hook.remove()
    started = time.perf_counter()
    draw()
    return {
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "network_evaluations": rows / n,
        "images_per_second": n / (time.perf_counter() - started),
    }


def _pixels(data: ImageData, rows: Iterable[int]) -> Tensor:
    """Return the pixels of images as rows (n, d) in [0, 1]."""
    return torch.cat([to_uint8(data.images(part)).flatten(1) for part in np.array_split(list(rows), 32)]).float() / 255


def _blocks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Split row numbers into batches."""
    return np.array_split(rows, -(-len(rows) // BATCH_SIZE))


_ALL = (
    Metric("frechet_distance", "lower", lambda s: {"frechet_distance": metrics.frechet_distance(*s.features)},
           least=5000, bias="biased upwards", rows=2, by_features=True),
    Metric("kernel_distance", "lower", _kernel_distance, least=1000, bias="uncertain: see its standard deviation",
           rows=2, by_features=True),
    Metric("precision_recall", "higher",
           _precision_recall,
           least=5000, bias="a loose estimate of the manifolds", rows=4, by_features=True, figures=("precision", "recall")),
    Metric("density_coverage", "higher",
           _density_coverage,
           least=5000, bias="lower in coverage, the more real images there are for each drawn one",
           rows=6, by_features=True, figures=("density", "coverage")),
    Metric("label_entropy", "higher", _label_entropy,
           lambda s: None if s.probe.reads_labels else "the data has no labels to learn to read",
           least=1000, bias="biased downwards", by_labels=True),
    Metric("label_accuracy", "higher", _label_accuracy, _not_conditional, by_labels=True),
    Metric("memorised", "lower", _memorised, _no_held_out),
    Metric("reconstruction", "lower", _reconstruction, lambda s: _without(Autoencoder)(s) or _no_held_out(s),
           figures=("reconstruction_mse",)),
    Metric("bits_per_dimension", "lower", _bits_per_dimension,
           lambda s: _without(Likelihood)(s) or _no_held_out(s) or _other_classes(s, s.held_out),
           by_default=False),
    Metric("cost", "lower", _cost, figures=("parameters", "network_evaluations", "images_per_second")),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _ALL}
"""All metrics of `genhub evaluate`; bits_per_dimension, which may take a full chain for each image, only if named."""


def about(subject: Measurement, names: Iterable[str]) -> list[str]:
    """Return notes for the readers of several metrics: on the extractor, and on the images that were not trained on."""
    notes = []
    if any(METRICS[name].by_features for name in names) and (note := distrust(subject)):
        notes.append(note)
    if isinstance(subject.held_out, ImageData) and "seen" in subject.__dict__ and subject.seen.any():
        seen, split = subject.seen, subject.held_out.spec.split
        notes.append(f"{seen.sum()} of the {len(seen)} held-out images of split {split} were trained on, and are left out")
    return notes
