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

from genhub.data.batches import TableData
from genhub.errors import DataError
from genhub.evaluation import metrics
from genhub.evaluation.measurement import Measurement
from genhub.ground.randomness import seed_for
from genhub.interfaces.capabilities import Autoencoder, Likelihood
from genhub.interfaces.model import Batch
from genhub.sampling.draw import BATCH_SIZE, sample_elements

MOST_RECONSTRUCTED, MOST_BITS = 10_000, 256
"""Most held-out rows that are reconstructed, and measured in bits: a diffusion model's take its full chain for each."""


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
    """Number of rows below which it misleads."""
    bias: str = ""
    """Words for how it misleads then."""
    by_default: bool = True
    rows: int = 1
    """Least number of rows, drawn and real, that it takes."""
    by_features: bool = False
    """Whether it is computed from the extractor's features."""
    by_labels: bool = False
    """Whether it is computed from the labels that the probe reads in what is drawn."""
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
                return f"needs {self.rows} {what} rows or more, not {found}"
        return None

    def warning(self, subject: Measurement) -> str | None:
        if subject.drawing.n >= self.least:
            return None
        return f"{self.name}: {subject.drawing.n} rows are few; below {self.least} it is {self.bias}"


def distrust(subject: Measurement) -> str | None:
    """Return a warning if the extractor can't tell good elements of these data from bad ones: if more than half as much of
    what is surely bad passes for real as of real images."""
    if subject.passing is None:
        return None
    mush, real = subject.passing
    if mush <= real / 2:
        return None
    name = subject.extractor_name.partition(":")[0]
    right = f", and is right on {subject.probe.accuracy:.0%} of rows it was not trained on" if name == "probe" else ""
    better = "inception" if name == "dinov2" else "dinov2"
    advice = f"; --extractor {better} may do better" if len(subject.reference.spec.modality.shape) == 3 else ""
    return (
        f"{name} can hardly tell good from bad here: it takes {mush:.0%} of means of eight real rows for real, of real "
        f"rows {real:.0%}{right}{advice}"
    )


def _no_held_out(subject: Measurement) -> str | None:
    if isinstance(subject.held_out, DataError):
        return f"needs rows that were not trained on: {subject.held_out}"
    seen, split = subject.seen, subject.unseen.spec.split
    if seen.mean() <= 0.5:  # a few may be twice in the data
        return None
    which = f"{seen.sum()} of the {len(seen)} in split {split}"
    return f"needs rows that were not trained on, and {which} were: name another split"


def _no_labels(subject: Measurement) -> str | None:
    return None if subject.reference.labels is not None else "the data has no labels to learn to read"


def _not_conditional(subject: Measurement) -> str | None:
    if not any(modality.classes for modality in subject.model.conditions.values()):
        return "the model draws without labels"
    if subject.reference.labels is None:
        return _no_labels(subject)
    name = subject.reference.labels.name
    given = name in subject.model.conditions
    return None if given else f"the probe reads column '{name}' of the data, which the model is not given"


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
    asked, there = subject.asked_for
    right = subject.probabilities.argmax(1) == asked
    return {"label_accuracy": float(right[there].double().mean())}


def _say_how_well_labels_are_read(subject: Measurement, name: str) -> None:
    if subject.probe.accuracy < READS_WELL:
        subject.notes.append(f"{name}: the probe reads only {subject.probe.accuracy:.0%} of real rows' labels right")


def _memorised(subject: Measurement) -> dict[str, float]:
    training = _numbers(subject, subject.trained_on, range(subject.trained_on.num_rows))
    unseen = _numbers(subject, subject.unseen, subject.unseen_rows)
    return {"memorised": metrics.memorised(subject.numbers(subject.drawn), training, unseen)}


@torch.inference_mode()
def _reconstruction(subject: Measurement) -> dict[str, float]:
    model, data = subject.model, subject.unseen
    assert isinstance(model, Autoencoder)
    low, high = data.spec.modality.bounds or (0.0, 1.0)  # of pixels in [0, 1]; of standardised numbers as they are
    errors = []
    for rows in _blocks(subject.unseen_rows[:MOST_RECONSTRUCTED]):
        x, given = data.x(rows).to(model.device), subject.given(data, rows)
        error = (model.decode(model.encode(x, given), given) - x).square()
        errors.append(error.mean(tuple(range(1, x.ndim))).cpu() / (high - low) ** 2)
    return {"reconstruction_mse": float(torch.cat(errors).double().mean())}


@torch.inference_mode()
def _bits_per_dimension(subject: Measurement) -> dict[str, float]:
    model, data = subject.model, subject.unseen
    assert isinstance(model, Likelihood)
    bits = []
    unseen = subject.unseen_rows[:MOST_BITS]
    for rows in _blocks(unseen):
        batch = Batch(data.x(rows).to(model.device), subject.given(data, rows))
        generator = torch.Generator().manual_seed(seed_for(subject.drawing.seed, int(rows[0])))
        bits.append(model.bits_per_dimension(batch, generator=generator).cpu())
    subject.notes.append(f"bits_per_dimension: of {len(unseen)} rows of split {data.spec.split}")
    return {"bits_per_dimension": float(torch.cat(bits).double().mean())}


def _cost(subject: Measurement) -> dict[str, float]:
    """Count parameters; draw a batch to count network evaluations a row, and rows a second."""
    model, n = subject.model, min(subject.drawing.n, 64)
    rows = 0

    def count(module: Any, args: Any, output: Any) -> None:
        nonlocal rows
        rows += len(next((arg for arg in args if isinstance(arg, Tensor)), ()))  # conditions alone: no network's

    draw = partial(sample_elements, model, replace(subject.drawing, n=n, batch_size=None))
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
        "rows_per_second": n / (time.perf_counter() - started),
    }


def _numbers(subject: Measurement, data: TableData, rows: Iterable[int]) -> Tensor:
    """Return elements as rows (n, d) of numbers; see `Measurement.numbers`."""
    return torch.cat([subject.numbers(data.own(part)) for part in np.array_split(list(rows), 32) if len(part)])


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
           least=5000, bias="lower in coverage, the more real rows there are for each drawn one",
           rows=6, by_features=True, figures=("density", "coverage")),
    Metric("label_entropy", "higher", _label_entropy, _no_labels, least=1000, bias="biased downwards", by_labels=True),
    Metric("label_accuracy", "higher", _label_accuracy, _not_conditional, by_labels=True),
    Metric("memorised", "lower", _memorised, _no_held_out),
    Metric("reconstruction", "lower", _reconstruction, lambda s: _without(Autoencoder)(s) or _no_held_out(s),
           figures=("reconstruction_mse",)),
    Metric("bits_per_dimension", "lower", _bits_per_dimension,
           lambda s: _without(Likelihood)(s) or _no_held_out(s),
           by_default=False),
    Metric("cost", "lower", _cost, figures=("parameters", "network_evaluations", "rows_per_second")),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _ALL}
"""All metrics of `genhub evaluate`; bits_per_dimension, which may take a full chain for each row, only if named."""


def about(subject: Measurement, names: Iterable[str]) -> list[str]:
    """Return notes for the readers of several metrics: on the extractor, on what rows are given, and on those that were not
    trained on."""
    notes = [] if subject.rows_of is None else [f"drawn for the conditions of rows of split {subject.rows_of}"]
    if any(METRICS[name].by_features for name in names) and (note := distrust(subject)):
        notes.append(note)
    if isinstance(subject.held_out, TableData) and "seen" in subject.__dict__ and subject.seen.any():
        seen, split = subject.seen, subject.held_out.spec.split
        notes.append(f"{seen.sum()} of the {len(seen)} held-out rows of split {split} were trained on, and are left out")
    return notes
