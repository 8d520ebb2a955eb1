"""Subject of a model's checks, which share its config, data, and a copy trained a little. All on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from genhub.data.batches import ImageData
from genhub.data.open import load_data
from genhub.ground.randomness import seed_for
from genhub.interfaces.config import ModelConfig
from genhub.interfaces.model import Model
from genhub.interfaces.registry import MODELS, plugin_of
from genhub.model import GenerativeModel
from genhub.recipe.recipe import Recipe, read_recipe
from genhub.recipe.sections import AccelerateConfig
from genhub.testing.report import Broken, Subject
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
Values = ModelConfig | Mapping[str, Any] | None


class ModelSubject(Subject):
    """A model class under examination."""

    def __init__(self, cls: type[GenerativeModel], values: Values) -> None:
        self.cls = cls
        self.values = dict(values.model_dump() if isinstance(values, ModelConfig) else values or {})

    @cached_property
    def recipe(self) -> Recipe:
        """Recipe of a few steps, with the model's config as the data filled it."""
        shape = self.values.get("sample_shape")
        data = {"name": "digits", "batch_size": 16} | image_keys(shape)
        content = {
            "model": self.values | {"name": name_of(self.cls)},
            "data": data,
            "trainer": TRAINER_KEYS,
            "run_dir": str(self.folder / "run"),
        }
        recipe = read_recipe(content)
        if recipe.model_class() is not self.cls:
            raise Broken(f"'{recipe.model.name}' is another class, {recipe.model_class()!r}", at=self.cls)
        return recipe.filled_from(load_data(recipe.data).spec)

    @cached_property
    def data(self) -> ImageData:
        return load_data(self.recipe.data.model_copy(update={"batch_size": 32}))

    @property
    def batch(self) -> dict[str, Tensor]:
        """Batch of 32 digits, always the same."""
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
        return model

    @property
    def conditional(self) -> bool:
        return "labels" in self.build().conditions

    def draw(self, model: Model, n: int, seeds: Sequence[int] = (), labels: Tensor | None = None) -> Tensor:
        """Return n images as genhub draws them: in eval mode, a generator an image, labels in turn. (n, c, h, w)."""
        if labels is None and "labels" in model.conditions:
            labels = torch.arange(n) % (model.config.num_classes or 1)
        with torch.inference_mode():
            return model.eval().sample(n, labels=labels, generator=generators(seeds or range(n)))


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


def image_keys(shape: Any) -> dict[str, Any]:
    """Return a recipe's keys that give digits a shape (channels, height, width)."""
    if shape is None:
        return {}
    channels, height, width = shape
    return {"image_size": [height, width], "channels": channels}
