"""Metrics of how near what is drawn comes to real rows, of copies, of reconstructions and of costs. Registered under
`genhub.metrics`; those of what was asked for are beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median_low
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genhub.conditioning.conditioner import Conditioner
from genhub.evaluation import metrics
from genhub.ground.randomness import seed_for
from genhub.interfaces.capabilities import Autoencoder, Likelihood
from genhub.interfaces.metric import Figures, MeasuredModel, Metric, RealRows
from genhub.interfaces.model import Batch, Model
from genhub.sampling.draw import BATCH_SIZE

MOST_RECONSTRUCTED, MOST_BITS = 10_000, 256
"""Most held-out rows that are reconstructed, and measured in bits: a diffusion model's take its full chain for each."""


class FrechetDistance(Metric):
    """Distance between Gaussian fits of features: FID, by whichever extractor."""

    figures: ClassVar[Figures] = {"frechet_distance": "lower"}
    by_features, rows, least, bias = True, 2, 5000, "biased upwards"

    def compute(self, subject: MeasuredModel) -> dict[str, float]:
        return {"frechet_distance": metrics.frechet_distance(*subject.features)}


class KernelDistance(Metric):
    """Unbiased squared MMD of features, KID, and its spread over 100 subsets."""

    figures: ClassVar[Figures] = {"kernel_distance": "lower", "kernel_distance_std": None}
    by_features, rows, least, bias = True, 2, 1000, "uncertain: see its standard deviation"

    def compute(self, subject: MeasuredModel) -> dict[str, float]:
        distance, spread = metrics.kernel_distance(*subject.features)
        return {"kernel_distance": distance, "kernel_distance_std": spread}


class PrecisionRecall(Metric):
    """Shares of drawn and of real rows within the other set's manifold, of the three nearest neighbours."""

    figures: ClassVar[Figures] = {"precision": "higher", "recall": "higher"}
    by_features, rows, least, bias = True, 4, 5000, "a loose estimate of the manifolds"

    def compute(self, subject: MeasuredModel) -> dict[str, float]:
        precision, recall = metrics.precision_recall(*subject.features, k=3, radii=subject.radii(3))
        return {"precision": precision, "recall": recall}


class DensityCoverage(Metric):
    """The idea of precision and recall, steadier against outliers, by the five nearest neighbours of real rows."""

    figures: ClassVar[Figures] = {"density": "higher", "coverage": "higher"}
    by_features, rows, least = True, 6, 5000
    bias = "lower in coverage, the more real rows there are for each drawn one"

    def compute(self, subject: MeasuredModel) -> dict[str, float]:
        density, coverage = metrics.density_coverage(*subject.features, k=5, radii=subject.radii(5))
        return {"density": density, "coverage": coverage}


class SlicedWasserstein(Metric):
    """Mean Wasserstein distance along 512 directions, of vectors, in standard deviations of the training data."""

    figures: ClassVar[Figures] = {"sliced_wasserstein": "lower"}
    least, bias = 5000, "biased upwards"

    def missing(self, subject: MeasuredModel) -> str | None:
        spec = subject.reference.spec
        if len(spec.modality.shape) == 1:
            return None
        return f"is for vectors, and '{spec.target}' is {spec.modality.told()}; the others compare its features"

    def compute(self, subject: MeasuredModel) -> dict[str, float]:
        real = _numbers(subject, subject.reference, subject.reference_rows)
        return {"sliced_wasserstein": metrics.sliced_wasserstein(real, subject.numbers(subject.drawn))}


class Memorised(Metric):
    """Share of drawn rows that are closer to a training row than any held-out row is."""

    figures: ClassVar[Figures] = {"memorised": "lower"}

    def missing(self, subject: MeasuredModel) -> str | None:
        return subject.no_unseen

    def compute(self, subject: MeasuredModel) -> dict[str, float]:
        training = _numbers(subject, subject.trained_on, range(subject.trained_on.num_rows))
        unseen = _numbers(subject, subject.unseen, subject.unseen_rows)
        return {"memorised": metrics.memorised(subject.numbers(subject.drawn), training, unseen)}


class Reconstruction(Metric):
    """Mean squared error of held-out rows that went through an autoencoder."""

    figures: ClassVar[Figures] = {"reconstruction_mse": "lower"}

    def missing(self, subject: MeasuredModel) -> str | None:
        return _without(Autoencoder, subject) or subject.no_unseen

    @torch.inference_mode()
    def compute(self, subject: MeasuredModel) -> dict[str, float]:
        model, data = subject.model, subject.unseen
        assert isinstance(model, Autoencoder)
        low, high = data.spec.modality.bounds or (0.0, 1.0)  # of pixels in [0, 1]; of standardised numbers as they are
        errors = []
        for rows in _blocks(subject.unseen_rows[:MOST_RECONSTRUCTED]):
            x, given = data.x(rows).to(subject.model.device), subject.given(data, rows)
            error = (model.decode(model.encode(x, given), given) - x).square()
            errors.append(error.mean(tuple(range(1, x.ndim))).cpu() / (high - low) ** 2)
        return {"reconstruction_mse": float(torch.cat(errors).double().mean())}


class BitsPerDimension(Metric):
    """Mean bits per number of held-out rows, given their conditions. Computed when it is named, as a diffusion model takes
    its full chain for each row."""

    figures: ClassVar[Figures] = {"bits_per_dimension": "lower"}
    by_default = False

    def missing(self, subject: MeasuredModel) -> str | None:
        return _without(Likelihood, subject) or subject.no_unseen

    @torch.inference_mode()
    def compute(self, subject: MeasuredModel) -> dict[str, float]:
        model, data = subject.model, subject.unseen
        assert isinstance(model, Likelihood)
        bits = []
        unseen = subject.unseen_rows[:MOST_BITS]
        for rows in _blocks(unseen):
            batch = Batch(data.x(rows).to(subject.model.device), subject.given(data, rows))
            generator = torch.Generator().manual_seed(seed_for(subject.seed, int(rows[0])))
            bits.append(model.bits_per_dimension(batch, generator=generator).cpu())
        subject.notes.append(f"bits_per_dimension: of {len(unseen)} rows of split {data.spec.split}")
        return {"bits_per_dimension": float(torch.cat(bits).double().mean())}


class Cost(Metric):
    """Parameters, and what drawing takes: evaluations of the networks a row, rows a second."""

    figures: ClassVar[Figures] = {"parameters": None, "network_evaluations": None, "rows_per_second": None}

    def compute(self, subject: MeasuredModel) -> dict[str, float]:
        """Count parameters; draw a batch to count network evaluations a row, and rows a second."""
        model, n = subject.model, min(subject.n, 64)
        evaluations = _evaluations(model, lambda: subject.draw_again(n)) / n
        started = time.perf_counter()
        subject.draw_again(n)
        return {
            "parameters": float(sum(p.numel() for p in model.parameters())),
            "network_evaluations": evaluations,
            "rows_per_second": n / (time.perf_counter() - started),
        }


def _evaluations(model: Model, draw: Callable[[], object]) -> int:
    """Return how many rows go through the model's networks while it draws: of each, through most of its layers, as a network
    may be entered by any method, or a part of it at a time. What embeds conditions is no network."""
    rows: dict[nn.Module, int] = {}

    def count(layer: nn.Module, args: tuple[Any, ...], output: object) -> None:
        rows[layer] = rows.get(layer, 0) + len(next((arg for arg in args if isinstance(arg, Tensor)), ()))

    networks = [child for child in model.children() if not isinstance(child, Conditioner)]
    layers = [[layer for layer in network.modules() if list(layer.parameters(recurse=False))] for network in networks]
    hooks = [layer.register_forward_hook(count) for network in layers for layer in network]
    try:
        draw()
    finally:
        for hook in hooks:
            hook.remove()
    used = [[rows[layer] for layer in network if layer in rows] for network in layers]
    return sum(median_low(counts) for counts in used if counts)


def _without(capability: type[Any], subject: MeasuredModel) -> str | None:
    return None if isinstance(subject.model, capability) else f"the model is no {capability.__name__}"


def _numbers(subject: MeasuredModel, data: RealRows, rows: Iterable[int]) -> Tensor:
    """Return elements as rows (n, d) of numbers; see `MeasuredModel.numbers`."""
    return torch.cat([subject.numbers(data.own(part)) for part in np.array_split(list(rows), 32) if len(part)])


def _blocks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Split row numbers into batches."""
    return np.array_split(rows, -(-len(rows) // BATCH_SIZE))
