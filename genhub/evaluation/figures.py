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
from genhub.evaluation import by_rows
from genhub.ground.randomness import seed_for
from genhub.interfaces.capabilities import Autoencoder, Likelihood
from genhub.interfaces.metric import Figures, MeasuredModel, Metric, RealRows
from genhub.interfaces.model import Batch, Model
from genhub.sampling.draw import BATCH_SIZE

MOST_RECONSTRUCTED, MOST_BITS = 10_000, 256
"""Most held-out rows that are reconstructed, and measured in bits: a diffusion model's take its full chain for each."""


class FrechetDistance(Metric):
    """Distance between Gaussian fits of features, FID by whichever extractor: from the real rows, and from those that were
    not trained on."""

    figures: ClassVar[Figures] = {"frechet_distance": "lower", "frechet_distance_held_out": "lower"}
    by_features, rows, least, bias = True, 2, 5000, "biased upwards"
    has_floor = True

    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        real, drawn = subject.features
        found: dict[str, float | Tensor] = {"frechet_distance": by_rows.frechet_distance(real, drawn)}
        if subject.no_unseen is None and len(subject.unseen_rows) >= self.rows:
            found["frechet_distance_held_out"] = by_rows.frechet_distance(subject.unseen_features, drawn)
        return found


class FrechetInfinity(Metric):
    """Frechet distance of infinitely many drawn rows, FID-infinity: a line through the distances of fewer and fewer."""

    figures: ClassVar[Figures] = {"frechet_infinity": "lower"}
    by_features, rows, least, bias = True, 2 * by_rows.PARTS, 5000, "uncertain: see its interval"
    has_floor = True

    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        real, drawn = subject.features
        if (part := len(drawn) // by_rows.PARTS) <= drawn.shape[1]:
            few = f"a part of {part} rows has no more rows than features, {drawn.shape[1]}"
            subject.notes.append(f"frechet_infinity: still biased, as {few}")
        return {"frechet_infinity": by_rows.frechet_infinity(real, drawn)}


class KernelDistance(Metric):
    """Unbiased squared MMD of features, KID, and its spread over 100 subsets."""

    figures: ClassVar[Figures] = {"kernel_distance": "lower", "kernel_distance_std": None}
    by_features, rows, least, bias = True, 2, 1000, "uncertain: see its standard deviation"
    has_floor = True

    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        found, influence = by_rows.kernel_distances(*subject.features, subsets=100, subset_size=1000, seed=0)
        return {"kernel_distance": found.mean() + influence, "kernel_distance_std": float(found.std(correction=0))}


class PrecisionRecall(Metric):
    """Shares of drawn and of real rows within the other set's manifold, of the three nearest neighbours."""

    figures: ClassVar[Figures] = {"precision": "higher", "recall": "higher"}
    by_features, rows, least, bias = True, 4, 5000, "a loose estimate of the manifolds"
    has_floor = True

    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        precision, recall = by_rows.precision_recall(*subject.features, k=3, radii=subject.radii(3))
        return {"precision": precision, "recall": recall}


class DensityCoverage(Metric):
    """The idea of precision and recall, steadier against outliers, by the five nearest neighbours of real rows."""

    figures: ClassVar[Figures] = {"density": "higher", "coverage": "higher"}
    by_features, rows, least = True, 6, 5000
    bias = "lower in coverage, the more real rows there are for each drawn one"
    has_floor = True

    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        density, coverage = by_rows.density_coverage(*subject.features, k=5, radii=subject.radii(5))
        return {"density": density, "coverage": coverage}


class SlicedWasserstein(Metric):
    """Mean Wasserstein distance along 512 directions, of vectors, in standard deviations of the training data."""

    figures: ClassVar[Figures] = {"sliced_wasserstein": "lower"}
    least, bias, has_floor = 5000, "biased upwards", True

    def missing(self, subject: MeasuredModel) -> str | None:
        spec = subject.reference.spec
        if len(spec.modality.shape) == 1:
            return None
        return f"is for vectors, and '{spec.target}' is {spec.modality.told()}; the others compare its features"

    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        real, drawn = _numbers(subject, subject.reference, subject.reference_rows), subject.numbers(subject.drawn)
        return {"sliced_wasserstein": by_rows.sliced_wasserstein(real, drawn, directions=512, seed=0)}


class Memorised(Metric):
    """Share of drawn rows that are closer to a training row than any held-out row is."""

    figures: ClassVar[Figures] = {"memorised": "lower"}

    def missing(self, subject: MeasuredModel) -> str | None:
        return subject.no_unseen

    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        training = _numbers(subject, subject.trained_on, range(subject.trained_on.num_rows))
        unseen = _numbers(subject, subject.unseen, subject.unseen_rows)
        return {"memorised": by_rows.memorised(subject.numbers(subject.drawn), training, unseen)}


class Reconstruction(Metric):
    """Mean squared error of held-out rows that went through an autoencoder."""

    figures: ClassVar[Figures] = {"reconstruction_mse": "lower"}

    def missing(self, subject: MeasuredModel) -> str | None:
        return _without(Autoencoder, subject) or subject.no_unseen

    @torch.inference_mode()
    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        model, data = subject.model, subject.unseen
        assert isinstance(model, Autoencoder)
        low, high = data.spec.modality.bounds or (0.0, 1.0)  # of pixels in [0, 1]; of standardised numbers as they are
        errors = []
        for rows in _blocks(subject.unseen_rows[:MOST_RECONSTRUCTED]):
            x, given = data.x(rows).to(subject.model.device), subject.given(data, rows)
            error = (model.decode(model.encode(x, given), given) - x).square()
            errors.append(error.mean(tuple(range(1, x.ndim))).cpu() / (high - low) ** 2)
        return {"reconstruction_mse": torch.cat(errors)}


class BitsPerDimension(Metric):
    """Mean bits per number of held-out rows, given their conditions. Computed when it is named, as a diffusion model takes
    its full chain for each row."""

    figures: ClassVar[Figures] = {"bits_per_dimension": "lower"}
    by_default = False

    def missing(self, subject: MeasuredModel) -> str | None:
        return _without(Likelihood, subject) or subject.no_unseen

    @torch.inference_mode()
    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
        model, data = subject.model, subject.unseen
        assert isinstance(model, Likelihood)
        bits = []
        unseen = subject.unseen_rows[:MOST_BITS]
        for rows in _blocks(unseen):
            batch = Batch(data.x(rows).to(subject.model.device), subject.given(data, rows))
            generator = torch.Generator().manual_seed(seed_for(subject.seed, int(rows[0])))
            bits.append(model.bits_per_dimension(batch, generator=generator).cpu())
        subject.notes.append(f"bits_per_dimension: of {len(unseen)} rows of split {data.spec.split}")
        return {"bits_per_dimension": torch.cat(bits)}


class Cost(Metric):
    """Parameters, and what drawing takes: evaluations of the networks a row, rows a second."""

    figures: ClassVar[Figures] = {"parameters": None, "network_evaluations": None, "rows_per_second": None}

    def compute(self, subject: MeasuredModel) -> dict[str, float | Tensor]:
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
