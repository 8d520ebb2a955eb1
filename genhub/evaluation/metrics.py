"""Distances between generated and real elements, as functions of features (n, d): one row an element.

All are computed in float64, so that a figure does not depend on how many were compared at once. Each names its
source; the tests hold it to a reference implementation or a closed form. Rows that a figure can't be computed from are an
InputError that says what it needs: finite numbers, so many rows, and as wide as the others. `by_rows` has the same figures
by rows, for their intervals.
"""

from __future__ import annotations

from torch import Tensor

from genhub.evaluation import by_rows


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Return |m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^1/2), FID, between Gaussian fits (Heusel et al. 2017, eq. 6).

    Biased upwards with few rows, the more so the more features there are (Chong & Forsyth 2020).
    """
    return float(by_rows.frechet_distance(real, generated).mean())


def frechet_infinity(real: Tensor, generated: Tensor, *, seed: int = 0) -> float:
    """Return the Frechet distance of infinitely many generated rows, FID-infinity (Chong & Forsyth 2020, section 4.1): the
    bias of n rows is nearly linear in 1 / n, so a line through the distances of fewer and fewer is followed to 0. Here the
    rows are split into 1 to 5 random parts, and each point of the line is the mean of its parts'.

    Far less biased where parts have more rows than there are features; what the real rows' number adds stays.
    """
    return float(by_rows.frechet_infinity(real, generated, seed=seed).mean())


def kernel_distance(
    real: Tensor, generated: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the unbiased squared MMD with the kernel (x.y / d + 1)^3, KID (Binkowski et al. 2018, eq. 4): its mean over
    random subsets, and their standard deviation."""
    found, _ = by_rows.kernel_distances(real, generated, subsets=subsets, subset_size=subset_size, seed=seed)
    return float(found.mean()), float(found.std(correction=0))


def precision_recall(real: Tensor, generated: Tensor, k: int = 3, *, radii: Tensor | None = None) -> tuple[float, float]:
    """Return the share of generated rows within the real rows' manifold, and of real rows within the generated ones'
    (Kynkaanniemi et al. 2019, eq. 2 and 3); a manifold is the union of balls that reach each row's k-th neighbour.
    `radii` are kth_distances(real, k), where they are known: they take longest."""
    precision, recall = by_rows.precision_recall(real, generated, k, radii=radii)
    return float(precision.mean()), float(recall.mean())


def density_coverage(real: Tensor, generated: Tensor, k: int = 5, *, radii: Tensor | None = None) -> tuple[float, float]:
    """Return density and coverage (Naeem et al. 2020, eq. 4 and 5). Density: in how many of the real rows' balls a generated
    row lies, over k; about 1 for real data, not bounded by it. Coverage: the share of real rows' balls that hold a generated
    row. `radii` as above."""
    density, coverage = by_rows.density_coverage(real, generated, k, radii=radii)
    return float(density.mean()), float(coverage.mean())


def sliced_wasserstein(real: Tensor, generated: Tensor, *, directions: int = 512, seed: int = 0) -> float:
    """Return the root of the mean squared Wasserstein-2 distance of what is left of the rows along random directions, which
    are always the same ones (Bonneel et al. 2015, eq. 8). Rows shifted by v lie |v| / sqrt(d) apart.

    Biased upwards with few rows, by about the root of their number.
    """
    return float(by_rows.sliced_wasserstein(real, generated, directions=directions, seed=seed).mean())


def inception_score(probabilities: Tensor) -> float:
    """Return exp(E KL(p(y|x) || p(y))) of a classifier's probabilities (n, classes), in [1, classes] (Salimans et al.
    2016)."""
    return float(by_rows.inception_score(probabilities).mean())


def memorised(generated: Tensor, training: Tensor, held_out: Tensor) -> float:
    """Return the share of generated rows that lie closer to a training row than any held-out row does: near copies."""
    return float(by_rows.memorised(generated, training, held_out).mean())


def nearest_distances(rows: Tensor, others: Tensor) -> Tensor:
    """Return the Euclidean distance (n,) of each row to the nearest of `others`."""
    return by_rows.nearest_distances(rows, others)


def kth_distances(rows: Tensor, k: int) -> Tensor:
    """Return the distance (n,) of each row to its k-th nearest other row."""
    return by_rows.kth_distances(rows, k)
