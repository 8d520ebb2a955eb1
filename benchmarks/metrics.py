"""What each metric costs, and how far it is from a reference implementation.

    python benchmarks/metrics.py differences
    python benchmarks/metrics.py seconds --data path/to/mnist [-n 10000]

`differences` compares every metric with another implementation (torchmetrics, scipy, scikit-learn's nearest neighbours) on random
features, 5 seeds of 1,000 real and 800 generated rows of 64 numbers, and prints the largest relative difference. `seconds`
takes the metrics of n real test images beside MNIST's training images: once with nothing in the cache, once more with what is
known of the real images there. Both print a table in Markdown. Let nothing else run on the machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from genhub.data.open import load_data
from genhub.evaluation import metrics
from genhub.evaluation.chosen import metric_named
from genhub.evaluation.measurement import Measurement
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.registry import MODELS, load_class
from genhub.sampling.request import Drawing

TAKEN = ("frechet_distance", "kernel_distance", "precision_recall", "density_coverage", "label_entropy", "memorised")


# Differences


def rows(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(64, 64, generator=generator) / 8
    return (torch.randn(1000, 64, generator=generator) @ mix, torch.randn(800, 64, generator=generator) @ mix * 1.1 + 0.05)


def frechet_of_torchmetrics(a: Tensor, b: Tensor) -> float:
    from torchmetrics.image.fid import _compute_fid

    a, b = a.double(), b.double()
    return float(_compute_fid(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T)))


def frechet_of_scipy(a: Tensor, b: Tensor) -> float:
    from scipy.linalg import sqrtm

    x, y = a.double().numpy(), b.double().numpy()
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real))


def kernel_of_torchmetrics(a: Tensor, b: Tensor) -> float:
    from torchmetrics.image.kid import poly_mmd

    return float(poly_mmd(a[:800].double(), b.double()))


def manifolds_of_sklearn(a: Tensor, b: Tensor) -> Iterator[float]:
    """Precision, recall, density, coverage."""
    from sklearn.metrics import pairwise_distances
    from sklearn.neighbors import NearestNeighbors

    x, y = a.double().numpy(), b.double().numpy()

    def radii(points: np.ndarray, k: int) -> np.ndarray:
        return NearestNeighbors(n_neighbors=k + 1, algorithm="kd_tree").fit(points).kneighbors(points)[0][:, -1]

    across = pairwise_distances(y, x)
    yield float((across <= radii(x, 3)).any(1).mean())
    yield float((radii(y, 3) >= across.T).any(1).mean())
    inside = across <= radii(x, 5)
    yield float(inside.sum() / (5 * len(y)))
    yield float(inside.any(0).mean())


def score_of_scipy(logits: Tensor) -> float:
    from scipy.stats import entropy

    p = logits.double().softmax(1).numpy()
    return float(np.exp(entropy(p, p.mean(0, keepdims=True), axis=1).mean()))


def memorised_of_sklearn(generated: Tensor, training: Tensor, held_out: Tensor) -> float:
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(training.double().numpy())
    closest = nearest.kneighbors(held_out.double().numpy())[0].min()
    return float((nearest.kneighbors(generated.double().numpy())[0] < closest).mean())


def differences() -> None:
    largest: dict[tuple[str, str], float] = {}

    def note(name: str, reference: str, ours: float, theirs: float) -> None:
        difference = abs(ours - theirs) / max(abs(theirs), 1e-12) if ours != theirs else 0.0
        largest[name, reference] = max(largest.get((name, reference), 0.0), difference)

    for seed in range(5):
        a, b = rows(seed)
        note("frechet_distance", "torchmetrics", metrics.frechet_distance(a, b), frechet_of_torchmetrics(a, b))
        note("frechet_distance", "scipy's sqrtm", metrics.frechet_distance(a, b), frechet_of_scipy(a, b))
        ours = metrics.kernel_distance(a[:800], b, subsets=1, subset_size=800)[0]
        note("kernel_distance", "torchmetrics", ours, kernel_of_torchmetrics(a, b))
        found = [*metrics.precision_recall(a, b), *metrics.density_coverage(a, b)]
        for name, mine, theirs in zip(
            ("precision", "recall", "density", "coverage"), found, manifolds_of_sklearn(a, b), strict=True
        ):
            note(name, "scikit-learn's neighbours", mine, theirs)
        note("label_entropy", "scipy's entropy", metrics.inception_score(a.softmax(1)), score_of_scipy(a))
        copies = torch.cat([a[:100] + 1e-4, b])
        note(
            "memorised",
            "scikit-learn's neighbours",
            metrics.memorised(copies, a, a + 0.1),
            memorised_of_sklearn(copies, a, a + 0.1),
        )
    print("| figure | reference | largest relative difference |\n| --- | --- | --- |")
    for (name, reference), difference in largest.items():
        print(f"| `{name}` | {reference} | {difference:.1e} |")


# Seconds


def seconds(data: str, n: int, extractor: str) -> None:
    config = DataConfig(name=data)
    reference, unseen = load_data(config), load_data(config.model_copy(update={"split": "test"}))
    images = unseen.own(range(min(n, unseen.num_rows)))
    model_class = load_class(MODELS, "vae")
    model = model_class(model_class.Config(name="vae", data=reference.spec.model_data))

    def subject() -> Measurement:
        return Measurement(model, reference, unseen, extractor, Drawing(len(images)), lambda: images)

    taken: dict[str, list[float]] = {}

    def clock(name: str, function: Callable[[], object]) -> None:
        started = time.perf_counter()
        function()
        taken.setdefault(name, []).append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory() as temporary:
        os.environ["GENHUB_CACHE"] = temporary
        for _ in range(2):
            measured = subject()
            clock(f"`{extractor}`, made ready", lambda: measured.extractor)  # noqa: B023
            clock("features", lambda: measured.features)  # noqa: B023
            for name in TAKEN:
                clock(f"`{name}`", lambda: metric_named(name).compute(measured))  # noqa: B023
    real = len(subject().reference_rows)
    print(f"| {len(images):,} images beside {real:,} of MNIST | seconds, first | again |\n| --- | --- | --- |")
    for name, (first, again) in taken.items():
        print(f"| {name} | {first:.1f} | {again:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("differences", "seconds"))
    parser.add_argument("--data", help="MNIST: a folder of parquet files with the splits train and test")
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--extractor", default="probe")
    args = parser.parse_args()
    if args.what == "differences":
        differences()
    elif args.data is None:
        parser.error("seconds: give --data")
    else:
        seconds(args.data, args.n, args.extractor)


if __name__ == "__main__":
    main()
