"""How far generated images are from real ones, as functions of features (n, d): one row an image.

All are computed in float64, so that a figure does not depend on how many images were compared at once. Each names its
source; the tests hold it to a reference implementation or a closed form.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1024
"""Rows whose distances are held at once."""


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """|m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^1/2) between Gaussian fits (Heusel et al. 2017, eq. 6).

    Biased upwards with few images, the more so the more features there are (Chong & Forsyth 2020).
    """
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
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3, KID (Binkowski et al. 2018, eq. 4): its mean over random
    subsets, and their standard deviation."""
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
    """The share of generated rows within the real rows' manifold, and of real rows within the generated ones'
    (Kynkaanniemi et al. 2019, eq. 2 and 3); a manifold is the union of balls that reach each row's k-th neighbour.
    `radii` are kth_distances(real, k), where they are known: they take longest."""
    radii = kth_distances(real, k) if radii is None else radii
    return _share_inside(generated, real, radii), _share_inside(real, generated, kth_distances(generated, k))


def density_coverage(real: Tensor, generated: Tensor, k: int = 5, *, radii: Tensor | None = None) -> tuple[float, float]:
    """Naeem et al. 2020, eq. 4 and 5. Density: in how many of the real rows' balls a generated row lies, over k; about 1
    for real data, not bounded by it. Coverage: the share of real rows' balls that hold a generated row. `radii` as above."""
    radii = kth_distances(real, k) if radii is None else radii
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for block in _distances(generated, real):
        hits = block <= radii
        inside += int(hits.sum())
        covered |= hits.any(0)
    return inside / (k * len(generated)), float(covered.double().mean())


def inception_score(probabilities: Tensor) -> float:
    """exp(E KL(p(y|x) || p(y))) of a classifier's probabilities (n, classes), in [1, classes] (Salimans et al. 2016)."""
    p = probabilities.double()
    marginal = p.mean(0, keepdim=True)
    return float((torch.special.xlogy(p, p) - torch.special.xlogy(p, marginal.expand_as(p))).sum(1).mean().exp())


def memorised(generated: Tensor, training: Tensor, held_out: Tensor) -> float:
    """The share of generated rows that lie closer to a training row than any held-out row does: copies, or nearly so."""
    return float((nearest_distances(generated, training) < nearest_distances(held_out, training).min()).double().mean())


def nearest_distances(rows: Tensor, others: Tensor) -> Tensor:
    """(n,) Euclidean distance of each row to the nearest of `others`."""
    return torch.cat([block.min(1).values for block in _distances(rows, others)])


def kth_distances(rows: Tensor, k: int) -> Tensor:
    """(n,) distance of each row to its k-th nearest other row."""
    return torch.cat([block.topk(k + 1, largest=False).values[:, -1] for block in _distances(rows, rows)])


def _share_inside(rows: Tensor, centres: Tensor, radii: Tensor) -> float:
    return float(torch.cat([(block <= radii).any(1) for block in _distances(rows, centres)]).double().mean())


def _distances(rows: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Distances of each row to all others, in blocks (up to BLOCK, m). In float64, as matrix products lose the small ones
    to cancellation in float32."""
    others = others.double()
    for block in torch.split(rows.double(), BLOCK):
        yield torch.cdist(block, others, compute_mode="use_mm_for_euclid_dist")
