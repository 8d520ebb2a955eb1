"""genhub: every family of generative model trained, sampled, measured, compared and shared the same way.

The names below are the public interface; everything else may change. They are imported when they are first used, so
that `import genhub` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genhub.config import ModelConfig, PositiveInt, Section, TrainerConfig
    from genhub.errors import (
        CheckpointError,
        DataError,
        GenhubError,
        InputError,
        Interrupted,
        PluginError,
        RecipeError,
        TrainingError,
    )
    from genhub.interfaces import (
        Autoencoder,
        Batch,
        Denoiser,
        DenoisingStep,
        GenerativeModel,
        Generators,
        Likelihood,
        Phase,
        Scheduler,
        Trainer,
        TrainingData,
        load_strictly,
        save_tensors,
    )
    from genhub.recipe import Recipe, read_recipe
    from genhub.registry import load_scheduler, scheduler_names
    from genhub.run import load, sample, train

_MODULES = {
    "config": ("ModelConfig", "PositiveInt", "Section", "TrainerConfig"),
    "errors": ("CheckpointError", "DataError", "GenhubError", "InputError", "Interrupted", "PluginError", "RecipeError",
               "TrainingError"),
    "interfaces": ("Autoencoder", "Batch", "Denoiser", "DenoisingStep", "GenerativeModel", "Generators", "Likelihood",
                   "Phase", "Scheduler", "Trainer", "TrainingData", "load_strictly", "save_tensors"),
    "recipe": ("Recipe", "read_recipe"),
    "registry": ("load_scheduler", "scheduler_names"),
    "run": ("load", "sample", "train"),
}  # fmt: skip
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_WHERE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("genhub-framework")
    if name not in _WHERE:
        raise AttributeError(f"module 'genhub' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"genhub.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
