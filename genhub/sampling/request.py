"""A request for images, as one object for everything that draws."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from genhub.ground.digests import digest_of
from genhub.interfaces.model import Model
from genhub.sampling.labels import Labels, called, classes_of, labels_for
from genhub.sampling.options import read_options


@dataclass(frozen=True)
class Drawing:
    """Images to draw from a model. Image i depends on the seed, the labels, the options and i alone."""

    n: int
    """Number of images."""
    seed: int = 0
    labels: Sequence[int] | None = None
    """For a conditional model, the wanted classes, by number; fewer than n are repeated in turn. None: every class, in
    turn."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the model's `sample`."""
    batch_size: int | None = None
    """Images drawn at once, at most: halved until memory is enough. None: 256; on a CPU, as many of them as have 50,000
    pixels."""
    first: int = 0
    """The number of the first image."""

    @classmethod
    def of(
        cls, model: Model, n: int, options: Mapping[str, Any], *, seed: int = 0, labels: Labels = None,
        batch_size: int | None = None,
    ) -> Drawing:  # fmt: skip
        """Return the drawing that a user asks of a model, with labels by name.

        Raises:
            InputError: an option or a label that the model does not have.
        """
        checked = read_options(model, options)
        return cls(n, seed, classes_of(model, labels), checked, batch_size)

    def part(self, numbers: range) -> Drawing:
        """Return the drawing of some of the images."""
        return replace(self, n=len(numbers), first=numbers.start)

    def labels_of(self, model: Model) -> Tensor | None:
        """Return (n,) classes of the images, on the model's device; None for a model that takes none.

        Raises:
            InputError: labels for a model that takes none, none for one that needs them, or a label it does not have.
        """
        wanted = labels_for(model, self.n, self.labels, self.first)
        return None if wanted is None else wanted.to(model.device)

    def label_names(self, model: Model) -> list[str | int] | None:
        """Return the labels as a person knows them, by name, or number where they have none; None: nobody asked for any."""
        return None if self.labels is None else called(model, self.labels)

    def identity(self, model: Model) -> Any:
        """Return what the images depend on, as JSON has it: the model's hash, the seed, labels and options. A callback only
        watches, and is no part of it."""
        every = range(model.config.num_classes or 0) if "labels" in model.conditions else None
        names = replace(self, labels=self.labels or every).label_names(model)
        options = {name: value for name, value in self.options.items() if not callable(value)}
        content = {"model": digest_of(model), "seed": self.seed, "labels": names, "options": options}
        return json.loads(json.dumps(content, default=repr))
