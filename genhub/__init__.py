"""genhub: every family of generative model trained, sampled, measured, compared and shared the same way.

The names below and those of `genhub.testing` are the public interface; everything else may change. They are imported when
they are first used, so that `import genhub` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; `X as X` is how a re-export is told
    from genhub.config import MAY_CHANGE as MAY_CHANGE
    from genhub.config import ModelConfig as ModelConfig
    from genhub.config import ModelPath as ModelPath
    from genhub.config import PositiveInt as PositiveInt
    from genhub.config import Section as Section
    from genhub.config import TrainerConfig as TrainerConfig
    from genhub.errors import CheckpointError as CheckpointError
    from genhub.errors import DataError as DataError
    from genhub.errors import GenhubError as GenhubError
    from genhub.errors import HubError as HubError
    from genhub.errors import HubUnavailable as HubUnavailable
    from genhub.errors import InputError as InputError
    from genhub.errors import Interrupted as Interrupted
    from genhub.errors import NewerFormat as NewerFormat
    from genhub.errors import NotFinite as NotFinite
    from genhub.errors import PluginError as PluginError
    from genhub.errors import RecipeError as RecipeError
    from genhub.errors import TrainingError as TrainingError
    from genhub.errors import did_you_mean as did_you_mean
    from genhub.evaluation.evaluate import evaluate as evaluate
    from genhub.interfaces import Autoencoder as Autoencoder
    from genhub.interfaces import Batch as Batch
    from genhub.interfaces import Denoiser as Denoiser
    from genhub.interfaces import DenoisingStep as DenoisingStep
    from genhub.interfaces import FrozenEncoder as FrozenEncoder
    from genhub.interfaces import GenerativeModel as GenerativeModel
    from genhub.interfaces import Likelihood as Likelihood
    from genhub.interfaces import Phase as Phase
    from genhub.interfaces import Scheduler as Scheduler
    from genhub.logs import RunLog as RunLog
    from genhub.manifest import StoredModel as StoredModel
    from genhub.manifest import read_json as read_json
    from genhub.noise import Generators as Generators
    from genhub.noise import randn as randn
    from genhub.recipe import Recipe as Recipe
    from genhub.recipe import read_recipe as read_recipe
    from genhub.registry import SchedulerName as SchedulerName
    from genhub.registry import load_scheduler as load_scheduler
    from genhub.registry import scheduler_names as scheduler_names
    from genhub.run import load as load
    from genhub.run import push_to_hub as push_to_hub
    from genhub.run import sample as sample
    from genhub.run import train as train
    from genhub.seeds import seed_for as seed_for
    from genhub.training import StoppedRun as StoppedRun
    from genhub.training import Trainer as Trainer
    from genhub.training import TrainerState as TrainerState
    from genhub.training import TrainingData as TrainingData
    from genhub.views import show as show
    from genhub.weights import load_strictly as load_strictly
    from genhub.weights import save_tensors as save_tensors

_MODULES = {
    "config": ("MAY_CHANGE", "ModelConfig", "ModelPath", "PositiveInt", "Section", "TrainerConfig"),
    "errors": ("CheckpointError", "DataError", "GenhubError", "HubError", "HubUnavailable", "InputError", "Interrupted",
               "NewerFormat", "NotFinite", "PluginError", "RecipeError", "TrainingError", "did_you_mean"),
    "evaluation.evaluate": ("evaluate",),
    "interfaces": ("Autoencoder", "Batch", "Denoiser", "DenoisingStep", "FrozenEncoder", "GenerativeModel", "Likelihood",
                   "Phase", "Scheduler"),
    "logs": ("RunLog",),
    "manifest": ("StoredModel", "read_json"),
    "noise": ("Generators", "randn"),
    "recipe": ("Recipe", "read_recipe"),
    "registry": ("SchedulerName", "load_scheduler", "scheduler_names"),
    "run": ("load", "push_to_hub", "sample", "train"),
    "seeds": ("seed_for",),
    "training": ("StoppedRun", "Trainer", "TrainerState", "TrainingData"),
    "views": ("show",),
    "weights": ("load_strictly", "save_tensors"),
}  # fmt: skip
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_WHERE)


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
