"""Each metric against a reference implementation, a closed form or a count by hand; and what must not change it."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

import genhub
from genhub.evaluation import by_rows, metrics


def normal(n: int, d: int, seed: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * std + mean


def test_frechet_distance_of_two_gaussians_has_a_closed_form():
    a, b = normal(200_000, 3, 0, mean=0.5, std=2.0), normal(200_000, 3, 1, mean=-0.5, std=1.0)
    assert metrics.frechet_distance(a, b) == pytest.approx(3 * (1.0 + (2.0 - 1.0) ** 2), rel=0.02)


def test_frechet_and_kernel_distance_are_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    kid = pytest.importorskip("torchmetrics.image.kid")
    rows = torch.nn.Flatten()
    real, generated = (torch.rand(300, 3, 4, 4, generator=torch.Generator().manual_seed(s)) ** (1 + s) for s in (0, 1))
    distance = fid.FrechetInceptionDistance(feature=_Flat(), normalize=True, input_img_size=(3, 4, 4)).set_dtype(
        torch.float64
    )
    kernel = kid.KernelInceptionDistance(feature=_Flat(), normalize=True, subsets=1, subset_size=300)
    for metric in (distance, kernel):
        metric.update(real.double(), real=True)
        metric.update(generated.double(), real=False)
    a, b = rows(real), rows(generated)
    assert metrics.frechet_distance(a, b) == pytest.approx(float(distance.compute()), rel=1e-4)
    ours, spread = metrics.kernel_distance(a, b, subsets=1, subset_size=300)  # the whole sets, in any order
    assert ours == pytest.approx(float(kernel.compute()[0]), rel=1e-4)
    assert spread == 0


class _Flat(torch.nn.Module):
    num_features = 48

    def forward(self, images):
        return (images / 255 if images.dtype == torch.uint8 else images).flatten(1)


def test_manifolds_counted_by_hand():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii to the nearest other: 1, 1, 1, 8
    generated = torch.tensor([[0.5], [2.5], [30.0]])  # radii: 2, 2, 27.5
    assert metrics.kth_distances(real, 1).tolist() == [1, 1, 1, 8]
    precision, recall = metrics.precision_recall(real, generated, k=1)
    assert precision == pytest.approx(2 / 3)  # 0.5 and 2.5 are inside, 30 is not
    assert recall == 1.0  # 0, 1, 2 within 2 of 0.5 or 2.5; 10 within 27.5 of 30
    density, coverage = metrics.density_coverage(real, generated, k=1)
    assert density == pytest.approx((2 + 2) / 3)  # 0.5 in the balls of 0 and 1; 2.5 in those of 2 and 10
    assert coverage == pytest.approx(4 / 4)
    assert metrics.density_coverage(real, generated[2:], k=1) == (0.0, 0.0)


def test_a_set_against_itself_and_orders():
    real = normal(400, 8, 0)
    assert metrics.frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert metrics.precision_recall(real, real) == (1.0, 1.0)
    assert metrics.density_coverage(real, real)[1] == 1.0
    other = normal(300, 8, 1, mean=0.3)
    mixed = other[torch.randperm(300)]
    for metric in (metrics.frechet_distance, metrics.precision_recall, metrics.density_coverage):
        assert metric(real, other) == pytest.approx(metric(real, mixed), rel=1e-9)
    assert metrics.kernel_distance(real, other) == metrics.kernel_distance(real, other)
    same, apart = metrics.kernel_distance(real, normal(400, 8, 2))[0], metrics.kernel_distance(real, other)[0]
    assert abs(same) < apart / 3


def test_blocks_do_not_change_a_figure(monkeypatch):
    real, other = normal(500, 4, 0), normal(450, 4, 1)
    whole = metrics.precision_recall(real, other), metrics.density_coverage(real, other)
    monkeypatch.setattr(by_rows, "BLOCK", 7)
    assert (metrics.precision_recall(real, other), metrics.density_coverage(real, other)) == whole


def test_sliced_wasserstein_has_closed_forms():
    """Rows that are shifted; Gaussians, of which it is the root of the mean of what the directions tell; one number a row."""
    rows = normal(500, 6, 0)
    shift = torch.tensor([3.0, 0, 0, 0, 0, 4.0])
    assert metrics.sliced_wasserstein(rows, rows + shift) == pytest.approx(5 / math.sqrt(6), rel=0.05)
    assert metrics.sliced_wasserstein(rows, rows[torch.randperm(500)]) == pytest.approx(0, abs=1e-9)
    a, b = normal(20_000, 3, 1, mean=0.5, std=2.0), normal(16_000, 3, 2, mean=-0.5, std=1.0)
    assert metrics.sliced_wasserstein(a, b, directions=64) == pytest.approx(math.sqrt(1.0 + (2.0 - 1.0) ** 2), rel=0.02)
    # Of one number, by hand and by the quantiles.
    one, other = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]])
    assert metrics.sliced_wasserstein(one, other) == pytest.approx(1.0)
    assert metrics.sliced_wasserstein(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[1.0], [2.0]])) == pytest.approx(
        math.sqrt((2 * 1 + 1 * 0 + 1 * 1 + 2 * 9) / 6)
    )
    for x, y in [(normal(70, 1, 3), normal(30, 1, 4, mean=1.0)), (normal(50, 1, 5), normal(50, 1, 6))]:
        times = (torch.arange(210_000) + 0.5) / 210_000
        quantiles = (z[:, 0].sort().values[(times * len(z)).long()] for z in (x, y))
        exact = math.sqrt(float((next(quantiles) - next(quantiles)).double().square().mean()))
        assert metrics.sliced_wasserstein(x, y) == pytest.approx(exact, rel=1e-4)
    with pytest.raises(genhub.InputError, match="needs a direction or more, not 0"):
        metrics.sliced_wasserstein(rows, rows, directions=0)


def test_inception_score_by_hand():
    certain = torch.eye(4).repeat(5, 1)
    assert metrics.inception_score(certain) == pytest.approx(4)
    assert metrics.inception_score(torch.full((10, 4), 0.25)) == pytest.approx(1)
    assert metrics.inception_score(certain[:1].repeat(9, 1)) == pytest.approx(1)


def test_copies_are_found():
    training, held_out = normal(200, 5, 0), normal(200, 5, 1)
    copies = training[:30] + 1e-4
    assert metrics.memorised(torch.cat([copies, normal(70, 5, 2)]), training, held_out) == pytest.approx(0.3, abs=0.02)
    assert metrics.memorised(held_out, training, held_out) == 0
    assert metrics.nearest_distances(training[:3], training).max() < 1e-6


# What they need

NORMAL = normal(40, 6, 0)
CALLS = {
    "frechet_distance": (lambda a, b: metrics.frechet_distance(a, b), 2),
    "frechet_infinity": (lambda a, b: metrics.frechet_infinity(a, b), 2),
    "kernel_distance": (lambda a, b: metrics.kernel_distance(a, b), 2),
    "precision_recall": (lambda a, b: metrics.precision_recall(a, b, k=3), 4),
    "density_coverage": (lambda a, b: metrics.density_coverage(a, b, k=5), 6),
    "sliced_wasserstein": (lambda a, b: metrics.sliced_wasserstein(a, b, directions=4), 1),
    "inception_score": (lambda a, b: metrics.inception_score(a.softmax(-1)), 1),
    "memorised": (lambda a, b: metrics.memorised(b, a, b), 1),
    "nearest_distances": (lambda a, b: metrics.nearest_distances(a, b), 1),
    "kth_distances": (lambda a, b: metrics.kth_distances(a, 3), 4),
}
"""Each public function of (real, generated), and how many real rows it needs."""


def test_every_public_metric_is_tried():
    public = {name for name, found in vars(metrics).items() if inspect.isfunction(found) and not name.startswith("_")}
    assert public == CALLS.keys()


def spoilt(value: float) -> torch.Tensor:
    rows = NORMAL.clone()
    rows[7, 2] = value
    return rows


@pytest.mark.parametrize("name", CALLS)
def test_rows_that_a_metric_can_not_use_are_said(name):
    """Every metric by every set of rows that it can't be computed from; and it is computed from as few as it names."""
    compute, least = CALLS[name]
    compute(NORMAL[:least], NORMAL)
    compute(NORMAL.half(), NORMAL.half())
    for count in range(least):
        with pytest.raises(genhub.InputError, match=rf"needs {least} rows or more; \w+ has {count}$"):
            compute(NORMAL[:count], NORMAL)
    for rows, needs in [
        (spoilt(math.nan), "finite"), (spoilt(math.inf), "finite"), (spoilt(-math.inf), "finite"),
        (NORMAL.double() * 1e80, "finite"), (NORMAL[:, 0], r"\(n, d\)"), (NORMAL[None], r"\(n, d\)"), (NORMAL[:, :0], r"\(n, d\)"),
        (NORMAL[:, :5], "one width"), (NORMAL > 0, r"\(n, d\)"), (NORMAL + 1j, r"\(n, d\)"),
    ]:  # fmt: skip
        alone = name in ("inception_score", "kth_distances") and needs == "one width"
        if alone or (name == "inception_score" and rows.dtype != torch.float32):  # softmax: no such rows
            continue
        if name == "inception_score" and rows.isinf().any():
            continue
        with pytest.raises(genhub.InputError, match=needs) as raised:
            compute(rows, NORMAL)
        assert "\n" not in str(raised.value)


def test_other_things_that_metrics_need():
    with pytest.raises(genhub.InputError, match="inception_score: needs probabilities"):
        metrics.inception_score(NORMAL)
    with pytest.raises(genhub.InputError, match="inception_score: needs probabilities"):
        metrics.inception_score(torch.full((3, 4), 0.5))
    for metric in (metrics.precision_recall, metrics.density_coverage):
        with pytest.raises(genhub.InputError, match="a radius for each of the 40 real rows"):
            metric(NORMAL, NORMAL, radii=torch.ones(39))
        with pytest.raises(genhub.InputError, match="k of 1 or more, not 0"):
            metric(NORMAL, NORMAL, k=0, radii=torch.ones(40))
    for given in ({"subsets": 0}, {"subset_size": 1}):
        with pytest.raises(genhub.InputError, match="needs a subset of 2 rows or more"):
            metrics.kernel_distance(NORMAL, NORMAL, **given)
