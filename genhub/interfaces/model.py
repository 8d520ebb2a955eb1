"""Interface of models. A new model is one class that derives from `genhub.GenerativeModel`.

class Mean(GenerativeModel):
    class Config(ModelConfig):
        hidden: int = 64

    def __init__(self, config):
        super().__init__(config)
        self.net = build(config)                      # networks are child modules; their names are used in phases

    def phases(self):
        return [Phase("fit", self.loss, trains=("net",))]

    def loss(self, batch):                            # {"images": (b, c, h, w) in [-1, 1], ...} -> {"loss": scalar, ...}
        return {"loss": (self.net(batch["images"]) - batch["images"]).square().mean()}

    def sample(self, n, *, labels=None, generator=None):
        ...                                           # (n, c, h, w) in [-1, 1]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from genhub.errors import CheckpointError
from genhub.ground.weights import load_strictly, save_tensors
from genhub.interfaces.config import DataSpec, ModelConfig

Batch = Mapping[str, Tensor]
"""Batch that a loss is given. "images": (b, c, h, w) float32 in [-1, 1]; other columns are conditions, "labels": (b,) int64.
For a model with a `frozen_encoder`, "latents" may be in the images' place."""


@dataclass(frozen=True)
class Phase:
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


@dataclass(frozen=True)
class FrozenEncoder:
    """Frozen network through which a model's losses see images, such as an autoencoder whose latents they take. With
    `data.cache_latents` its output is computed once for each image, and losses get it as batch["latents"] in their place."""

    encode: Callable[[Tensor], Tensor]
    """Function from images (n, c, h, w) in [-1, 1] to (n, ...), kept as float32. It depends on each image alone: nothing
    random (of a posterior, its mean), no statistics of the batch, the same in training and eval mode."""
    networks: nn.Module
    """The modules that it computes with, trained by no phase. With other weights or buffers, all is computed anew."""
    config: str = ""
    """Anything else that the result depends on, such as the networks' Config as JSON."""


class Model(nn.Module, ABC):
    """Interface of models: networks as child modules, losses as phases, and a sampler. `genhub.GenerativeModel` adds to it
    how it is saved, loaded and shared: derive from that.

    Whoever trains it calls `model(batch, phase.name)`, so engines that wrap a module (DDP, FSDP, autocast, compile)
    wrap this one and losses stay ordinary code over the model's own networks.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    conditions: tuple[str, ...] = ()
    """Batch columns besides "images" that the losses need and `sample` takes: ("labels",) for a conditional model."""

    trained_on: DataSpec | None = None
    """Spec of the data it was trained on, if known: its labels' names, the range of its images' values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Shape (channels, height, width) of an image."""
        if self.config.sample_shape is None:
            raise ValueError("a model is built from a Config with sample_shape: (channels, height, width)")
        return self.config.sample_shape

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
        """Draw n images, (n, c, h, w) float in [-1, 1], on the model's device. A model declares it as

            def sample(self, n: int, *, labels: Tensor | None = None, generator: Generators = None, OPTIONS) -> Tensor

        Keyword arguments beyond these are the sampler's options: the signature, with its annotations, is what
        `genhub sample --set key=value` is checked against. All randomness comes from `generator` where one is given.

        Raises:
            InputError: an option has a value that the model can't draw with.
        """
        # With `*args` and `**options` of any type, mypy lets a model have any options, and still checks n and the result.

    def unused_options(self, options: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the options for `sample` that would change nothing, each with the reason: `genhub` refuses to draw with
        them. {"guidance_scale": "this model draws without labels"}, say."""
        return {}

    def frozen_encoder(self) -> FrozenEncoder | None:
        """Return the network whose output the losses need in place of the images; None: they need the images themselves. A
        model that replaces this takes batch["latents"] where a batch has them, and batch["images"] else."""
        return None

    @cached_property
    def _phases(self) -> dict[str, Phase]:
        return {phase.name: phase for phase in self.phases()}

    @final  # type: ignore[misc]  # torch declares it as an attribute
    def forward(self, batch: Batch, phase: str) -> Mapping[str, Tensor]:
        """Return the named phase's losses for a batch."""
        return self._phases[phase].loss(batch)

    @final
    def check_labels(self, labels: Tensor | None) -> Tensor:
        """Return a conditional model's labels (n,), checked, on the model's device. Its `sample` calls this first.

        Raises:
            ValueError: there are none, or one is not below `num_classes`.
        """
        if labels is None:
            raise ValueError("labels: this model draws what a label asks for; give one an image")
        classes = self.config.num_classes or 0
        if any(not 0 <= label < classes for label in labels.tolist()):
            raise ValueError(f"labels: this model has 0 to {classes - 1}, not {labels.tolist()}")
        return labels.to(self.device)

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
