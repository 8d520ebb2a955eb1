"""Optimizers by name: torch's, Muon with AdamW beside it, or anybody's as module:Class; and the check of their arguments."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genhub.errors import RecipeError, did_you_mean
from genhub.interfaces.registry import imported
from genhub.recipe.sections import AccelerateConfig, OptimizerOverride

if TYPE_CHECKING:
    from torch.optim import Optimizer

MUON = "muon"
"""Name of torch's Muon for matrices, with AdamW for all other weights."""


def optimizer_classes(name: str, folder: Path | None = None) -> tuple[type[Optimizer], ...]:
    """Return torch's class of that name, or the class that module:Class names, also of a module in `folder`; of muon two:
    one for matrices, one for the rest.

    Raises:
        RecipeError: it can't be imported, or is no optimizer.
    """
    import torch

    if name == MUON:
        from genhub.ground.muon import Muon

        return Muon, torch.optim.AdamW
    if ":" not in name:
        return ({key.lower(): value for key, value in vars(torch.optim).items()}[name],)
    cls = imported(name, folder)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise RecipeError(f"{name} is no torch.optim.Optimizer")
    return (cls,)


def arguments(config: OptimizerOverride) -> dict[str, Any]:
    """Return the arguments that a config gives for the classes, without those that are left out."""
    given = config.model_dump(exclude={"name", "options"})
    return {key: value for key, value in given.items() if value is not None} | dict(config.options)


def known_arguments(cls: type[Optimizer]) -> frozenset[str]:
    """Return the names of a class's arguments but its weights."""
    return frozenset(list(inspect.signature(cls).parameters)[1:])


def optimizer_faults(trainer: AccelerateConfig, folder: Path | None) -> dict[tuple[str, ...], str]:
    """Return what is wrong with the optimizers of a recipe, by the path of the key below `trainer`: a class that is not
    there, an argument that it doesn't have."""
    faults: dict[tuple[str, ...], str] = {}
    own = [(("optimizers", network), override) for network, override in trainer.optimizers.items()]
    for path, config in [(("optimizer",), trainer.optimizer), *own]:
        try:
            classes = optimizer_classes(config.name or trainer.optimizer.name, folder)
        except RecipeError as error:
            faults[*path, "name"] = str(error)
            continue
        for key in config.options.keys() & OptimizerOverride.model_fields.keys():
            faults[(*path, "options", key)] = f"is a key of its own: trainer.{'.'.join(path)}.{key}"
        known = frozenset().union(*map(known_arguments, classes))
        for key in arguments(config).keys() - known:
            where = ("options", key) if key in config.options else (key,)
            names = " and ".join(cls.__name__ for cls in classes)
            faults.setdefault((*path, *where), f"{names} has no such argument; {did_you_mean(key, known)}")
    return faults
