"""The sections of a recipe as frozen pydantic models. Nothing here imports torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from genhub.annotations import without_booleans
from genhub.console import shown
from genhub.errors import DataError, first_fault
from genhub.ids import HUB, parse_id

# Strict: `true` is not 1, "10" is not 10, 2.5 steps is an error. YAML 1.1 reads `1e-4` as text, so floats stay lax.
PositiveInt = Annotated[int, Field(strict=True, ge=1, lt=2**63)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NumClasses = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
MAX_NUMBERS = 2**28
"""Most numbers in an image: as many as in a grey one of 16,384x16,384."""


def _drawable(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    if math.prod(shape) > MAX_NUMBERS:
        raise ValueError(f"an image of {'x'.join(map(str, shape))} is more than genhub draws, {MAX_NUMBERS:,} numbers")
    return shape


Shape = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], AfterValidator(_drawable)]
"""(channels, height, width)"""

STORED = {"stored": True}
"""The validation context of a Config that is read from a model folder, not from a recipe."""
FROM_HUB = {"from_hub": True}
"""Validation context of a Config in a recipe from the Hub, where a stranger wrote it."""


class NotOnTheHub(ValueError):
    """Raised where a recipe from the Hub names a model by a path."""


class MayChange:
    """Mark on a key that changes no step's result: a run that goes on may have another value for it than it was
    started with. All others are refused (docs/reliability.md)."""

    def __repr__(self) -> str:
        return "MAY_CHANGE"


MAY_CHANGE = MayChange()
"""The mark, as in `key: Annotated[int, MAY_CHANGE] = 1`."""


def _not_stored(value: str, info: ValidationInfo) -> str:
    if info.context == STORED:
        raise ValueError("a model folder stands alone: it can't name another one")
    if info.context == FROM_HUB and not (value.startswith(HUB) and parse_id(value)):
        raise NotOnTheHub(f"a recipe from the Hub can name a model on the Hub, user/name, not {shown(value)}")
    return value


ModelPath = Annotated[str, Field(min_length=1), AfterValidator(_not_stored)]
"""A trained model that a recipe names, as `genhub.load` takes it. A model that opens one puts a `StoredModel` in its place
into its Config, and saves the weights with its own: a Config in a model folder can't have a path."""


def seconds_in(duration: str) -> int:
    """
    >>> seconds_in("3h50m")
    13800

    Raises:
        ValueError: it is no duration, or 0.
    """
    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", duration)
    seconds = sum(int(n or 0) * unit for n, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True)) if parts else 0
    if not seconds:
        raise ValueError(f"must be a duration such as 3h50m, 90m or 1d12h, not {shown(duration)}")
    return seconds


def _duration(text: str) -> str:
    seconds_in(text)
    return text


Duration = Annotated[str, Field(max_length=20), AfterValidator(_duration)]


def share_of(batch_size: int, processes: int, accumulation: int = 1) -> int:
    """How many images of a batch are in one of a process's parts.

    >>> share_of(64, 4, 2)
    8

    Raises:
        DataError: they can't be split like that, and the nearest number that can.
    """
    part, rest = divmod(batch_size, processes * accumulation)
    if rest:
        split = f"{processes} processes x {accumulation} accumulation steps"
        nearest = max(1, round(batch_size / (processes * accumulation))) * processes * accumulation
        raise DataError(f"data.batch_size: {batch_size} can't be split over {split}; the nearest that can: {nearest}")
    return part


class Section(BaseModel):
    """Base of every section: frozen, unknown keys are errors, a docstring under a field describes it in the schema."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True,
        protected_namespaces=(),
    )  # fmt: skip

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, value: object, info: ValidationInfo) -> object:
        assert info.field_name
        return without_booleans(cls.model_fields[info.field_name].annotation, value)


STORED_CONTENT = "stored-"
"""Prefix of a fingerprint taken from the images' stored bytes instead of their pixels."""


class DataSpec(Section):
    """What a data set turned out to be; models are shaped by it, checkpoints and cards carry it."""

    name: str
    split: str
    shape: Shape
    """(channels, height, width) of an image."""
    num_classes: NumClasses | None = None
    class_names: Annotated[tuple[Annotated[str, Field(max_length=255)], ...], Field(max_length=1_000_000)] = ()
    value_range: tuple[float, float] | None = Field(default=None, exclude_if=lambda value: value is None)
    """The stored values that became black and white, -1 and 1; None: the type's own, such as 0 and 255."""
    num_images: NonNegativeInt
    """0: a stream's, which nobody has counted."""
    fingerprint: str
    """Changes when an image, a label or their order changes."""


def described(**values: Any) -> DataSpec:
    """The spec of a data set.

    Raises:
        DataError: no model can be shaped by it: too many classes, too long names, too large images.
    """
    try:
        return DataSpec(**values)
    except ValidationError as error:
        raise DataError(f"data: {first_fault(error)}") from error


def count_of(spec: DataSpec) -> str:
    return f"{spec.num_images:,} images" if spec.num_images else "a stream of images"


class ModelConfig(Section):
    """What is needed to build a model; a plugin's `Config` derives from it and adds its own keys.

    `sample_shape` and `num_classes` may be left out of a recipe: the data fill them. Given, they must agree with it.
    """

    name: str = ""
    """A registered name (`genhub plugins` lists them), or module:Class for a class of your own."""
    sample_shape: Shape | None = None
    """(channels, height, width) of an image; left out: taken from the data."""
    num_classes: NumClasses | None = None
    """How many labels there are; left out: taken from the data."""

    def mistakes(self) -> Mapping[str, str]:
        """Return the keys of a recipe that contradict each other, though each value is valid: key path to what is wrong,
        such as {"label_dropout": "changes nothing without conditional: true"}. Only keys that the recipe gives are refused
        for it, and a model that was trained so still loads."""
        return {}


class DataConfig(Section):
    """Where images come from and how they become batches."""

    name: str | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = "digits"
    """`digits` (scikit-learn's 1,797 8x8 digits), a folder of images, parquet or arrow files, or a Hub data set id. Several
    files in their order: a glob such as shards/*.parquet, or a list of files and globs."""
    split: str = "train"
    """Which split; also slices such as train[:1000]. A folder or file without splits is `train`."""
    image_column: str | None = None
    """The column with the images; left out: the only one that holds images."""
    label_column: str | None = None
    """The column with the labels; left out: the only class-label column, if there is one."""
    image_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Side, or [height, width]: images are resized to cover it, then centre-cropped. Left out: all must be one size."""
    channels: Literal[1, 3, 4] | None = None
    """Convert to grey (1), RGB (3) or RGBA (4). Left out: grey if all images are grey, else RGB."""
    value_range: Literal["auto"] | tuple[float, float] | None = None
    """The values that are black and white in the images as they are stored, such as [0, 4095] for 12 bits in a 16-bit file;
    those beyond are cut off. auto: the least and the largest of the training data. Left out: the type's, as 0 to 65535."""
    flip: bool = False
    """Mirror a random half of the images each epoch, left to right."""
    batch_size: PositiveInt = 64
    """Images an optimizer step, over all processes and accumulation steps together."""
    in_memory: Annotated[bool | None, MAY_CHANGE] = None
    """Decode everything once and keep it as bytes. Left out: yes where it takes at most 1 GiB."""
    num_workers: Annotated[NonNegativeInt, MAY_CHANGE] = 2
    """Processes that decode images when they are not kept in memory."""
    on_error: Literal["fail", "skip"] = "fail"
    """An image that can't be read: stop and name it, or leave it out and list it."""
    revision: str | None = None
    """Hub data sets: branch, tag or commit."""
    streaming: bool = False
    """Read parquet, arrow or a Hub data set as it comes, in place of copying it to the disk first; see docs/scale.md."""
    shuffle_buffer: PositiveInt = 1000
    """Streaming: images that each process reads ahead and shuffles among themselves."""
    cache_latents: Annotated[bool, MAY_CHANGE] = False
    """For a model that looks at images through a frozen network, such as a latent DDPM: what that makes of each image is
    computed once and kept on the disk; see docs/scale.md."""

    @model_validator(mode="after")
    def _can_be_cached(self) -> Self:
        if self.cache_latents and self.streaming:
            raise ValueError("cache_latents: a stream's images have no numbers to keep latents by; leave one of the two out")
        return self

    @field_validator("value_range")
    @classmethod
    def _has_two_ends(
        cls, values: Literal["auto"] | tuple[float, float] | None
    ) -> Literal["auto"] | tuple[float, float] | None:
        if isinstance(values, tuple) and values[0] >= values[1]:
            raise ValueError(f"must be [low, high] with low below high, not [{values[0]:g}, {values[1]:g}]")
        return values

    @property
    def title(self) -> str:
        """The name in a line, of a list its first names."""
        if isinstance(self.name, str):
            return self.name
        more = len(self.name) - 3
        return " + ".join(self.name[:3]) + (f" and {more} more" if more > 0 else "")

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) that images will have, as far as the recipe alone tells."""
        if self.image_size is None:
            return (8, 8) if self.name == "digits" else None
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size


OptimizerName = Literal[
    "adamw", "adam", "adamax", "adadelta", "adagrad", "nadam", "radam", "rmsprop", "rprop", "sgd", "asgd"
]  # fmt: skip


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


class OptimizerConfig(OptimizerOverride):
    """A class of torch.optim, by its name in small letters, and its arguments."""

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
    """user/name; made if it is not there."""
    every: PositiveInt | None = None
    """Push the first checkpoint after every so many steps, and the last; left out: each checkpoint."""
    private: bool = False
    """Make the repository private, if it has to be made."""
    revision: str | None = None
    """The branch, made if it is not there; left out: main."""
    license: str | None = None
    """For the card: an id as the Hub has them, such as mit or cc-by-4.0."""


MetricName = Literal[
    "frechet_distance", "kernel_distance", "precision_recall", "density_coverage", "label_entropy", "label_accuracy",
    "memorised", "reconstruction", "bits_per_dimension", "cost",
]  # fmt: skip
"""The names of genhub.evaluation.figures.METRICS, here for recipes to be checked without torch."""


class EvaluateConfig(Section):
    """Measure the model while it trains, when a checkpoint is saved; see docs/evaluation.md."""

    every: PositiveInt = 5000
    """Measure after every so many steps, a multiple of trainer.save_every, and at the end."""
    n: Annotated[int, Field(strict=True, ge=2, lt=2**63)] = 2000
    """How many images to draw, on all processes together; the same seeds each time."""
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = ("frechet_distance",)
    """What to measure, as `genhub evaluate --metrics` names it."""
    extractor: str = "probe"
    """A registered extractor of features, or NAME:SOURCE, such as dinov2:FOLDER."""
    held_out: str = "test"
    """The split of the same data that is not trained on, for the metrics that need one."""
    save_best: MetricName | None = None
    """Keep the checkpoint that is best by this metric, besides those of keep_last; null: none."""

    @field_validator("save_best")
    @classmethod
    def _tells_good_from_bad(cls, name: MetricName | None) -> MetricName | None:
        if name == "cost":
            raise ValueError("can't be 'cost', which says nothing about how good the images are")
        return name

    @property
    def measured(self) -> tuple[MetricName, ...]:
        return tuple(dict.fromkeys([*self.metrics, *([self.save_best] if self.save_best else [])]))


def _yes_no(value: object) -> object:
    """YAML 1.1 reads a bare `no` as false."""
    return "no" if value is False else value


class TrainerConfig(Section):
    """The keys that every trainer has; its own `Config` adds to them, and honours all."""

    name: str = "accelerate"
    """A registered trainer, or module:Class for a class of your own."""
    max_steps: Annotated[PositiveInt, MAY_CHANGE] = 10_000
    device: Annotated[Literal["auto", "cpu"], MAY_CHANGE] = "auto"
    """auto: the accelerator that is there, else the CPU."""
    log_every: Annotated[PositiveInt, MAY_CHANGE] = 50
    sample_every: Annotated[PositiveInt | None, MAY_CHANGE] = 1000
    """Draw a preview every so many steps, and at the end; null: never."""
    num_samples: Annotated[PositiveInt, MAY_CHANGE] = 64
    """Images in a preview."""
    save_every: Annotated[PositiveInt, MAY_CHANGE] = 1000
    """Save a checkpoint every so many steps, and at the end."""
    keep_last: Annotated[PositiveInt, MAY_CHANGE] = 3
    """How many checkpoints to keep, the newest."""
    keep_every: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Keep those at multiples of so many steps, too, for good; null: only the newest."""


class AccelerateConfig(TrainerConfig):
    """How the built-in trainer, `accelerate`, trains."""

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
    """Per network, keys that differ: {discriminator: {lr: 2.0e-4}}."""
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
    """torch.compile the networks for training: a minute more to start, and slower on a CPU. On one GPU, where the model has
    one phase, as CUDA graphs: a network is one launch in place of hundreds."""
    keep_memory: Annotated[bool | None, MAY_CHANGE] = None
    """Keep freed memory for the next step in place of giving it back to the system (Linux); results are the same. Left
    out: where the page faults of the first steps show that it pays."""
    trackers: Annotated[tuple[str, ...], MAY_CHANGE] = ("tensorboard",)
    """Where metrics go besides metrics.jsonl: any tracker accelerate knows and that is installed."""


def check_split(data: DataConfig, trainer: TrainerConfig, processes: int) -> None:
    """
    Raises:
        DataError: a batch can't be split over so many processes, and the nearest size that can.
    """
    accumulation = 1
    if isinstance(trainer, AccelerateConfig) and not trainer.find_batch_size:
        accumulation = trainer.gradient_accumulation_steps
    share_of(data.batch_size, processes, accumulation)
