"""Distances between generated and real elements, as functions of features (n, d): one row an element.

All are computed in float64, so that a figure does not depend on how many were compared at once. Each names its
source; the tests hold it to a reference implementation or a closed form. Rows that a figure can't be computed from are an
InputError that says what it needs: finite numbers, so many rows, and as wide as the others.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from genhub.errors import InputError

BLOCK = 1024
"""Number of rows whose distances are held at once."""
DIRECTIONS = 16
"""Number of directions along which rows are sorted at once."""
LARGEST = 1e50
"""Largest size of a feature: its sixth power, which the kernel distance takes, is still a float64."""


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Return |m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^1/2), FID, between Gaussian fits (Heusel et al. 2017, eq. 6).

    Biased upwards with few rows, the more so the more features there are (Chong & Forsyth 2020).
    """
    _check("frechet_distance", real=(real, 2), generated=(generated, 2))
    real, generated = real.double(), generated.double()
    covariances = [torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1]) for rows in (real, generated)]
    values, vectors = torch.linalg.eigh(covariances[0])
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    # The trace of (A B)^1/2 is that of (A^1/2 B A^1/2)^1/2, which is symmetric.
    cross = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    shift = (real.mean(0) - generated.mean(0)).square().sum()
    return float(shift + covariances[0].trace() + covariances[1].trace() - 2 * cross)


def kernel_distance(
    real: Tensor, generated: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the unbiased squared MMD with the kernel (x.y / d + 1)^3, KID (Binkowski et al. 2018, eq. 4): its mean over
    random subsets, and their standard deviation."""
    _check("kernel_distance", real=(real, 2), generated=(generated, 2))
    if subsets < 1 or subset_size < 2:
        raise InputError(f"kernel_distance: needs a subset of 2 rows or more, not {subsets} of {subset_size}")
    size = min(subset_size, len(real), len(generated))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(subsets):
        x, y = (rows[torch.randperm(len(rows), generator=generator)[:size]].double() for rows in (real, generated))
        xx, yy, xy = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        found.append(within - 2 * xy.mean())
    distances = torch.stack(found)
    return float(distances.mean()), float(distances.std(correction=0))


def precision_recall(real: Tensor, generated: Tensor, k: int = 3, *, radii: Tensor | None = None) -> tuple[float, float]:
    """Return the share of generated rows within the real rows' manifold, and of real rows within the generated ones'
    (Kynkaanniemi et al. 2019, eq. 2 and 3); a manifold is the union of balls that reach each row's k-th neighbour.
    `radii` are kth_distances(real, k), where they are known: they take longest."""
    _check("precision_recall", real=(real, k + 1), generated=(generated, k + 1))
    radii = _radii("precision_recall", real, k, radii)
    return _share_inside(generated, real, radii), _share_inside(real, generated, kth_distances(generated, k))


def density_coverage(real: Tensor, generated: Tensor, k: int = 5, *, radii: Tensor | None = None) -> tuple[float, float]:
    """Return density and coverage (Naeem et al. 2020, eq. 4 and 5). Density: in how many of the real rows' balls a generated
    row lies, over k; about 1 for real data, not bounded by it. Coverage: the share of real rows' balls that hold a generated
    row. `radii` as above."""
    _check("density_coverage", real=(real, k + 1), generated=(generated, 1))
    radii = _radii("density_coverage", real, k, radii)
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for block in _distances(generated, real):
        hits = block <= radii
        inside += int(hits.sum())
        covered |= hits.any(0)
    return inside / (k * len(generated)), float(covered.double().mean())


def sliced_wasserstein(real: Tensor, generated: Tensor, *, directions: int = 512, seed: int = 0) -> float:
    """Return the root of the mean squared Wasserstein-2 distance of what is left of the rows along random directions, which
    are always the same ones (Bonneel et al. 2015, eq. 8). Rows shifted by v lie |v| / sqrt(d) apart.

    Biased upwards with few rows, by about the root of their number.
    """
    _check("sliced_wasserstein", real=(real, 1), generated=(generated, 1))
    if directions < 1:
        raise InputError(f"sliced_wasserstein: needs a direction or more, not {directions}")
    n, m = len(real), len(generated)
    generator = torch.Generator().manual_seed(seed)
    ways = torch.nn.functional.normalize(torch.randn(directions, real.shape[1], generator=generator, dtype=torch.float64))
    # Along a line, the distance is that of the quantiles: steps, here of both sets, in units of 1 / (n m).
    ends = torch.unique(torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]))
    widths = ends.diff(prepend=ends.new_zeros(1)).double() / (n * m)
    squares = []
    for some in torch.split(ways, DIRECTIONS):
        x, y = ((rows.double().cpu() @ some.T).sort(0).values for rows in (real, generated))
        squares.append((x[(ends - 1) // m] - y[(ends - 1) // n]).square().T @ widths)
    return float(torch.cat(squares).mean().sqrt())


def inception_score(probabilities: Tensor) -> float:
    """Return exp(E KL(p(y|x) || p(y))) of a classifier's probabilities (n, classes), in [1, classes] (Salimans et al.
    2016)."""
    _check("inception_score", probabilities=(probabilities, 1))
    p = probabilities.double()
    if bool((p < 0).any()) or not torch.allclose(p.sum(1), torch.ones(len(p), dtype=p.dtype, device=p.device), atol=1e-3):
        raise InputError("inception_score: needs probabilities: rows of numbers from 0 on that add up to 1")
    marginal = p.mean(0, keepdim=True)
    return float((torch.special.xlogy(p, p) - torch.special.xlogy(p, marginal.expand_as(p))).sum(1).mean().exp())


def memorised(generated: Tensor, training: Tensor, held_out: Tensor) -> float:
    """Return the share of generated rows that lie closer to a training row than any held-out row does: near copies."""
    _check("memorised", generated=(generated, 1), training=(training, 1), held_out=(held_out, 1))
    return float((nearest_distances(generated, training) < nearest_distances(held_out, training).min()).double().mean())


def nearest_distances(rows: Tensor, others: Tensor) -> Tensor:
    """Return the Euclidean distance (n,) of each row to the nearest of `others`."""
    _check("nearest_distances", rows=(rows, 1), others=(others, 1))
    return torch.cat([block.min(1).values for block in _distances(rows, others)])


def kth_distances(rows: Tensor, k: int) -> Tensor:
    """Return the distance (n,) of each row to its k-th nearest other row."""
    if k < 1:
        raise InputError(f"needs a neighbour to measure to, so k of 1 or more, not {k}")
    _check("kth_distances", rows=(rows, k + 1))
    return torch.cat([block.topk(k + 1, largest=False).values[:, -1] for block in _distances(rows, rows)])


def _check(metric: str, **sets: tuple[Tensor, int]) -> None:
    """
    Raises:
        InputError: a set of rows has fewer than the number beside it, is not (n, d) of finite numbers, or of another width
            than the first.
    """
    widths: dict[str, int] = {}
    for name, (rows, least) in sets.items():
        shape = tuple(rows.shape)
        if len(shape) != 2 or shape[1] < 1 or rows.is_complex() or rows.dtype == torch.bool:
            raise InputError(f"{metric}: needs rows of numbers, (n, d); {name} is {shape} of {rows.dtype}")
        if shape[0] < least:
            raise InputError(f"{metric}: needs {least} rows or more; {name} has {shape[0]}")
        if not rows.abs().max().item() <= LARGEST:  # NaN is not, either
            raise InputError(f"{metric}: needs finite numbers of at most {LARGEST:g}; in {name} there are others")
        widths[name] = shape[1]
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise InputError(f"{metric}: needs rows of one width; these have: {said}")


def _radii(metric: str, real: Tensor, k: int, radii: Tensor | None) -> Tensor:
    if radii is None or k < 1:
        return kth_distances(real, k)
    if radii.shape != (len(real),):
        raise InputError(f"{metric}: needs a radius for each of the {len(real)} real rows; radii are {tuple(radii.shape)}")
    return radii


def _share_inside(rows: Tensor, centres: Tensor, radii: Tensor) -> float:
    return float(torch.cat([(block <= radii).any(1) for block in _distances(rows, centres)]).double().mean())


def _distances(rows: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Yield the distances of each row to all others, in blocks (up to BLOCK, m). In float64, as matrix products lose the
    small ones to cancellation in float32."""
    others = others.double()
    for block in torch.split(rows.double(), BLOCK):
        yield torch.cdist(block, others, compute_mode="use_mm_for_euclid_dist")
