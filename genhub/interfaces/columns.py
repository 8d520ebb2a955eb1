"""Configs of data: the recipe's section `data`, the columns of a model, and the facts of a data set. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from genhub.errors import DataError, PluginError, did_you_mean, explained, first_fault
from genhub.ground.brief import line, sides
from genhub.interfaces.modality import AnyModality, Columns, Modality
from genhub.interfaces.registry import MODALITIES, load_all, load_class
from genhub.interfaces.section import MAY_CHANGE, NonNegativeInt, PositiveInt, Section

Name = Annotated[str, Field(min_length=1, max_length=255)]
"""A column's name."""


BUILT_IN = ("digits", "wine", "moons", "circles", "checkerboard", "gaussians")
"""Names of the data that need no file."""


class ColumnConfig(Section):
    """Keys of one column, under `data.columns.NAME`: what genhub can't see for itself. A modality's own keys, such as an
    image's `size`, stand beside these."""

    model_config = ConfigDict(extra="allow", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    modality: str | None = None
    """A registered modality, or module:Class; left out: recognised from the column."""
    source: Name | tuple[Name, ...] | None = Field(default=None, alias="from")
    """The column of the data that it is made from, or several for one vector; left out: the one of its own name."""

    @model_validator(mode="after")
    def _has_known_keys(self) -> Self:
        extra, cls = self.__pydantic_extra__ or {}, _class(self.modality) if self.modality else None
        known = cls.Options.model_fields.keys() if cls else {key for each in _all() for key in each.Options.model_fields}
        for key in extra.keys() - known if extra else ():
            whose = f"no key of a column of modality {self.modality}" if cls else "no column's key"
            raise ValueError(f"{key}: {whose}; {did_you_mean(key, [*known, 'modality', 'from'])}")
        if cls:
            cls.Options.model_validate(extra)  # whose faults become this section's
        return self

    def options(self, modality: str) -> Section:
        """Return the `Options` of a modality with this column's keys.

        Raises:
            ValueError: a key that it doesn't have, or a value that it can't have.
        """
        cls, extra = _class(modality), self.__pydantic_extra__ or {}
        for key in extra.keys() - cls.Options.model_fields.keys():
            near = did_you_mean(key, cls.Options.model_fields)
            raise ValueError(f"{key}: no key of a column of modality {modality}; {near}")
        try:
            return cls.Options.model_validate(extra)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise ValueError("".join(f"{key}: " for key in fault["loc"][:1]) + explained(fault)) from error


def _all() -> list[type[Modality]]:
    """Return the registered modalities that can be used."""
    return list(load_all(MODALITIES)[0].values())


def _class(modality: str) -> type[Modality]:
    try:
        cls: type[Modality] = load_class(MODALITIES, modality, Path.cwd())
    except PluginError as error:
        raise ValueError(f"modality: {error}") from error
    return cls


class DataConfig(Section):
    """Keys of the data: the place of its columns, and how rows become batches."""

    name: str | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = "digits"
    """`digits` (scikit-learn's 1,797 8x8 digits) or `wine`; points of the plane: `moons`, `circles`, `checkerboard`,
    `gaussians`; a folder of images or sounds, perhaps with metadata.csv or metadata.jsonl; parquet, arrow, csv, jsonl, json,
    npz or npy files; or a Hub data set id. Several files in their order: a glob such as shards/*.parquet, or a list of files
    and globs."""
    split: str = "train"
    """Name of the split, or slices such as train[:1000]. A folder or file without splits is `train`."""
    target: Name | None = None
    """The column that a model learns to draw; left out: the only one that can be drawn."""
    columns: Mapping[Name, ColumnConfig] = Field(default={}, max_length=1000)
    """Columns of which more is to be said than genhub sees: {price: number, photo: {size: 64}, point: {from: [x, y],
    modality: vector}}; `genhub data SOURCE` prints what it sees."""
    num_rows: PositiveInt | None = None
    """Points of the plane: how many; left out: 10,000."""
    flip: bool = False
    """Mirror a random half of the rows each epoch, left to right: the target, and the images that it is given."""
    batch_size: PositiveInt = 64
    """Rows an optimizer step, over all processes and accumulation steps together."""
    in_memory: Annotated[bool | None, MAY_CHANGE] = None
    """Read everything once and keep it. Left out: yes where it takes at most 1 GiB."""
    num_workers: Annotated[NonNegativeInt, MAY_CHANGE] = 2
    """Processes that read rows when they are not kept in memory."""
    on_error: Literal["fail", "skip"] = "fail"
    """A row that can't be read: stop and name it, or leave it out and list it."""
    revision: str | None = None
    """Hub data sets: branch, tag or commit."""
    streaming: bool = False
    """Read parquet, arrow, JSON lines or a Hub data set as it comes, in place of copying it to the disk first; see
    docs/scale.md."""
    shuffle_buffer: PositiveInt = 1000
    """Streaming: rows that each process reads ahead and shuffles among themselves."""
    cache_latents: Annotated[bool, MAY_CHANGE] = False
    """For a model that looks at its target through a frozen network, such as a latent DDPM: what that makes of each row is
    computed once and kept on the disk; see docs/scale.md."""

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, values: Any) -> Any:
        """Read `columns: {price: number}` as `columns: {price: {modality: number}}`."""
        columns = values.get("columns") if isinstance(values, Mapping) else None
        if not isinstance(columns, Mapping):
            return values
        spelled = {name: {"modality": keys} if isinstance(keys, str) else keys for name, keys in columns.items()}
        return {**values, "columns": spelled}

    @model_validator(mode="after")
    def _can_be_cached(self) -> Self:
        if self.cache_latents and self.streaming:
            raise ValueError("cache_latents: a stream's rows have no numbers to keep latents by; leave one of the two out")
        return self

    @property
    def title(self) -> str:
        """The name for a message; of a list, its first names."""
        if isinstance(self.name, str):
            return self.name
        more = len(self.name) - 3
        return " + ".join(self.name[:3]) + (f" and {more} more" if more > 0 else "")


class ModelData(Section):
    """Columns that a model is made for, as they were learnt from the training data. The data fill it in; a recipe leaves it
    out, and genhub.json has it."""

    column: Name = "image"
    """Name of the target's column."""
    target: AnyModality
    """The modality of what it draws."""
    conditions: Columns = {}  # noqa: RUF012
    """The modalities of what it is given, by column."""


class DataSpec(Section):
    """Facts about a data set: what a model was trained on. Checkpoints and cards carry them."""

    name: str
    split: str
    target: Name
    """The column that is drawn."""
    columns: Columns
    """The modalities of the target and of the conditions in use, by column."""
    num_rows: NonNegativeInt
    """0: a stream's, which nobody has counted."""
    fingerprints: Mapping[str, str]
    """By column: changes when a value or the rows' order changes."""

    @model_validator(mode="after")
    def _has_its_target(self) -> Self:
        if not {self.target} <= self.columns.keys() == self.fingerprints.keys():
            raise ValueError("columns: the target and the conditions, each with a fingerprint")
        return self

    @property
    def title(self) -> str:
        """Description of the data in a few words."""
        shape, rows = sides(self.modality.shape), f"{self.num_rows:,} rows" if self.num_rows else "a stream"
        given = f", given {', '.join(self.conditions)}" if self.conditions else ""
        return f"{Path(self.name).name}, {rows} of {self.target}: {self.modality.modality} {shape}{given}"

    def __repr__(self) -> str:
        return line(type(self).__name__, self.title)

    @property
    def modality(self) -> Modality:
        """The target's modality."""
        return self.columns[self.target]

    @property
    def conditions(self) -> dict[str, Modality]:
        """The conditions' modalities, by column."""
        return {name: modality for name, modality in self.columns.items() if name != self.target}

    @property
    def fingerprint(self) -> str:
        """Changes when a value in use or the rows' order changes."""
        return hashlib.blake2b(repr(sorted(self.fingerprints.items())).encode(), digest_size=16).hexdigest()

    @property
    def model_data(self) -> ModelData:
        """The columns as a model's Config has them."""
        return ModelData(column=self.target, target=self.modality, conditions=self.conditions)


def columns_of_format_1(shape: Any, value_range: Any, classes: Any = None, names: Any = ()) -> dict[str, dict[str, Any]]:
    """Return the columns of a model or a data set of format 1, before there were columns: its images are the column
    `image`, its classes, where there are any, the column `label`."""
    columns = {"image": {"modality": "image", "shape": shape, "value_range": value_range}}
    return columns if classes is None else columns | {"label": {"modality": "label", "number": classes, "names": names}}


def described(**values: Any) -> DataSpec:
    """Return the spec of a data set.

    Raises:
        DataError: no model can be shaped by it: too many classes, too long names, too large elements.
    """
    try:
        return DataSpec(**values)
    except ValidationError as error:
        raise DataError(f"data: {first_fault(error)}") from error


def count_of(spec: DataSpec) -> str:
    return f"{spec.num_rows:,} rows" if spec.num_rows else "a stream of rows"
