"""The Configs that genhub and plugins share: sections of a recipe as frozen pydantic models. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from genhub.errors import DataError, first_fault, shown
from genhub.ground.ids import HUB, parse_id
from genhub.interfaces.annotations import without_booleans

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
    """A recipe from the Hub names a model by a path."""


class MayChange:
    """Mark of a key that changes no step's result: a run that goes on may have another value for it than it was
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
    """Facts about a data set: models are shaped by them, and checkpoints and cards carry them."""

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
    """Return the spec of a data set.

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
    """Keys from which a model is built; a plugin's `Config` derives from it and adds its own.

    `sample_shape` and `num_classes` may be left out of a recipe: the data fill them. Given, they must agree with it.
    """

    name: str = ""
    """A registered name (`genhub plugins` lists them), or module:Class for a class of your own."""
    sample_shape: Shape | None = None
    """(channels, height, width) of an image; left out: taken from the data."""
    num_classes: NumClasses | None = None
    """Number of classes; left out: taken from the data."""

    def mistakes(self) -> Mapping[str, str]:
        """Return the keys of a recipe that contradict each other, though each value is valid: key path to what is wrong,
        such as {"label_dropout": "changes nothing without conditional: true"}. Only keys that the recipe gives are refused
        for it, and a model that was trained so still loads."""
        return {}


class DataConfig(Section):
    """Keys of the data: the place of images, and how they become batches."""

    name: str | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = "digits"
    """`digits` (scikit-learn's 1,797 8x8 digits), a folder of images, parquet or arrow files, or a Hub data set id. Several
    files in their order: a glob such as shards/*.parquet, or a list of files and globs."""
    split: str = "train"
    """Name of the split, or slices such as train[:1000]. A folder or file without splits is `train`."""
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
        """The name for a message; of a list, its first names."""
        if isinstance(self.name, str):
            return self.name
        more = len(self.name) - 3
        return " + ".join(self.name[:3]) + (f" and {more} more" if more > 0 else "")

    @property
    def size(self) -> tuple[int, int] | None:
        """Size (height, width) that images will have, as far as the recipe alone tells."""
        if self.image_size is None:
            return (8, 8) if self.name == "digits" else None
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size


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
    """Number of checkpoints to keep, the newest ones."""
    keep_every: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Keep those at multiples of so many steps, too, for good; null: only the newest."""
