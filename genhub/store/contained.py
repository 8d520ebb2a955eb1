"""A trained model inside another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from genhub.errors import CheckpointError, InputError
from genhub.ground.brief import BriefModule
from genhub.interfaces.columns import ModelData
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.model import Model

FOLDER = "autoencoder"
"""Name of its folder in the other one's."""


def check_contained(model: Model, data: ModelData) -> None:
    """Check that a model is for the columns of the one that contains it.

    Raises:
        InputError: it draws something else, or is given what the other one is not.
    """
    name = model.config.name or type(model).__name__
    ours, theirs = data.target, model.modality
    if ours != theirs:
        told = [f"{each.modality} {'x'.join(map(str, each.shape))}" for each in (theirs, ours)]
        differ = f"{told[0]}, not {told[1]}" if told[0] != told[1] else f"{told[0]} of other units"
        raise InputError(f"this '{name}' is for {differ}; train one on the same data")
    for column, modality in model.conditions.items():
        if data.conditions.get(column) != modality:
            raise InputError(f"this '{name}' is given {column}; model.conditions needs it, too, of the same data")


class ContainedModel(BriefModule, nn.Module):
    """A trained autoencoder inside another model: frozen, always in eval mode, and saved with it. Derive from it for what
    the other one does with it."""

    def __init__(self, model: Model, trained_as: str = "") -> None:
        """
        Args:
            trained_as: its name in the recipe; "" where it is built from a description.
        """
        super().__init__()
        self.model: Any = model.eval().requires_grad_(False)
        self.trained_as = trained_as
        self.given = sorted(model.conditions)
        """Columns that it is given."""

    def train(self, mode: bool = True) -> ContainedModel:
        """Keep it in eval mode, whatever the model around it does."""
        super().train(mode)
        self.model.eval()
        return self

    def own_conditions(self, conditions: Conditions | None) -> Conditions | None:
        """Return those of the conditions that it is given; None: none."""
        if conditions is None or not self.given:
            return None
        parts = (conditions.values, conditions.present, conditions.cached)
        return Conditions(*({name: part[name] for name in self.given if name in part} for part in parts))

    def save(self, path: Path) -> None:
        """Write it into a folder as a model folder of its own."""
        self.model.save_pretrained(path / FOLDER)

    def load(self, path: Path) -> None:
        """
        Raises:
            CheckpointError: the weights don't fit, or the recipe names another autoencoder.
        """
        before = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.model.load_networks(path / FOLDER)
        changed = any(not torch.equal(value, before[key]) for key, value in self.model.state_dict().items())
        if self.trained_as and changed:
            raise CheckpointError(
                f"{path}: trained on another autoencoder than {self.trained_as}; leave model.autoencoder out"
            )
