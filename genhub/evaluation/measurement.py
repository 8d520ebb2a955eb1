"""A model and real data, with everything that metrics need of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.data.batches import TableData
from genhub.errors import DataError
from genhub.evaluation.cache import kept
from genhub.evaluation.given import WholeRows, told
from genhub.evaluation.metrics import kth_distances, precision_recall
from genhub.evaluation.probe import Probe, cannot_learn
from genhub.evaluation.protocol import Protocol
from genhub.ground.digests import hash_of
from genhub.ground.disk import cache_folder
from genhub.ground.finite import check_finite
from genhub.ground.processes import Together
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.extractor import Extractor
from genhub.interfaces.metric import RealRows
from genhub.interfaces.model import Model
from genhub.interfaces.registry import EXTRACTORS, load_class
from genhub.sampling.asked import kept_rows
from genhub.sampling.draw import sample_elements
from genhub.sampling.request import Drawing

MOST_REFERENCES = 50_000
"""Most real rows that features are compared with; of larger sets, the first so many of a fixed order."""
TRIED, LEAST_TRIED = 2000, 200
"""Most and least number of real rows that an extractor is tried with."""
MUSH = 8
"""Number of images whose mean nobody would take for an image, or of signals for a signal."""


@dataclass
class Measurement:
    """A model and real data, with everything that metrics need of them, each computed when it is first asked for."""

    model: Model
    reference: TableData
    held_out: TableData | DataError
    extractor_name: str
    drawing: Drawing
    draw: Callable[[], Tensor]
    """Function that draws, (n, *shape) in the target's own units; called once, when the first metric asks for it."""
    together: Together | None = None
    """The processes that measure together, each with a subject of its own."""
    notes: list[str] = field(default_factory=list)
    training: Callable[[], TableData] | None = None
    """Function that returns the data that the model was trained on, where they are others than the reference."""
    rows_of: WholeRows | None = None
    """The rows whose conditions the drawing is for; None: the drawing says itself what rows are given."""
    is_drawing: bool = False
    """Whether the model draws, or failed while it drew."""

    @cached_property
    def protocol(self) -> Protocol:
        extractor = self.extractor  # first, as it settles its name
        by_rows = dict.fromkeys(self.model.conditions, f"of rows of split {self.rows_of.split}" if self.rows_of else "")
        return Protocol(
            extractor=f"{self.extractor_name} ({extractor.source})",
            extractor_hash=extractor.fingerprint,
            preprocessing=extractor.preprocessing,
            reference=self.reference.spec,
            reference_rows=len(self.reference_rows),
            held_out=self.held_out.spec if isinstance(self.held_out, TableData) else None,
            n=self.drawing.n,
            seed=self.drawing.seed,
            conditions=told(self.drawing, self.model) if self.rows_of is None else by_rows,
            options=dict(self.drawing.options),
        )

    # Generated rows

    @property
    def n(self) -> int:
        return self.drawing.n

    @property
    def seed(self) -> int:
        return self.drawing.seed

    @cached_property
    def drawn(self) -> Tensor:
        """The drawn elements, (n, *shape) in their own units: images as uint8."""
        return self._by_model(self.draw)

    def draw_again(self, n: int) -> Tensor:
        """Draw some rows anew, (n, *shape), as for what drawing costs."""
        return self._by_model(partial(sample_elements, self.model, replace(self.drawing, n=n, batch_size=None)))

    def _by_model(self, draw: Callable[[], Tensor]) -> Tensor:
        self.is_drawing = True
        drawn = draw()
        self.is_drawing = False  # not if it failed
        return drawn

    # What was asked for

    def asked(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return the values of a condition that rows were drawn for, (n, *shape) as they are kept, and which rows have one,
        (n,); None where nobody asks for it."""
        asked = self.drawing.asked(self.model)
        if name not in asked:
            return None
        modality, wanted = asked[name]
        return kept_rows(wanted, modality, list(self.drawing.numbers))

    def formula(self, name: str) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
        return self.reference.formula(name)

    @property
    def no_labels(self) -> str | None:
        return None if self.reference.labels is not None else "the data has no labels to learn to read"

    @cached_property
    def labels_asked(self) -> tuple[Tensor, Tensor] | str:
        """Labels (n,) that rows were drawn for, of the column that the probe reads, and which rows have one, (n,); or words
        on why nobody can tell."""
        labels, conditions = self.reference.labels, self.model.conditions
        if labels and labels.name in conditions:
            return self.asked(labels.name) or "nobody asks for a label"
        if labels and (makers := [name for name in conditions if labels.name in self.reference.made_from(name)]):
            if self.rows_of is None:
                return f"what {', '.join(makers)} says of the label is known of whole rows of the data alone"
            return self.labels_of(self.rows_of, torch.tensor(self.drawing.numbers) % len(self.rows_of.numbers))
        if not any(modality.classes for modality in conditions.values()):
            return "the model draws without labels"
        known = f"the probe reads column '{labels.name}' of the data, which the model is not given" if labels else None
        return known or str(self.no_labels)

    def labels_of(self, rows: WholeRows, places: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return the labels of rows, at these places among them, as the probe numbers them: another split may have others,
        which are told by their names; and which rows have one."""
        labels = self.reference.labels
        assert labels is not None
        column = rows.data.column(labels.name)
        number = {labels.modality.caption(torch.tensor(own)): own for own in range(labels.modality.classes)}
        captions = [column.modality.caption(torch.tensor(own)) for own in range(column.modality.classes)]
        as_read = torch.tensor([number.get(caption, -1) for caption in captions])
        found = as_read[column.kept(rows.numbers)]
        there = column.present(rows.numbers) & (found >= 0)
        return found[places], there[places]

    # Real rows

    @cached_property
    def reference_rows(self) -> Any:
        order = np.random.Generator(np.random.PCG64(0)).permutation(self.reference.num_rows)
        return order[:MOST_REFERENCES]

    @cached_property
    def trained_on(self) -> TableData:
        return self.training() if self.training else self.reference

    @property
    def unseen(self) -> TableData:
        """Return rows that the model was not trained on, but for those that `seen` marks; for metrics that need them."""
        assert isinstance(self.held_out, TableData)
        return self.held_out

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Whether each of the `unseen` elements (n,) equals one that the model was trained on, to the bit."""
        return np.isin(_hashes(self.unseen), _hashes(self.trained_on))

    @property
    def unseen_rows(self) -> NDArray[np.int64]:
        """Row numbers of the `unseen` elements that were really not trained on, in a fixed order."""
        order = np.random.Generator(np.random.PCG64(0)).permutation(self.unseen.num_rows)
        return order[~self.seen[order]]

    @cached_property
    def fresh_rows(self) -> NDArray[np.int64]:
        """Places among the `unseen_rows` of those that are no rows of the reference, either."""
        rows = self.unseen_rows[:MOST_REFERENCES]
        if self.reference.content == self.trained_on.content:
            return np.arange(len(rows))
        return np.flatnonzero(~np.isin(_hashes(self.unseen)[rows], _hashes(self.reference)))

    def given(self, data: RealRows, rows: NDArray[np.int64]) -> Conditions:
        """Return the conditions of some rows, on the model's device; where the data don't have them, none is present."""
        if self.model.conditions.keys() <= data.spec.columns.keys():
            return data.conditions(rows).to(self.model.device)
        return Conditions.nothing(self.model.conditions, len(rows), self.model.device)

    def numbers(self, values: Tensor) -> Tensor:
        """Return elements (n, *shape) in their own units as rows (n, d): in [0, 1] what has levels, as images do, anything
        else standardised, as a batch has it."""
        modality = self.reference.spec.modality
        if modality.levels:
            return values.flatten(1).float() / (modality.levels - 1)
        return modality.to_batch(values).flatten(1).float()

    @cached_property
    def no_unseen(self) -> str | None:
        """Reason why there are no rows that the model was not trained on; None where there are."""
        if isinstance(self.held_out, DataError):
            return f"needs rows that were not trained on: {self.held_out}"
        seen, split = self.seen, self.unseen.spec.split
        if seen.mean() <= 0.5:  # a few may be twice in the data
            return None
        which = f"{seen.sum()} of the {len(seen)} in split {split}"
        return f"needs rows that were not trained on, and {which} were: name another split"

    # Features

    @cached_property
    def extractor(self) -> Extractor:
        name, _, source = self.extractor_name.partition(":")
        if name == "probe" and not source:
            if (reason := cannot_learn(self.reference)) is None:
                return self.probe
            self.notes.append(f"probe: {reason}; compared by `values`")
            name = self.extractor_name = "values"
        extractor: Extractor = load_class(EXTRACTORS, name)(self.reference, source or None, self.model.device)
        return extractor

    @cached_property
    def probe(self) -> Probe:
        """The classifier of the data's labels, whichever extractor is compared by."""
        return Probe(self.reference, None, self.model.device)

    @property
    def reads_right(self) -> float:
        """Share of real rows, which it was not trained on, whose label the probe reads right."""
        return self.probe.accuracy

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """Features (n, d) of real rows, cached by all that they depend on, and of drawn ones."""
        return self.real_features, self._of_each(self._extracted, self.drawn)

    @cached_property
    def real_features(self) -> Tensor:
        return self.kept("features", lambda: self._extracted_of(self.reference, self.reference_rows))

    @cached_property
    def unseen_features(self) -> Tensor:
        rows = self.unseen_rows[:MOST_REFERENCES]
        return self.kept("features-unseen", lambda: self._extracted_of(self.unseen, rows), self.unseen.content, rows)

    def _extracted_of(self, data: TableData, numbers: NDArray[np.int64]) -> Tensor:
        blocks = np.array_split(numbers, -(-len(numbers) // 1000))
        return torch.cat([self._extracted(data.own(block)) for block in blocks])

    def _extracted(self, values: Tensor) -> Tensor:
        return check_finite(self.extractor.features(values), f"features by the extractor '{self.extractor_name}'")

    def radii(self, k: int) -> Tensor:
        """Return the distance (n,) of each real row to its k-th neighbour among them, by features; cached like these."""
        return self.kept(f"radii-{k}", lambda: kth_distances(self.real_features, k))

    @cached_property
    def passing(self) -> tuple[float, float] | None:
        """Shares of mush, and of real rows, that the extractor takes for real: their precision beside other real rows. Mush
        is the mean of eight real images, or signals. None where there are too few to tell, and of vectors, whose means may
        well be like them."""
        half = min(len(self.reference_rows), TRIED) // 2
        if half < LEAST_TRIED // 2 or len(self.reference.spec.modality.shape) < 2:
            return None

        def tried() -> Tensor:
            values = self.reference.own(self.reference_rows[: 2 * half])
            others = values[half:].float()
            mush = torch.stack([others.roll(shift, 0) for shift in range(MUSH)]).mean(0)
            mush = mush if values.is_floating_point() else mush.round().to(values.dtype)
            real = self.extractor.features(values)
            beside = (self.extractor.features(mush), real[half:])
            return torch.tensor([precision_recall(real[:half], rows)[0] for rows in beside])

        mush, real = self.kept("passing", tried).tolist()
        return mush, real

    def kept(self, name: str, compute: Callable[[], Tensor], *of: Any) -> Tensor:
        """Return what is computed from the real rows, and what else it is `of`, from the cache if it is there."""
        key = hash_of(self.extractor.fingerprint, self.reference.content, self.reference_rows, *of)
        file = cache_folder() / "features" / f"{key}-{name}.safetensors"
        return kept(file, lambda: ({name: compute()}, {}))[0][name]

    @cached_property
    def probabilities(self) -> Tensor:
        """Probabilities (n, classes) of labels that the probe reads in the drawn elements."""
        return self._of_each(self.probe.probabilities, self.drawn)

    def _of_each(self, function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """Return the rows (n, d) of a function of n elements, each process computing those of a share."""
        if self.together is None:
            return function(values)
        share = -(-len(values) // self.together.world_size)
        first = self.together.rank * share  # the last processes repeat: cut off below
        rows = function(values[[index % len(values) for index in range(first, first + share)]])
        gathered: Tensor = self.together.gather(rows)
        return gathered[: len(values)].cpu()


def _hashes(data: TableData) -> NDArray[np.int64]:
    """Return (n,) hashes of each element, as it is kept."""

    def compute() -> Tensor:
        blocks = np.array_split(np.arange(data.num_rows), -(-data.num_rows // 1000))
        elements = (element for rows in blocks for element in data.kept(rows).numpy())
        hashes = b"".join(blake2b(element.tobytes(), digest_size=8).digest() for element in elements)
        return torch.from_numpy(np.frombuffer(hashes, np.int64).copy())

    file = cache_folder() / "features" / f"{hash_of(data.content)}-hashes.safetensors"
    return kept(file, lambda: ({"hashes": compute()}, {}))[0]["hashes"].numpy()
