"""What a model and a noise schedule are. A new model is one class that derives from `GenerativeModel`.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, cast, final, runtime_checkable

import torch
from torch import Tensor, nn

from genhub.config import DataSpec, ModelConfig
from genhub.errors import CheckpointError
from genhub.noise import Generators
from genhub.weights import load_strictly, save_tensors

Batch = Mapping[str, Tensor]
"""What a loss gets. "images": (b, c, h, w) float32 in [-1, 1]; other columns are conditions, "labels": (b,) int64. For a
model with a `frozen_encoder`, "latents" may be in the images' place."""


@dataclass(frozen=True)
class Phase:
    """One optimizer update: a loss, and the networks it trains. Each step runs a model's phases in order, with all
    other networks frozen: a GAN is two phases, and alternates by itself."""

    name: str
    """Prefix of this phase's metrics in the log."""
    loss: Callable[[Batch], Mapping[str, Tensor]]
    """A batch to scalars. "loss" is minimised; every entry is logged, so all must be scalars."""
    trains: tuple[str, ...]
    """Names of child modules. Phases that name the same set share an optimizer; sets must be equal or disjoint."""
    interval: int = 1
    """The phase runs on every interval-th step (lazy regularisation, n_critic)."""
    ema: bool = True
    """Average these networks for sampling and export."""


@dataclass(frozen=True)
class FrozenEncoder:
    """What a model's losses make of an image before anything is trained on it, such as a frozen autoencoder's latents. With
    `data.cache_latents` it is computed once for each image, and losses get it as batch["latents"] in the images' place."""

    encode: Callable[[Tensor], Tensor]
    """Images (n, c, h, w) in [-1, 1] to (n, ...), kept as float32. A function of each image alone: nothing random (of a
    posterior, its mean), no statistics of the batch, the same in training and eval mode."""
    networks: nn.Module
    """What it computes with, trained by no phase. With other weights or buffers, all is computed anew."""
    config: str = ""
    """What else the result depends on, such as the networks' Config as JSON."""


class GenerativeModel(nn.Module, ABC):
    """Base of all models: networks as child modules, losses as phases, and a sampler.

    Whoever trains it calls `model(batch, phase.name)`, so engines that wrap a module (DDP, FSDP, autocast, compile)
    wrap this one and losses stay ordinary code over the model's own networks.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    conditions: tuple[str, ...] = ()
    """Batch columns besides "images" that the losses need and `sample` takes: ("labels",) for a conditional model."""
    imports: ClassVar[tuple[str, ...]] = ()
    """Modules that `__init__` imports and that take long: a run imports them while its images are decoded."""

    trained_on: DataSpec | None = None
    """Spec of the data it was trained on, as far as is known: its labels' names, the range of its images' values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
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
        """The updates of a training step, in order. Called once, after `__init__`."""

    @abstractmethod
    def sample(self, n: int, *, labels: Tensor | None = None, generator: Generators = None, **options: Any) -> Tensor:
        """Draw n images, (n, c, h, w) float in [-1, 1], on the model's device.

        Keyword arguments beyond these are the sampler's options: the signature, with its annotations, is what
        `genhub sample --set key=value` is checked against. All randomness comes from `generator` where one is given.
        """

    def unused_options(self, options: Mapping[str, Any]) -> Mapping[str, str]:
        """Return those of the options for `sample` that would change nothing, each with why: `genhub` refuses to draw with
        them. {"guidance_scale": "this model draws without labels"}, say."""
        return {}

    def frozen_encoder(self) -> FrozenEncoder | None:
        """What of an image can be computed once; None: the losses need the images themselves. A model that replaces this
        takes batch["latents"] where a batch has them, and batch["images"] else."""
        return None

    @cached_property
    def _phases(self) -> dict[str, Phase]:
        return {phase.name: phase for phase in self.phases()}

    @final  # type: ignore[misc]  # torch declares it as an attribute
    def forward(self, batch: Batch, phase: str) -> Mapping[str, Tensor]:
        """The named phase's losses for a batch."""
        return self._phases[phase].loss(batch)

    @final
    def check_labels(self, labels: Tensor | None) -> Tensor:
        """What a conditional model's `sample` does first: its labels (n,), known to be good, on the model's device.

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
        """The Config of a folder that another library saved, for classes registered under `genhub.formats`.

        Raises:
            CheckpointError: this class can't read it.
        """
        raise CheckpointError(f"{path}: {cls.__name__} reads only what genhub saved")

    @final
    def save_pretrained(self, path: str | Path) -> None:
        """Write a folder that `from_pretrained`, `genhub.load` and, for some models, other libraries open."""
        from genhub.checkpoint import save_model

        save_model(self, Path(path))

    @final
    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> Self:
        """Load a run's folder, a checkpoint, what `save_pretrained` wrote or a Hub id as this class, registered or not.

        Args:
            options: those of `genhub.load`.
        Raises:
            CheckpointError: the folder is not there, is damaged or holds another model.
        """
        from genhub.checkpoint import load_model

        return cast(Self, load_model(path, model_class=cls, **options))

    @final
    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish this model with a card and a picture of samples; returns the commit. Its training is not part of it:
        `genhub.push_to_hub(FOLDER, repo_id)` publishes a checkpoint, with its recipe.

        Args:
            repo_id: user/name.
            options: those of `genhub.push_to_hub`.
        Raises:
            HubError: see there.
        """
        from genhub.run import push_to_hub

        return push_to_hub(self, repo_id, **options)


# Capabilities: what views, metrics and other models may ask of a model, whatever its class.


@runtime_checkable
class Autoencoder(Protocol):
    """Images to latents and back."""

    def encode(self, images: Tensor) -> Tensor:
        """(n, c, h, w) in [-1, 1] to latents (n, ...)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to (n, c, h, w) in [-1, 1]."""


@dataclass(frozen=True)
class DenoisingStep:
    """One step of a reverse process."""

    index: int
    """0 for the first step."""
    timestep: float
    """The noise level the step started from; num_train_timesteps - 1 or so is pure noise, 0 nearly clean."""
    sample: Tensor
    """The images after the step, (n, c, h, w)."""
    pred_original_sample: Tensor
    """The model's guess of the clean images at this step, (n, c, h, w)."""


@runtime_checkable
class Denoiser(Protocol):
    """A forward process that adds noise, and the way back with every intermediate."""

    num_train_timesteps: int

    def add_noise(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t for images x_0 (n, c, h, w) and timesteps (n,) int64 in [0, num_train_timesteps)."""

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """The ratio of signal to noise power at timesteps (n,)."""

    def denoise(
        self, n: int, *, labels: Tensor | None = None, generator: Generators = None, **options: Any
    ) -> Iterator[DenoisingStep]:
        """Draw n images, a step at a time; `options` are those of `sample`."""


@runtime_checkable
class Likelihood(Protocol):
    """A model that can say how probable an image is."""

    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        """(n,) bits per dimension of 8-bit images, or an upper bound of it."""


@runtime_checkable
class Scheduler(Protocol):
    """A noise schedule and the sampler that goes with it, under diffusers' names, so that its schedulers fit as they are.

    Models build it by keyword, giving those of their settings that `__init__` names (`num_train_timesteps`,
    `prediction_type`, `trained_betas`, `timestep_spacing`, ...); one of diffusers' by its `from_config`. To be trained on by
    a DDPM, it needs `alphas_cumprod` as well: (num_train_timesteps,) the shares of signal power. Methods may take further
    keywords that not all have (`generator`, `eta`): callers pass those that the signature names.
    """

    config: Any
    """A mapping of the arguments that it was built with."""
    timesteps: Tensor
    """The noise levels to visit, from pure noise down, once `set_timesteps` was called."""
    init_noise_sigma: Any
    """Standard deviation of the noise that sampling starts from."""

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of images x_0 (n, c, h, w) at levels (n,) int64."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Choose `timesteps`, and forget the state of earlier drawings."""

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """What the network is given for x_t, (n, c, h, w)."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        """From x_t (n, c, h, w) to the next of `timesteps`; an object with `prev_sample`."""
