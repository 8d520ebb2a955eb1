"""A model beside real images, and what metrics need of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genhub.data import ImageData
from genhub.digests import hash_of
from genhub.disk import cache_folder, made_once
from genhub.errors import DataError
from genhub.evaluation.extractors import Extractor
from genhub.evaluation.metrics import kth_distances
from genhub.evaluation.probe import Probe
from genhub.evaluation.protocol import Protocol
from genhub.interfaces import GenerativeModel
from genhub.registry import EXTRACTORS, load_class
from genhub.sampling import to_uint8

if TYPE_CHECKING:
    from accelerate import Accelerator

MOST_REFERENCES = 50_000
"""Real images that features are compared with; of larger sets, the first so many of a fixed order."""


@dataclass
class Subject:
    """A model, the real images, and what metrics need of both, each computed when it is first asked for."""

    model: GenerativeModel
    reference: ImageData
    held_out: ImageData | DataError
    extractor_name: str
    n: int
    seed: int
    labels: Sequence[int] | None
    options: Mapping[str, Any]
    draw: Callable[[], Tensor]
    """Gives the n images, (n, c, h, w) uint8; called once, when the first metric asks for them."""
    accelerator: Accelerator | None = None
    """Of the processes that do this together, each with a subject of its own."""
    notes: list[str] = field(default_factory=list)

    @cached_property
    def protocol(self) -> Protocol:
        held_out = self.held_out.spec if isinstance(self.held_out, ImageData) else None
        return Protocol(
            extractor=f"{self.extractor_name} ({self.extractor.source})", extractor_hash=self.extractor.fingerprint,
            preprocessing=self.extractor.preprocessing, reference=self.reference.spec,
            reference_images=len(self.reference_rows), held_out=held_out, n=self.n, seed=self.seed,
            labels=None if self.labels is None else tuple(self.labels), options=dict(self.options),
            reader=self.probe.fingerprint if "probabilities" in self.__dict__ else None,
        )  # fmt: skip

    # Generated images

    @cached_property
    def images(self) -> Tensor:
        """(n, c, h, w) uint8."""
        return self.draw()

    @cached_property
    def asked_for(self) -> Tensor:
        """(n,) the labels that the images were drawn for."""
        labels = self.labels or range(self.model.config.num_classes or 0)
        return torch.tensor([labels[i % len(labels)] for i in range(self.n)])

    # Real images

    @cached_property
    def reference_rows(self) -> Any:
        order = np.random.Generator(np.random.PCG64(0)).permutation(self.reference.spec.num_images)
        return order[:MOST_REFERENCES]

    @property
    def unseen(self) -> ImageData:
        """Real images that the model was not trained on, for metrics that need them."""
        assert isinstance(self.held_out, ImageData)
        return self.held_out

    # Features

    @cached_property
    def extractor(self) -> Extractor:
        name, _, source = self.extractor_name.partition(":")
        if name == "probe" and not source:
            return self.probe
        extractor: Extractor = load_class(EXTRACTORS, name)(self.reference, source or None, self.model.device)
        return extractor

    @cached_property
    def probe(self) -> Probe:
        """The classifier of the data's labels, whichever extractor is compared by."""
        return Probe(self.reference, None, self.model.device)

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """Of real images, cached by all that they depend on, and of generated ones; (n, d) each."""

        def compute() -> Tensor:
            rows = np.array_split(self.reference_rows, -(-len(self.reference_rows) // 1000))
            return torch.cat([self.extractor.features(to_uint8(self.reference.images(part))) for part in rows])

        return self._kept("features", compute), self._of_each(self.extractor.features, self.images)

    def radii(self, k: int) -> Tensor:
        """(n,) how far each real image's k-th neighbour among them is, by features; cached like these."""
        return self._kept(f"radii-{k}", lambda: kth_distances(self.features[0], k))

    def _kept(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """What is computed of the real images alone."""
        key = hash_of(self.extractor.fingerprint, self.reference.spec.fingerprint, self.reference_rows)
        file = cache_folder() / "features" / f"{key}-{name}.safetensors"
        return load_file(made_once(file, lambda temporary: save_file({name: compute()}, temporary)))[name]

    @cached_property
    def probabilities(self) -> Tensor:
        """(n, classes) what the probe reads in the generated images."""
        return self._of_each(self.probe.probabilities, self.images)

    def _of_each(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """(n, d) rows of n images, each process computing those of a share."""
        if self.accelerator is None:
            return function(images)
        share = -(-len(images) // self.accelerator.num_processes)
        first = self.accelerator.process_index * share  # the last processes repeat: cut off below
        rows = function(images[[index % len(images) for index in range(first, first + share)]])
        gathered: Tensor = self.accelerator.gather(rows.to(self.accelerator.device))
        return gathered[: len(images)].cpu()
