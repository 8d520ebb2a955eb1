"""The sections of a recipe as frozen pydantic models. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
    field_validator,
)

from genhub.errors import PluginError, did_you_mean, shown
from genhub.interfaces.config import TrainerConfig
from genhub.interfaces.registry import METRICS, load_class, plugin_names
from genhub.interfaces.section import MAY_CHANGE, Duration, Fraction, NonNegativeInt, PositiveInt, Section

OPTIMIZERS = ("adamw", "adam", "adamax", "adadelta", "adagrad", "muon", "nadam", "radam", "rmsprop", "rprop", "sgd", "asgd")
CLASS = r"\w[\w.]*:\w[\w.]*"


def _optimizer_name(name: str) -> str:
    if name not in OPTIMIZERS and not re.fullmatch(CLASS, name):
        raise ValueError(f"can't be {shown(name)}; {did_you_mean(name, OPTIMIZERS)} (or module:Class)")
    return name


OptimizerName = Annotated[
    str, AfterValidator(_optimizer_name), WithJsonSchema({"anyOf": [{"enum": list(OPTIMIZERS)}, {"pattern": f"^{CLASS}$"}]})
]
"""A class of torch.optim in small letters; muon: Muon for matrices and AdamW for the rest; or module:Class."""


class OptimizerOverride(Section):
    """Keys of one network's optimizer that differ from `trainer.optimizer`; what is left out is torch's default."""

    name: OptimizerName | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    betas: tuple[Fraction, Fraction] | None = None
    eps: Annotated[float, Field(ge=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    momentum: Fraction | None = None
    alpha: Fraction | None = None
    nesterov: bool | None = None
    amsgrad: bool | None = None
    options: Mapping[str, Any] = {}
    """Arguments of the class beyond these: {ns_steps: 3}."""


class OptimizerConfig(OptimizerOverride):
    """A class of torch.optim, by its name in small letters, or any other as module:Class, and its arguments."""

    name: OptimizerName = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3


class LRSchedulerConfig(Section):
    """The learning rate as a function of the step, multiplied with the optimizer's `lr`."""

    name: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: stay, fall in a straight line, or along half a cosine, reaching `final_ratio` at the end."""
    warmup_steps: NonNegativeInt = 0
    """Rise in a straight line from 0 over this many steps."""
    final_ratio: Fraction = 0.0


class EMAConfig(Section):
    """Averaged weights: decay min(`decay`, (1 + step) / (10 + step)), so that early averages forget the start."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    every: PositiveInt = 1
    """Average every so many steps; the decay stays per step."""


class HubConfig(Section):
    """Push checkpoints to the Hub while training, in the background; see docs/hub.md."""

    repo_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*$", max_length=96)]
    """Repository, user/name; made if it is not there."""
    every: PositiveInt | None = None
    """Push the first checkpoint after every so many steps, and the last; left out: each checkpoint."""
    private: bool = False
    """Make the repository private, if it has to be made."""
    revision: str | None = None
    """The branch, made if it is not there; left out: main."""
    license: str | None = None
    """For the card: an id as the Hub has them, such as mit or cc-by-4.0."""


def _metric_name(name: str) -> str:
    if name not in (known := plugin_names(METRICS)):
        raise ValueError(f"no metric is called {shown(name)}; {did_you_mean(name, known)}")
    return name


MetricName = Annotated[str, AfterValidator(_metric_name)]
"""Name of a registered metric; no class is imported to check it."""


class EvaluateConfig(Section):
    """Measure the model while it trains, when a checkpoint is saved; see docs/evaluation.md."""

    every: PositiveInt = 5000
    """Measure after every so many steps, a multiple of trainer.save_every, and at the end."""
    n: Annotated[int, Field(strict=True, ge=2, lt=2**63)] = 2000
    """Number of elements to draw, on all processes together; the same seeds each time."""
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = ("frechet_distance",)
    """Metrics to compute, as `genhub evaluate --metrics` names them."""
    extractor: str = "probe"
    """A registered extractor of features, or NAME:SOURCE, such as dinov2:FOLDER."""
    held_out: str = "test"
    """The split of the same data that is not trained on, for the metrics that need one."""
    save_best: MetricName | None = None
    """Keep the checkpoint that is best by this metric, besides those of keep_last; null: none."""

    @field_validator("save_best")
    @classmethod
    def _tells_good_from_bad(cls, name: MetricName | None) -> MetricName | None:
        if name is None:
            return None
        try:
            figures = load_class(METRICS, name).figures
        except PluginError as error:
            raise ValueError(str(error)) from error
        if not next(iter(figures.values())):
            raise ValueError(f"can't be {shown(name)}, which says nothing about how good what is drawn is")
        return name

    @property
    def measured(self) -> tuple[MetricName, ...]:
        return tuple(dict.fromkeys([*self.metrics, *([self.save_best] if self.save_best else [])]))


def _yes_no(value: object) -> object:
    """Return "no" for a bare `no`, which YAML 1.1 reads as false."""
    return "no" if value is False else value


class AccelerateConfig(TrainerConfig):
    """Keys of the built-in trainer, `accelerate`."""

    stop_after: Annotated[Duration | None, MAY_CHANGE] = None
    """Save and stop after this time (3h50m, 90m, 1d12h), counted from the command's start; started again, it goes on."""
    gradient_accumulation_steps: Annotated[PositiveInt, MAY_CHANGE] = 1
    """Split each batch into so many parts, one after another: the same result in less memory."""
    find_batch_size: Annotated[bool, MAY_CHANGE] = False
    """Before the first step, raise gradient_accumulation_steps until a part fits into memory; found once a run."""
    skip_bad_steps: Annotated[NonNegativeInt, MAY_CHANGE] = 0
    """Leave out up to so many updates whose loss or gradient is not finite, in place of stopping at the first."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip each optimizer's gradient to this norm; null: don't."""
    optimizer: OptimizerConfig = OptimizerConfig()
    optimizers: Mapping[str, OptimizerOverride] = {}
    """Per network, keys that differ: {discriminator: {lr: 2.0e-4}}; another name starts from that class's defaults. Where
    learning rates differ, the log has one for each optimizer, such as lr/discriminator, in place of lr."""
    lr_scheduler: LRSchedulerConfig = LRSchedulerConfig()
    ema: EMAConfig | None = EMAConfig()
    """Averaged weights for sampling and export; null: none."""
    mixed_precision: Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(_yes_no)] = "no"
    tf32: bool = True
    """On CUDA: compute float32 matrix products and convolutions in TF32, several times as fast, with 10 bits of mantissa."""
    channels_last: bool | None = None
    """Keep convolutions' weights with channels last. Left out: on CUDA in mixed precision, made for it; else not."""
    sharding: Annotated[Literal["no", "full"], BeforeValidator(_yes_no), MAY_CHANGE] = "no"
    """full: each process keeps a piece of weights, gradients, optimizer state and averages (FSDP2); see docs/scale.md."""
    compile: bool = False
    """Whether to torch.compile the networks for training: a minute more to start, and slower on a CPU. On one GPU, where the
    model has one phase, as CUDA graphs: a network is one launch in place of hundreds."""
    trackers: Annotated[tuple[str, ...], MAY_CHANGE] = ("tensorboard",)
    """Trackers besides metrics.jsonl: tensorboard, wandb, trackio, or any other that accelerate knows; see
    docs/trackers.md."""
