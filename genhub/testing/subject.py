"""Subject of a model's checks, which share its config, data, and a copy trained a little. All on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from genhub.data.batches import TableData
from genhub.data.open import load_data
from genhub.errors import InputError
from genhub.ground.randomness import seed_for
from genhub.interfaces.columns import ModelData
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.config import ModelConfig
from genhub.interfaces.model import Batch, Model
from genhub.interfaces.registry import MODELS, plugin_of
from genhub.modalities.image import Image
from genhub.modalities.label import Label
from genhub.modalities.vector import Vector
from genhub.model import GenerativeModel
from genhub.recipe.recipe import Recipe, read_recipe
from genhub.recipe.sections import AccelerateConfig
from genhub.testing.report import Broken, Subject
from genhub.testing.rows import write_rows
from genhub.training.optim import FrozenNetworks, build_optimizers

STEPS, STOPPED_AT = 4, 2
TRAINER_KEYS = {
    "max_steps": STEPS,
    "save_every": STOPPED_AT,
    "sample_every": STOPPED_AT,
    "num_samples": 4,
    "log_every": 2,
    "trackers": [],
    "device": "cpu",
    "ema": {"decay": 0.9},
}
DIGITS = ModelData(target=Image(shape=(1, 8, 8)), conditions={"label": Label(number=10, names=tuple("0123456789"))})
"""Columns of the data that a model is checked with where nobody gives others."""
POINTS = ModelData(column="point", target=Vector(shape=(2,), mean=(0.0, 0.0), std=(1.0, 1.0)), conditions=DIGITS.conditions)
"""Columns that a model is checked with that draws vectors and no images."""
Values = ModelConfig | Mapping[str, Any] | None


class ModelSubject(Subject):
    """A model class under examination."""

    def __init__(self, cls: type[GenerativeModel], values: Values, data: ModelData | None = None) -> None:
        self.cls = cls
        if isinstance(values, ModelConfig):
            data, values = data or values.data, values.model_dump(exclude={"data"})
        self.values = dict(values or {})
        if data is None and not _can_be_for(DIGITS, cls, self.values) and _can_be_for(POINTS, cls, self.values):
            data = _given(POINTS, self.values)
        self.made_up = None if data is None or _are_digits(data) else data
        """Columns whose rows are made up; None: the digits'."""
        if data is not None:
            self.values["conditions"] = tuple(data.conditions)
        elif "conditions" not in self.values and _needs_conditions(cls, self.values):
            self.values["conditions"] = tuple(DIGITS.conditions)

    @cached_property
    def _unfilled(self) -> Recipe:
        """Recipe of a few steps, before the data have filled it."""
        data: dict[str, Any] = {"name": "digits", "batch_size": 16}
        if self.made_up is not None:
            file = self.folder / "rows.parquet"
            write_rows(self.made_up, file)
            data |= {"name": str(file), "target": self.made_up.column}
        content = {
            "model": self.values | {"name": name_of(self.cls)},
            "data": data,
            "trainer": TRAINER_KEYS,
            "run_dir": str(self.folder / "run"),
        }
        recipe = read_recipe(content)
        if recipe.model_class() is not self.cls:
            raise Broken(f"'{recipe.model.name}' is another class, {recipe.model_class()!r}", at=self.cls)
        return recipe

    @cached_property
    def data(self) -> TableData:
        recipe = self._unfilled
        data = load_data(recipe.data, recipe.model.conditions, self.made_up, batch_size=32)
        data.condition_dropout = recipe.model.condition_dropout
        return data

    @cached_property
    def recipe(self) -> Recipe:
        """Recipe of a few steps, with the model's config as the data filled it."""
        return self._unfilled.filled_from(self.data.spec)

    @property
    def batch(self) -> Batch:
        """Batch of 32 rows, always the same."""
        return next(self.data.batches(seed=0))

    def build(self) -> GenerativeModel:
        """Return a fresh model, always with the same weights, in training mode."""
        torch.manual_seed(0)
        return self.cls(self.recipe.model)

    @cached_property
    def original(self) -> GenerativeModel:
        """Model that ten steps have moved from where it starts; not to be changed."""
        model = self.build()
        model._apply(torch.clone)  # type: ignore[no-untyped-call]  # as a move to a GPU would, which no public call does on a CPU: buffers are new tensors
        return self.train(model, 10)

    def trained(self) -> GenerativeModel:
        """Return a fresh model with the original's weights and buffers, in training mode."""
        model = self.build()
        model.load_state_dict(self.original.state_dict())
        return model

    def train(self, model: GenerativeModel, steps: int) -> GenerativeModel:
        """Train by ordinary steps, as the trainer takes them, without its surroundings."""
        phases = list(model.phases())
        frozen, optimizers = FrozenNetworks(model, phases), build_optimizers(model, phases, AccelerateConfig())
        for step, batch in enumerate(islice(self.data.batches(seed=0), steps)):
            torch.manual_seed(seed_for(0, step))
            for phase in phases:
                if step % phase.interval == 0:
                    frozen.all_but(phase)
                    model(batch, phase.name)["loss"].backward()
                    optimizers[frozenset(phase.trains)].step(1.0)
            model.after_update(step)
        return model

    def conditions(self, n: int) -> Conditions:
        """Return what the data's first n rows are given."""
        return self.data.conditions(range(n))

    def draw(self, model: Model, n: int, seeds: Sequence[int] = (), conditions: Conditions | None = None) -> Tensor:
        """Return n elements as genhub draws them, (n, *shape): see `drawn`; given what the data's first rows are, where
        nothing else is said."""
        return drawn(model, n, seeds or range(n), self.conditions(n) if conditions is None else conditions)


def drawn(model: Model, n: int, seeds: Sequence[int], conditions: Conditions | None) -> Tensor:
    """Return n elements (n, *shape) in eval mode, with a generator an element."""
    with torch.inference_mode():
        return model.eval().sample(n, conditions=conditions, generator=generators(seeds))


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed_for(0, seed)) for seed in seeds]


def name_of(cls: type[GenerativeModel]) -> str:
    """Return the name that a recipe gives a model's class."""
    plugin = plugin_of(MODELS, cls)
    return plugin.name if plugin else importable_name(cls)


def importable_name(cls: type) -> str:
    """Return module:Class, for a class that other processes can import."""
    if "<locals>" in cls.__qualname__ or cls.__module__ == "__main__":
        raise Broken(f"{cls.__qualname__} can't be imported by other processes", "define it at the top of a module", at=cls)
    return f"{cls.__module__}:{cls.__qualname__}"


def _are_digits(data: ModelData) -> bool:
    return data.target == DIGITS.target and data.conditions.items() <= DIGITS.conditions.items()


def _can_be_for(data: ModelData, cls: type[GenerativeModel], values: Mapping[str, Any]) -> bool:
    """Whether a model of these keys can be made for these columns."""
    try:
        with torch.device("meta"):
            cls(cls.Config.model_validate({**values, "data": _given(data, values)}))
    except (ValidationError, InputError):
        return False
    return True


def _given(data: ModelData, values: Mapping[str, Any]) -> ModelData:
    """Return the columns with those conditions alone that a Config's keys name."""
    names = values.get("conditions", ())
    return data.model_copy(update={"conditions": {name: its for name, its in data.conditions.items() if name in names}})


def _needs_conditions(cls: type[GenerativeModel], values: Mapping[str, Any]) -> bool:
    """Whether a Config of these keys can't be made without conditions."""
    try:
        cls.Config.model_validate(values)
    except ValidationError as error:
        return any(fault["loc"][:1] == ("conditions",) for fault in error.errors())
    return False
