"""Interface of metrics: figures of what a model draws beside real data. Importing this module loads no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from genhub.interfaces.columns import DataSpec
    from genhub.interfaces.conditions import Conditions
    from genhub.interfaces.model import Model

Better = Literal["lower", "higher"]
Figures = Mapping[str, Better | None]
"""Figures by name, and which way each is better; None: neither way, as of a cost or a spread."""


class Metric(ABC):
    """A metric: a figure, or a few that are computed together, of what a model draws. A class is registered under
    `genhub.metrics` and built as `cls()`. It has no state: its figures depend on what it is given alone."""

    figures: ClassVar[Figures]
    """Its figures. The first stands for the metric where one is wanted, as by `save_best`. Others, which depend on the data,
    may come with them."""
    by_default: ClassVar[bool] = True
    """Whether it is computed where nobody names metrics."""
    by_features: ClassVar[bool] = False
    """Whether it compares the extractor's features: then a note says where the extractor can't be trusted."""
    rows: ClassVar[int] = 1
    """Least number of rows, drawn and real, that it takes."""
    least: ClassVar[int] = 0
    """Number of drawn rows below which it misleads."""
    bias: ClassVar[str] = ""
    """Words for how it misleads then: "biased upwards"."""
    has_floor: ClassVar[bool] = False
    """Whether it is also computed of as many real rows, which were not trained on, in the drawn ones' place: the floor,
    shown beside the figures. It must then depend on the rows and the data alone, not on `subject.model`."""
    resamples: ClassVar[int] = 0
    """On how many random halves of the drawn rows it is computed again, for an interval of the figures that it gives as
    numbers; 0: these have none. It takes as many times as long."""

    def missing(self, subject: MeasuredModel) -> str | None:
        """Return why it can't be computed of a model and data, in a few words; None if it can. It is asked before anything
        is drawn, and in training before step 0."""
        return None

    @abstractmethod
    def compute(self, subject: MeasuredModel) -> Mapping[str, float | Tensor]:
        """Return the figures by name. One that is a mean over rows is better given as the rows' values, (n,): genhub takes
        the mean, and its interval by the bootstrap. One that is not finite is left out, and a note says so."""


class RealRows(Protocol):
    """Rows of real data, by number."""

    @property
    def spec(self) -> DataSpec:
        """Name, split and columns of the data: `spec.modality` is the target's."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""

    def own(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the targets of some rows, (n, *shape) in their own units: images as uint8."""

    def x(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the targets of some rows as a model is given them, (n, *shape) float32."""

    def conditions(self, indices: Sequence[int] | NDArray[np.int64]) -> Conditions:
        """Return the conditions of some rows."""

    def column(self, name: str) -> Any:
        """Return a column, in use or not: its `modality`, `kept(indices)` and `present(indices)`."""


class MeasuredModel(Protocol):
    """A model that is measured: what was drawn from it, beside real data. Each part is made when it is first asked for."""

    notes: list[str]
    """Lines that a reader of the figures must know; a metric may add some."""

    @property
    def model(self) -> Model:
        """The model, in eval mode."""

    @property
    def n(self) -> int:
        """Number of rows that are drawn."""

    @property
    def seed(self) -> int:
        """Seed of the drawing."""

    @property
    def drawn(self) -> Tensor:
        """Elements that the model drew, (n, *shape) in the target's own units: images as uint8."""

    @property
    def reference(self) -> RealRows:
        """The real rows to compare with."""

    @property
    def reference_rows(self) -> NDArray[np.int64]:
        """Numbers of the real rows that are compared: all, or 50,000 of them."""

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        """The extractor's features (m, d) of the real rows, and (n, d) of the drawn ones."""

    def radii(self, k: int) -> Tensor:
        """Return the distance (m,) of each real row to its k-th neighbour among them, by features."""

    def numbers(self, values: Tensor) -> Tensor:
        """Return elements in their own units as rows (n, d) of numbers: images in [0, 1], anything else standardised."""

    def draw_again(self, n: int) -> Tensor:
        """Draw some rows anew, (n, *shape), as for what drawing costs."""

    # Rows that were not trained on

    @property
    def no_unseen(self) -> str | None:
        """Reason why there are no rows that the model was not trained on; None where there are."""

    @property
    def unseen(self) -> RealRows:
        """The held-out split."""

    @property
    def unseen_rows(self) -> NDArray[np.int64]:
        """Numbers of its rows that were really not trained on, in a fixed order."""

    @property
    def unseen_features(self) -> Tensor:
        """The extractor's features (m, d) of those rows, of 50,000 at most."""

    @property
    def trained_on(self) -> RealRows:
        """The rows that the model was trained on."""

    def given(self, data: RealRows, rows: NDArray[np.int64]) -> Conditions:
        """Return the conditions of some real rows, on the model's device."""

    # What was asked for

    def asked(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return the values of a condition that rows were drawn for, (n, *shape) as they are kept, and which rows have one,
        (n,) bool; None where nobody asks for it."""

    def formula(self, name: str) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
        """Return the function of targets (n, *shape), in their own units, that gives the values of a column of the real
        data; None where nobody knows one."""

    @property
    def no_labels(self) -> str | None:
        """Reason why no labels can be read in what is drawn; None where they can."""

    @property
    def probabilities(self) -> Tensor:
        """Probabilities (n, classes) of the labels that a classifier of the data's labels reads in what is drawn."""

    @property
    def reads_right(self) -> float:
        """Share of real rows, which it was not trained on, whose label that classifier reads right."""

    @property
    def labels_asked(self) -> tuple[Tensor, Tensor] | str:
        """Labels (n,) that rows were drawn for, as the classifier numbers them, and which rows have one, (n,) bool; or
        words on why nobody can tell."""
