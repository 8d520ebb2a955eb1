"""Interface of models. A new model is one class that derives from `genhub.GenerativeModel`.

class Mean(GenerativeModel):
    class Config(ModelConfig):
        hidden: int = 64

    def __init__(self, config):
        super().__init__(config)
        self.net = build(config)                      # networks are child modules; their names are used in phases

    def phases(self):
        return [Phase("fit", self.loss, trains=("net",))]

    def loss(self, batch):                            # batch.x (b, *shape), batch.conditions -> {"loss": scalar, ...}
        return {"loss": (self.net(batch.x) - batch.x).square().mean()}

    def sample(self, n, *, conditions=None, generator=None):
        ...                                           # (n, *shape), as in a batch
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from genhub.errors import CheckpointError
from genhub.ground.brief import Brief, BriefModule, sides
from genhub.ground.weights import load_strictly, save_tensors
from genhub.interfaces.columns import DataSpec
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.config import ModelConfig
from genhub.interfaces.modality import Modality


@dataclass(frozen=True, repr=False)
class Batch(Brief):
    """Rows that a loss is given."""

    x: Tensor
    """Elements of the target, (b, *shape) float32, as its modality gives them to networks: images in [-1, 1], signals and
    vectors standardised."""
    conditions: Conditions = field(default_factory=Conditions)
    """Conditions of the rows; empty for a model without any."""
    step: int = 0
    """The optimizer step, from 0, for schedules of a loss."""
    cached: Mapping[str, Tensor] = field(default_factory=dict)
    """Outputs of frozen networks for x, computed once: "latents" for a model with a `frozen_encoder`."""

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> Batch:
        moved = {name: tensor.to(device) for name, tensor in self.cached.items()}
        return Batch(self.x.to(device), self.conditions.to(device), self.step, moved)


@dataclass(frozen=True, repr=False)
class Phase(Brief):
    """One optimizer update: a loss, and the networks it trains. Each step runs a model's phases in order, with all
    other networks frozen: a GAN is two phases, and alternates by itself."""

    name: str
    """Prefix of this phase's metrics in the log."""
    loss: Callable[[Batch], Mapping[str, Tensor]]
    """Function of a batch that returns scalars by name: "loss" is minimised, and every entry is logged."""
    trains: tuple[str, ...]
    """Names of the child modules it trains. Phases that name the same set share an optimizer; sets must be equal or
    disjoint."""
    interval: int = 1
    """Run the phase on every interval-th step only (lazy regularisation, n_critic)."""
    ema: bool = True
    """Whether to average these networks for sampling and export."""


@dataclass(frozen=True, repr=False)
class FrozenEncoder(Brief):
    """Frozen network through which a model's losses see x, such as an autoencoder whose latents they take. With
    `data.cache_latents` its output is computed once for each row, and losses get it as batch.cached["latents"]."""

    encode: Callable[[Tensor], Tensor]
    """Function from x (n, *shape) to (n, ...), kept as float32. It depends on each element alone: nothing
    random (of a posterior, its mean), no statistics of the batch, the same in training and eval mode."""
    networks: nn.Module
    """The modules that it computes with, trained by no phase. With other weights or buffers, all is computed anew."""
    config: str = ""
    """Anything else that the result depends on, such as the networks' Config as JSON."""


class Model(BriefModule, nn.Module, ABC):
    """Interface of models: networks as child modules, losses as phases, and a sampler. `genhub.GenerativeModel` adds to it
    how it is saved, loaded and shared: derive from that.

    Whoever trains it calls `model(batch, phase.name)`, so engines that wrap a module (DDP, FSDP, autocast, compile)
    wrap this one and losses stay ordinary code over the model's own networks.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig

    trained_on: DataSpec | None = None
    """Spec of the data it was trained on, if known."""
    trained_steps: int | None = None
    """Number of steps it was trained for, if known."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.data is None:
            raise ValueError("a model is built from a Config with `data`: the modality of what it draws and is given")
        self.modality: Modality = config.data.target
        """The modality of what it draws."""
        self.conditions: Mapping[str, Modality] = config.data.conditions
        """The modalities of what it is given, by column."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one element in a batch, channels first."""
        return self.modality.shape

    def _brief_words(self) -> list[str]:
        given = [f"given {', '.join(self.conditions)}"] if self.conditions else []
        step = [] if self.trained_steps is None else [f"step {self.trained_steps:,}"]
        return [f"{self.modality.modality} {sides(self.shape)}", *given, *super()._brief_words(), *step]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' precision: float32, unless `genhub.load` was told otherwise."""
        return next(self.parameters()).dtype

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """Return the updates of a training step, in order. Called once, after `__init__`."""

    @abstractmethod
    def sample(self, n: int, *args: Any, **options: Any) -> Tensor:
        """Draw n elements, (n, *shape) float as in a batch, on the model's device. A model declares it as

            def sample(
                self, n: int, *, conditions: Conditions | None = None, generator: Generators = None, OPTIONS
            ) -> Tensor

        Conditions are those of n rows; None: none is present. Keyword arguments beyond these are the sampler's options: the
        signature, with its annotations, is what `genhub sample --set key=value` is checked against. All randomness comes
        from `generator` where one is given.

        Raises:
            InputError: an option has a value that the model can't draw with.
        """
        # With `*args` and `**options` of any type, mypy lets a model have any options, and still checks n and the result.

    def after_update(self, step: int) -> None:  # most have nothing to do
        """Do what follows a step, after its optimizers and averages: move target networks, adapt augmentation."""

    def unused_options(self, options: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the options for `sample` that would change nothing, each with the reason: `genhub` refuses to draw with
        them. {"guidance_scale": "this model is given nothing"}, say."""
        return {}

    def frozen_encoder(self) -> FrozenEncoder | None:
        """Return the network whose output the losses need in place of x; None: they need x itself. A model that replaces
        this takes batch.cached["latents"] where a batch has them, and batch.x else."""
        return None

    @cached_property
    def _phases(self) -> dict[str, Phase]:
        return {phase.name: phase for phase in self.phases()}

    @final  # type: ignore[misc]  # torch declares it as an attribute
    def forward(self, batch: Batch, phase: str) -> Mapping[str, Tensor]:
        """Return the named phase's losses for a batch."""
        return self._phases[phase].loss(batch)

    @final
    def conditions_of(self, n: int, conditions: Conditions | None) -> Conditions:
        """Return the conditions of n rows, checked, on the model's device; of None, that none is present. A `sample` calls
        this first.

        Raises:
            ValueError: they are not this model's, or not those of n rows.
        """
        if conditions is None:
            return Conditions.nothing(self.conditions, n, self.device)
        if set(conditions.values) != set(self.conditions) or set(conditions.present) != set(self.conditions):
            given, wanted = (", ".join(sorted(names)) or "nothing" for names in (conditions.values, self.conditions))
            raise ValueError(f"conditions: this model is given {wanted}, not {given}")
        if self.conditions and len(conditions) != n:
            raise ValueError(f"conditions: of {len(conditions)} rows, for {n} to draw")
        return conditions.to(self.device)

    def save_networks(self, path: Path) -> None:
        """Write the weights into a folder. Replace together with `load_networks` to write a format that others read."""
        save_tensors(self.state_dict(), path / "model.safetensors")

    def load_networks(self, path: Path) -> None:
        """Read what `save_networks` wrote. Strict: a missing, surplus or misshapen tensor is an error.

        Raises:
            CheckpointError: the weights don't fit this model.
        """
        load_strictly(self, path / "model.safetensors")

    @classmethod
    def config_from_foreign(cls, path: Path) -> ModelConfig:
        """Return the Config of a folder that another library saved, for classes registered under `genhub.formats`.

        Raises:
            CheckpointError: this class can't read it.
        """
        raise CheckpointError(f"{path}: {cls.__name__} reads only what genhub saved")
