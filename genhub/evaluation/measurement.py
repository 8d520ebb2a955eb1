"""A model and real images, with everything that metrics need of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genhub.data.batches import ImageData
from genhub.errors import DataError
from genhub.evaluation.cache import kept
from genhub.evaluation.metrics import kth_distances, precision_recall
from genhub.evaluation.probe import Probe
from genhub.evaluation.protocol import Protocol
from genhub.ground.digests import hash_of
from genhub.ground.disk import cache_folder
from genhub.ground.finite import check_finite
from genhub.ground.processes import Together
from genhub.interfaces.extractor import Extractor
from genhub.interfaces.model import Model
from genhub.interfaces.registry import EXTRACTORS, load_class
from genhub.sampling.pictures import to_uint8
from genhub.sampling.request import Drawing

MOST_REFERENCES = 50_000
"""Most real images that features are compared with; of larger sets, the first so many of a fixed order."""
TRIED, LEAST_TRIED = 2000, 200
"""Most and least number of real images that an extractor is tried with."""
MUSH = 8
"""Number of images whose mean nobody would take for an image."""


@dataclass
class Measurement:
    """A model and real images, with everything that metrics need of them, each computed when it is first asked for."""

    model: Model
    reference: ImageData
    held_out: ImageData | DataError
    extractor_name: str
    drawing: Drawing
    draw: Callable[[], Tensor]
    """Function that draws them, (n, c, h, w) uint8; called once, when the first metric asks for them."""
    together: Together | None = None
    """The processes that measure together, each with a subject of its own."""
    notes: list[str] = field(default_factory=list)
    training: Callable[[], ImageData] | None = None
    """Function that returns the images that the model was trained on, where they are others than the reference."""

    @cached_property
    def protocol(self) -> Protocol:
        held_out = self.held_out.spec if isinstance(self.held_out, ImageData) else None
        drawing, names = self.drawing, self.drawing.label_names(self.model)
        return Protocol(
            extractor=f"{self.extractor_name} ({self.extractor.source})",
            extractor_hash=self.extractor.fingerprint,
            preprocessing=self.extractor.preprocessing,
            reference=self.reference.spec,
            reference_images=len(self.reference_rows),
            held_out=held_out,
            n=drawing.n,
            seed=drawing.seed,
            labels=None if names is None else tuple(names),
            options=dict(drawing.options),
        )

    # Generated images

    @cached_property
    def images(self) -> Tensor:
        """The drawn images, (n, c, h, w) uint8."""
        return self.draw()

    @cached_property
    def asked_for(self) -> Tensor:
        """Labels (n,) that the images were drawn for."""
        labels = self.drawing.labels_of(self.model)
        assert labels is not None
        return labels.cpu()

    # Real images

    @cached_property
    def reference_rows(self) -> Any:
        order = np.random.Generator(np.random.PCG64(0)).permutation(self.reference.spec.num_images)
        return order[:MOST_REFERENCES]

    @cached_property
    def trained_on(self) -> ImageData:
        return self.training() if self.training else self.reference

    @property
    def unseen(self) -> ImageData:
        """Return images that the model was not trained on, but for those that `seen` marks; for metrics that need them."""
        assert isinstance(self.held_out, ImageData)
        return self.held_out

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Whether each of the `unseen` images (n,) equals one that the model was trained on, to the pixel."""
        return np.isin(_pixel_hashes(self.unseen), _pixel_hashes(self.trained_on))

    @property
    def unseen_rows(self) -> NDArray[np.int64]:
        """Row numbers of the `unseen` images that were really not trained on, in a fixed order."""
        order = np.random.Generator(np.random.PCG64(0)).permutation(self.unseen.spec.num_images)
        return order[~self.seen[order]]

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
        """Features (n, d) of real images, cached by all that they depend on, and of generated ones."""

        def compute() -> Tensor:
            rows = np.array_split(self.reference_rows, -(-len(self.reference_rows) // 1000))
            return torch.cat([self._extracted(to_uint8(self.reference.images(part))) for part in rows])

        return self._kept("features", compute), self._of_each(self._extracted, self.images)

    def _extracted(self, images: Tensor) -> Tensor:
        return check_finite(self.extractor.features(images), f"features by the extractor '{self.extractor_name}'")

    def radii(self, k: int) -> Tensor:
        """Return the distance (n,) of each real image to its k-th neighbour among them, by features; cached like these."""
        return self._kept(f"radii-{k}", lambda: kth_distances(self.features[0], k))

    @cached_property
    def passing(self) -> tuple[float, float] | None:
        """Shares of mush, and of real images, that the extractor takes for real: their precision beside other real images.
        Mush is the mean of eight real images. None where there are too few images to tell."""
        half = min(len(self.reference_rows), TRIED) // 2
        if half < LEAST_TRIED // 2:
            return None

        def tried() -> Tensor:
            images = to_uint8(self.reference.images(self.reference_rows[: 2 * half]))
            others = images[half:].float()
            mush = torch.stack([others.roll(shift, 0) for shift in range(MUSH)]).mean(0).round().to(torch.uint8)
            real = self.extractor.features(images)
            beside = (self.extractor.features(mush), real[half:])
            return torch.tensor([precision_recall(real[:half], rows)[0] for rows in beside])

        mush, real = self._kept("passing", tried).tolist()
        return mush, real

    def _kept(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return what is computed from the real images alone, from the cache if it is there."""
        key = hash_of(self.extractor.fingerprint, self.reference.content, self.reference_rows)
        file = cache_folder() / "features" / f"{key}-{name}.safetensors"
        return kept(file, lambda: ({name: compute()}, {}))[0][name]

    @cached_property
    def probabilities(self) -> Tensor:
        """Probabilities (n, classes) of labels that the probe reads in the generated images."""
        return self._of_each(self.probe.probabilities, self.images)

    def _of_each(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Return the rows (n, d) of a function of n images, each process computing those of a share."""
        if self.together is None:
            return function(images)
        share = -(-len(images) // self.together.world_size)
        first = self.together.rank * share  # the last processes repeat: cut off below
        rows = function(images[[index % len(images) for index in range(first, first + share)]])
        gathered: Tensor = self.together.gather(rows)
        return gathered[: len(images)].cpu()


def _pixel_hashes(data: ImageData) -> NDArray[np.int64]:
    """Return (n,) hashes of each image's pixels."""

    def compute() -> Tensor:
        blocks = np.array_split(np.arange(data.spec.num_images), -(-data.spec.num_images // 1000))
        images = (image for rows in blocks for image in to_uint8(data.images(rows)).numpy())
        hashes = b"".join(blake2b(image.tobytes(), digest_size=8).digest() for image in images)
        return torch.from_numpy(np.frombuffer(hashes, np.int64).copy())

    file = cache_folder() / "features" / f"{hash_of(data.content)}-pixels.safetensors"
    return kept(file, lambda: ({"pixels": compute()}, {}))[0]["pixels"].numpy()
