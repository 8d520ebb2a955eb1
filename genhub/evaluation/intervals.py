"""Intervals of figures, by the spread of rows or on halves of them; no torch is seeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

Interval = tuple[float, float]
"""Low and high end of the values that a figure would have in 95 of 100 cases."""
Computed = Mapping[str, float | Tensor]
"""Figures by name, as numbers or as the values of rows (n,) whose mean is the figure."""

Z = 1.959963984540054
"""Standard deviations of a normal distribution within which 95% of it lie."""
RESAMPLES, AT_ONCE = 1000, 2**22
"""Number of bootstrap resamples, and of rows that are drawn for them at once."""


def values_of(found: Computed) -> dict[str, float]:
    """Return the figures, of rows' values their mean."""
    return {name: float(value.double().mean()) if isinstance(value, Tensor) else value for name, value in found.items()}


def intervals_of(found: Computed) -> dict[str, Interval]:
    """Return the intervals of those figures that are given as rows' values."""
    rows = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    return {name: of_mean(value) for name, value in rows.items() if len(value) > 1 and value.isfinite().all()}


def of_mean(values: Tensor) -> Interval:
    """Return the interval of the mean of rows' values (n,): the percentiles of a seeded bootstrap (Efron & Tibshirani 1993,
    chapter 13). Where all are 0 or 1 it is Wilson's (1927), which knows that none of 100 may be one of 200."""
    values, n = values.double().cpu(), len(values)
    if bool(((values == 0) | (values == 1)).all()):
        share, extra = float(values.mean()), Z**2 / n
        centre, half = share + extra / 2, Z * (share * (1 - share) / n + extra / n / 4) ** 0.5
        low, high = (centre - half) / (1 + extra), (centre + half) / (1 + extra)
        return min(max(low, 0.0), share), max(min(high, 1.0), share)
    generator = torch.Generator().manual_seed(0)
    blocks = torch.split(torch.arange(RESAMPLES), max(1, AT_ONCE // n))
    means = torch.cat([values[torch.randint(n, (len(some), n), generator=generator)].mean(1) for some in blocks])
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def halves(n: int, times: int) -> Iterator[Tensor]:
    """Yield random halves of n rows, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(times):
        yield torch.randperm(n, generator=generator)[: n // 2]


def by_halves(
    figures: Mapping[str, float], compute: Callable[[Tensor], Mapping[str, float]], n: int, times: int
) -> dict[str, Interval]:
    """Return the intervals of figures that `compute` gives of some of n rows: random halves vary about as much as other n
    rows would (the delete-half jackknife, Shao & Wu 1989). They lie around the figure itself: what half the rows make of a
    figure that is biased with few is not where it lies."""
    again = [compute(rows) for rows in halves(n, times)]
    found = {}
    for name, value in figures.items():
        others = torch.tensor([one.get(name, float("nan")) for one in again], dtype=torch.float64)
        half = Z * float(others.std()) if len(again) > 1 else float("nan")
        if half == half:
            found[name] = (value - half, value + half)
    return found
