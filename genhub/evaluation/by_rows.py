"""The figures of `metrics` as a value for each drawn row, (n,) float64, whose mean is the figure.

A share or a mean has its rows' own values. Any other figure is linearised: a row's value is the figure plus the row's
influence on it, by how much the figure moves when the row counts a little more (the infinitesimal jackknife, Jaeckel 1972).
The influences have mean 0, and the spread of the values tells how far the figure would move with other drawn rows. The real
rows are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genhub.errors import InputError

BLOCK = 1024
"""Number of rows whose distances are held at once."""
DIRECTIONS = 16
"""Number of directions along which rows are sorted at once."""
LARGEST = 1e50
"""Largest size of a feature: its sixth power, which the kernel distance takes, is still a float64."""
FLAT = 1e-12
"""Share of the largest variance below which a direction has none."""
PARTS = 5
"""Into as many parts at most the drawn rows are split, for a line through the Frechet distances of parts."""


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian fit of rows (n, d)."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Gaussian:
        rows = rows.double()
        return cls(rows.mean(0), torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1]))

    @cached_property
    def root(self) -> Tensor:
        """The square root of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        return root


def frechet(real: Gaussian, generated: Tensor) -> tuple[float, Tensor]:
    """Return |m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^1/2) between Gaussian fits, and each generated row's influence on
    it (n,)."""
    fit = Gaussian.of(generated)
    # The trace of (A B)^1/2 is that of (A^1/2 B A^1/2)^1/2, which is symmetric.
    values, vectors = torch.linalg.eigh(real.root @ fit.covariance @ real.root)
    spreads = values.clamp(min=0).sqrt()
    shift = real.mean - fit.mean
    distance = shift.square().sum() + real.covariance.trace() + fit.covariance.trace() - 2 * spreads.sum()
    # d tr(M^1/2) = tr(M^-1/2 dM) / 2; along a direction without variance nothing moves.
    there = values > FLAT * values.max().clamp(min=0)
    along, scale = real.root @ vectors[:, there], spreads[there].reciprocal()
    found = []
    for block in torch.split(generated, 4 * BLOCK):
        off = block.double() - fit.mean
        found.append(off.square().sum(1) - 2 * off @ shift - (off @ along).square() @ scale)
    return float(distance), _centred(torch.cat(found))


def frechet_distance(real: Tensor, generated: Tensor) -> Tensor:
    """Return the Frechet distance: see `metrics.frechet_distance`."""
    check("frechet_distance", real=(real, 2), generated=(generated, 2))
    distance, influence = frechet(Gaussian.of(real), generated)
    return distance + influence


def frechet_infinity(real: Tensor, generated: Tensor, *, seed: int = 0) -> Tensor:
    """Return the Frechet distance of infinitely many generated rows: see `metrics.frechet_infinity`."""
    check("frechet_infinity", real=(real, 2), generated=(generated, 2 * PARTS))
    fit, n = Gaussian.of(real), len(generated)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    numbers = torch.arange(1, PARTS + 1, dtype=torch.float64)
    # The least-squares line through the mean distance of k parts, over k / n: its value at 0 is this mean of them.
    off = numbers - numbers.mean()
    weights = 1 / PARTS - numbers.mean() * off / off.square().sum()
    found = torch.zeros(n, dtype=torch.float64)
    for parts, weight in enumerate(weights.tolist(), start=1):
        for rows in torch.tensor_split(order, parts):
            distance, influence = frechet(fit, generated[rows])
            found[rows] += weight * (distance + influence.cpu())
    return found


def kernel_distances(real: Tensor, generated: Tensor, *, subsets: int, subset_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the kernel distance of each random subset (subsets,), and each generated row's influence on their mean (n,)."""
    check("kernel_distance", real=(real, 2), generated=(generated, 2))
    if subsets < 1 or subset_size < 2:
        raise InputError(f"kernel_distance: needs a subset of 2 rows or more, not {subsets} of {subset_size}")
    size, n = min(subset_size, len(real), len(generated)), len(generated)
    generator = torch.Generator().manual_seed(seed)
    distances, influence = [], torch.zeros(n, dtype=torch.float64)
    for _ in range(subsets):
        chosen = [torch.randperm(len(rows), generator=generator)[:size] for rows in (real, generated)]
        x, y = (rows[some].double() for rows, some in zip((real, generated), chosen, strict=True))
        xx, yy, xy = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        distances.append(within - 2 * xy.mean())
        influence[chosen[1]] += 2 * _centred((yy.sum(1) - yy.diagonal()) / (size - 1) - xy.mean(0)).cpu()
    return torch.stack(distances), influence * (n / (subsets * size))


def precision_recall(real: Tensor, generated: Tensor, k: int = 3, *, radii: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return precision and recall: see `metrics.precision_recall`."""
    check("precision_recall", real=(real, k + 1), generated=(generated, k + 1))
    radii = _radii("precision_recall", real, k, radii)
    inside = torch.cat([(block <= radii).any(1) for block in distances(generated, real)]).double()
    reach = kth_distances(generated, k)
    held, alone = 0, torch.zeros(len(generated), dtype=torch.float64, device=generated.device)
    for block in distances(real, generated):
        hits = block <= reach
        found = hits.sum(1)
        held += int((found > 0).sum())
        alone += hits[found == 1].sum(0)
    return inside, _share_held(held, alone, len(real))


def density_coverage(real: Tensor, generated: Tensor, k: int = 5, *, radii: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return density and coverage: see `metrics.density_coverage`."""
    check("density_coverage", real=(real, k + 1), generated=(generated, 1))
    radii = _radii("density_coverage", real, k, radii)
    inside = []
    found = torch.zeros(len(real), dtype=torch.int64, device=real.device)
    first = torch.zeros_like(found)
    for number, block in enumerate(distances(generated, real)):
        hits = block <= radii
        inside.append(hits.sum(1).double() / k)
        first = torch.where(found == 0, hits.byte().argmax(0) + number * BLOCK, first)
        found += hits.sum(0)
    alone = torch.bincount(first[found == 1], minlength=len(generated)).double()
    return torch.cat(inside), _share_held(int((found > 0).sum()), alone, len(real))


def _share_held(held: int, alone: Tensor, real: int) -> Tensor:
    """Return the share of real rows that some generated row holds, by generated rows: without a row, those that it alone
    holds (n,) are lost."""
    return held / real + _centred(alone * (len(alone) / real))


def sliced_wasserstein(real: Tensor, generated: Tensor, *, directions: int, seed: int) -> Tensor:
    """Return the sliced Wasserstein distance: see `metrics.sliced_wasserstein`."""
    check("sliced_wasserstein", real=(real, 1), generated=(generated, 1))
    if directions < 1:
        raise InputError(f"sliced_wasserstein: needs a direction or more, not {directions}")
    n, m = len(real), len(generated)
    generator = torch.Generator().manual_seed(seed)
    ways = torch.nn.functional.normalize(torch.randn(directions, real.shape[1], generator=generator, dtype=torch.float64))
    # Along a line, the distance is that of the quantiles: steps, here of both sets, in units of 1 / (n m).
    ends = torch.unique(torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]))
    widths = ends.diff(prepend=ends.new_zeros(1)).double() / (n * m)
    of_real, of_drawn = (ends - 1) // m, (ends - 1) // n
    square, influence = 0.0, torch.zeros(m, dtype=torch.float64)
    for some in torch.split(ways, DIRECTIONS):
        x, (y, order) = (real.double().cpu() @ some.T).sort(0).values, (generated.double().cpu() @ some.T).sort(0)
        along = x[of_real]
        square += float(((along - y[of_drawn]).square().T @ widths).sum())
        # Kantorovich's potential, whose slope at a row is twice the way to what it is moved to.
        target = torch.zeros_like(y).index_add_(0, of_drawn, along * widths[:, None]) * m
        slope = 2 * (y - target)
        potential = torch.zeros_like(y)
        potential[1:] = ((slope[1:] + slope[:-1]) / 2 * y.diff(dim=0)).cumsum(0)
        influence += torch.zeros_like(y).scatter_(0, order, potential - potential.mean(0)).sum(1)
    distance = (square / directions) ** 0.5
    found: Tensor = distance + influence / (2 * (distance or 1.0) * directions)  # that of the root
    return found


def inception_score(probabilities: Tensor) -> Tensor:
    """Return the Inception score: see `metrics.inception_score`."""
    check("inception_score", probabilities=(probabilities, 1))
    p = probabilities.double()
    if bool((p < 0).any()) or not torch.allclose(p.sum(1), torch.ones(len(p), dtype=p.dtype, device=p.device), atol=1e-3):
        raise InputError("inception_score: needs probabilities: rows of numbers from 0 on that add up to 1")
    marginal = p.mean(0, keepdim=True)
    divergence = (torch.special.xlogy(p, p) - torch.special.xlogy(p, marginal.expand_as(p))).sum(1)
    found: Tensor = divergence.mean().exp() * (1 + _centred(divergence))
    return found


def memorised(generated: Tensor, training: Tensor, held_out: Tensor) -> Tensor:
    """Return whether each generated row is a near copy: see `metrics.memorised`."""
    check("memorised", generated=(generated, 1), training=(training, 1), held_out=(held_out, 1))
    return (nearest_distances(generated, training) < nearest_distances(held_out, training).min()).double()


def nearest_distances(rows: Tensor, others: Tensor) -> Tensor:
    """Return the Euclidean distance (n,) of each row to the nearest of `others`."""
    check("nearest_distances", rows=(rows, 1), others=(others, 1))
    return torch.cat([block.min(1).values for block in distances(rows, others)])


def kth_distances(rows: Tensor, k: int) -> Tensor:
    """Return the distance (n,) of each row to its k-th nearest other row."""
    if k < 1:
        raise InputError(f"needs a neighbour to measure to, so k of 1 or more, not {k}")
    check("kth_distances", rows=(rows, k + 1))
    return torch.cat([block.topk(k + 1, largest=False).values[:, -1] for block in distances(rows, rows)])


def check(metric: str, **sets: tuple[Tensor, int]) -> None:
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


def distances(rows: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Yield the distances of each row to all others, in blocks (up to BLOCK, m). In float64, as matrix products lose the
    small ones to cancellation in float32."""
    others = others.double()
    for block in torch.split(rows.double(), BLOCK):
        yield torch.cdist(block, others, compute_mode="use_mm_for_euclid_dist")


def _radii(metric: str, real: Tensor, k: int, radii: Tensor | None) -> Tensor:
    if radii is None or k < 1:
        return kth_distances(real, k)
    if radii.shape != (len(real),):
        raise InputError(f"{metric}: needs a radius for each of the {len(real)} real rows; radii are {tuple(radii.shape)}")
    return radii


def _centred(values: Tensor) -> Tensor:
    return values - values.mean()
