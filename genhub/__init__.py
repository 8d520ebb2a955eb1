"""genhub: every family of generative model trained, sampled, measured, compared and shared the same way.

The names below and those of `genhub.testing` are the public interface; everything else may change. They are imported when
they are first used, so that `import genhub` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; `X as X` is how a re-export is told
    from genhub.api import load as load
    from genhub.api import push_to_hub as push_to_hub
    from genhub.api import sample as sample
    from genhub.benches.ranking import Ranking as Ranking
    from genhub.benches.start import bench as bench
    from genhub.conditioning.conditioner import Conditioner as Conditioner
    from genhub.conditioning.guidance import guidance_at as guidance_at
    from genhub.conditioning.guidance import guided as guided
    from genhub.conditioning.guidance import unused_guidance as unused_guidance
    from genhub.data.open import load_data as load_data
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
    from genhub.evaluation.compare import Comparison as Comparison
    from genhub.evaluation.compare import compare as compare
    from genhub.evaluation.evaluate import evaluate as evaluate
    from genhub.evaluation.protocol import Evaluation as Evaluation
    from genhub.ground.patches import folded as folded
    from genhub.ground.patches import patch_for as patch_for
    from genhub.ground.patches import unfolded as unfolded
    from genhub.ground.processes import Share as Share
    from genhub.ground.processes import Together as Together
    from genhub.ground.randomness import Generators as Generators
    from genhub.ground.randomness import randn as randn
    from genhub.ground.randomness import seed_for as seed_for
    from genhub.ground.run_log import RunLog as RunLog
    from genhub.ground.weights import load_strictly as load_strictly
    from genhub.ground.weights import save_tensors as save_tensors
    from genhub.interfaces.capabilities import Autoencoder as Autoencoder
    from genhub.interfaces.capabilities import Denoiser as Denoiser
    from genhub.interfaces.capabilities import DenoisingStep as DenoisingStep
    from genhub.interfaces.capabilities import DiscreteAutoencoder as DiscreteAutoencoder
    from genhub.interfaces.capabilities import Energy as Energy
    from genhub.interfaces.capabilities import Likelihood as Likelihood
    from genhub.interfaces.columns import DataConfig as DataConfig
    from genhub.interfaces.columns import DataSpec as DataSpec
    from genhub.interfaces.columns import ModelData as ModelData
    from genhub.interfaces.conditions import Conditions as Conditions
    from genhub.interfaces.config import ModelConfig as ModelConfig
    from genhub.interfaces.config import TrainerConfig as TrainerConfig
    from genhub.interfaces.control import Choice as Choice
    from genhub.interfaces.control import Line as Line
    from genhub.interfaces.control import Slider as Slider
    from genhub.interfaces.control import Upload as Upload
    from genhub.interfaces.means import Means as Means
    from genhub.interfaces.metric import MeasuredModel as MeasuredModel
    from genhub.interfaces.metric import Metric as Metric
    from genhub.interfaces.modality import ConditionEncoder as ConditionEncoder
    from genhub.interfaces.modality import Modality as Modality
    from genhub.interfaces.modality import RawColumn as RawColumn
    from genhub.interfaces.modality import Unreadable as Unreadable
    from genhub.interfaces.model import Batch as Batch
    from genhub.interfaces.model import FrozenEncoder as FrozenEncoder
    from genhub.interfaces.model import Model as Model
    from genhub.interfaces.model import Phase as Phase
    from genhub.interfaces.network import AnyNetwork as AnyNetwork
    from genhub.interfaces.network import Embedding as Embedding
    from genhub.interfaces.network import Given as Given
    from genhub.interfaces.network import Network as Network
    from genhub.interfaces.network import NetworkConfig as NetworkConfig
    from genhub.interfaces.network import network_for as network_for
    from genhub.interfaces.networked import NetworkedConfig as NetworkedConfig
    from genhub.interfaces.registry import SchedulerName as SchedulerName
    from genhub.interfaces.registry import load_scheduler as load_scheduler
    from genhub.interfaces.registry import scheduler_names as scheduler_names
    from genhub.interfaces.scheduler import Scheduler as Scheduler
    from genhub.interfaces.section import MAY_CHANGE as MAY_CHANGE
    from genhub.interfaces.section import Fraction as Fraction
    from genhub.interfaces.section import Interval as Interval
    from genhub.interfaces.section import ModelPath as ModelPath
    from genhub.interfaces.section import NonNegative as NonNegative
    from genhub.interfaces.section import PositiveInt as PositiveInt
    from genhub.interfaces.section import Section as Section
    from genhub.interfaces.section import Shape as Shape
    from genhub.interfaces.trainer import Run as Run
    from genhub.interfaces.trainer import StoppedRun as StoppedRun
    from genhub.interfaces.trainer import Trainer as Trainer
    from genhub.interfaces.trainer import TrainerState as TrainerState
    from genhub.interfaces.trainer import TrainingData as TrainingData
    from genhub.interfaces.view import View as View
    from genhub.interfaces.view import ViewSubject as ViewSubject
    from genhub.modalities.image import Image as Image
    from genhub.modalities.label import Label as Label
    from genhub.modalities.number import Number as Number
    from genhub.modalities.signal import Signal as Signal
    from genhub.modalities.text import Text as Text
    from genhub.modalities.vector import Vector as Vector
    from genhub.model import GenerativeModel as GenerativeModel
    from genhub.recipe.recipe import Recipe as Recipe
    from genhub.recipe.recipe import read_recipe as read_recipe
    from genhub.run.train import train as train
    from genhub.sampling.drawn import Drawn as Drawn
    from genhub.store.classes import StoredModel as StoredModel
    from genhub.store.contained import ContainedModel as ContainedModel
    from genhub.store.contained import check_contained as check_contained
    from genhub.store.manifest import read_json as read_json
    from genhub.views import show as show
    from genhub.views.canvas import Film as Film
    from genhub.views.canvas import PictureRow as PictureRow
    from genhub.views.canvas import table as table
    from genhub.views.grid import grid as grid

_MODULES = {
    "api": (
        "load",
        "push_to_hub",
        "sample",
    ),
    "benches.ranking": ("Ranking",),
    "benches.start": ("bench",),
    "conditioning.conditioner": ("Conditioner",),
    "conditioning.guidance": (
        "guidance_at",
        "guided",
        "unused_guidance",
    ),
    "data.open": ("load_data",),
    "errors": (
        "CheckpointError",
        "DataError",
        "GenhubError",
        "HubError",
        "HubUnavailable",
        "InputError",
        "Interrupted",
        "NewerFormat",
        "NotFinite",
        "PluginError",
        "RecipeError",
        "TrainingError",
        "did_you_mean",
    ),
    "evaluation.compare": (
        "Comparison",
        "compare",
    ),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.protocol": ("Evaluation",),
    "ground.patches": (
        "folded",
        "patch_for",
        "unfolded",
    ),
    "ground.processes": (
        "Share",
        "Together",
    ),
    "ground.randomness": (
        "Generators",
        "randn",
        "seed_for",
    ),
    "ground.run_log": ("RunLog",),
    "ground.weights": (
        "load_strictly",
        "save_tensors",
    ),
    "interfaces.capabilities": (
        "Autoencoder",
        "Denoiser",
        "DenoisingStep",
        "DiscreteAutoencoder",
        "Energy",
        "Likelihood",
    ),
    "interfaces.columns": (
        "DataConfig",
        "DataSpec",
        "ModelData",
    ),
    "interfaces.conditions": ("Conditions",),
    "interfaces.config": (
        "ModelConfig",
        "TrainerConfig",
    ),
    "interfaces.control": (
        "Choice",
        "Line",
        "Slider",
        "Upload",
    ),
    "interfaces.means": ("Means",),
    "interfaces.metric": (
        "MeasuredModel",
        "Metric",
    ),
    "interfaces.modality": (
        "ConditionEncoder",
        "Modality",
        "RawColumn",
        "Unreadable",
    ),
    "interfaces.model": (
        "Batch",
        "FrozenEncoder",
        "Model",
        "Phase",
    ),
    "interfaces.network": (
        "AnyNetwork",
        "Embedding",
        "Given",
        "Network",
        "NetworkConfig",
        "network_for",
    ),
    "interfaces.networked": ("NetworkedConfig",),
    "interfaces.registry": (
        "SchedulerName",
        "load_scheduler",
        "scheduler_names",
    ),
    "interfaces.scheduler": ("Scheduler",),
    "interfaces.section": (
        "Fraction",
        "Interval",
        "MAY_CHANGE",
        "ModelPath",
        "NonNegative",
        "PositiveInt",
        "Section",
        "Shape",
    ),
    "interfaces.trainer": (
        "Run",
        "StoppedRun",
        "Trainer",
        "TrainerState",
        "TrainingData",
    ),
    "interfaces.view": (
        "View",
        "ViewSubject",
    ),
    "modalities.image": ("Image",),
    "modalities.label": ("Label",),
    "modalities.number": ("Number",),
    "modalities.signal": ("Signal",),
    "modalities.text": ("Text",),
    "modalities.vector": ("Vector",),
    "model": ("GenerativeModel",),
    "recipe.recipe": (
        "Recipe",
        "read_recipe",
    ),
    "run.train": ("train",),
    "sampling.drawn": ("Drawn",),
    "store.classes": ("StoredModel",),
    "store.contained": (
        "ContainedModel",
        "check_contained",
    ),
    "store.manifest": ("read_json",),
    "views": ("show",),
    "views.canvas": (
        "Film",
        "PictureRow",
        "table",
    ),
    "views.grid": ("grid",),
}
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
