"""Read the classes that a user asks a model for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from genhub.errors import InputError, shown
from genhub.interfaces.class_labels import class_numbers
from genhub.interfaces.model import Model

Labels = str | Sequence[str | int] | None
"""Labels that a person asks for: names, or numbers where there are none; or a text of them with commas."""


def classes_of(model: Model, labels: Labels) -> list[int] | None:
    """Return the numbers of the classes that labels name, as all functions below take them; None: every class, in turn.

    Raises:
        InputError: labels for a model that takes none, or one that it does not have.
    """
    if labels is None:
        return None
    labels_for(model, 0, ())  # whether it takes any
    return class_numbers(labels, names_of(model), model.config.num_classes or 0)


def names_of(model: Model) -> tuple[str, ...]:
    """Return the names of a model's classes; () where its data had none."""
    return model.trained_on.class_names if model.trained_on else ()


def called(model: Model, classes: Iterable[int]) -> list[str | int]:
    """Return classes as a person knows them: by name, and by number only where they have none."""
    names = names_of(model)
    return [names[number] if number < len(names) else number for number in classes]


def labels_for(model: Model, n: int, labels: Sequence[int] | None, first: int = 0) -> Tensor | None:
    """Return (n,) classes of the images from number `first` on: those given, or every class, in turn; None for a model that
    takes none.

    Raises:
        InputError: labels for a model that takes none, none for one that needs them, or a label it does not have.
    """
    name, classes = type(model).__name__, model.config.num_classes
    if "labels" not in model.conditions:
        if labels is not None:
            raise InputError(f"--labels: {name} is not conditional on labels; leave them out")
        return None
    if labels is None:  # every class in turn
        labels = range(classes or 0)
    wrong = [label for label in labels if not 0 <= label < (classes or 0)]
    if wrong:
        raise InputError(f"--labels: {shown(wrong[0])} is not a label of this model; it has 0 to {(classes or 0) - 1}")
    return torch.tensor([labels[i % len(labels)] for i in range(first, first + n)])
