"""The energy distance of what a model draws from real rows (Szekely & Rizzo 2013): a metric that genhub does not have.

It is small so that it can be read, and complete: `genhub evaluate`, `compare`, cards and recipes have its figure as they
have genhub's own. Replace it piece by piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from genhub import Metric

if TYPE_CHECKING:  # nothing heavy is imported before it is needed
    from torch import Tensor

    from genhub import MeasuredModel

MOST = 2000
"""Most rows of each set, as the distances of all pairs are taken."""


class MyMetric(Metric):
    """Energy distance of the extractor's features: 0 where drawn and real rows have one distribution."""

    figures: ClassVar[Mapping[str, Any]] = {"my_metric": "lower"}  # its figures, and which way each is better; None: neither
    by_features = True  # readers are told where the extractor can't be trusted
    rows = 2  # it can't be computed of fewer
    least, bias = 1000, "uncertain"  # with fewer a note says that it is
    has_floor = True  # real rows in the drawn ones' place tell what is as good as can be
    resamples = 10  # computed again on so many random halves of the drawn rows, for an interval

    def missing(self, subject: MeasuredModel) -> str | None:
        """Return why it does not apply to a model and its data. This one always does; one for images alone would say
        "is for images" where `len(subject.reference.spec.modality.shape) != 3`."""
        return None

    def compute(self, subject: MeasuredModel) -> Mapping[str, float | Tensor]:
        """Return 2 E|x - y| - E|x - x'| - E|y - y'|. A figure that is a mean over rows is better returned as the rows'
        values, a tensor (n,), and has an interval without resamples. Besides features there are `subject.drawn` and
        `subject.reference`, in their own units, `subject.asked(COLUMN)`, `subject.model` and more: see
        `genhub.MeasuredModel`."""
        real, drawn = (rows[:MOST].double() for rows in subject.features)
        apart = 2 * _mean_distance(real, drawn) - _mean_distance(real, real) - _mean_distance(drawn, drawn)
        return {"my_metric": apart}


def _mean_distance(one: Tensor, other: Tensor) -> float:
    """Return the mean Euclidean distance of all pairs of rows."""
    import torch

    return float(torch.cdist(one, other).mean())
