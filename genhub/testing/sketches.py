"""Models that are a sketch of what they can do, with which views are tried: nothing is learnt, and all is quick."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from genhub.ground.randomness import Generators, randn
from genhub.interfaces.capabilities import Autoencoder, Denoiser, DenoisingStep, Energy, Likelihood
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.config import ModelConfig
from genhub.interfaces.model import Batch, Phase
from genhub.model import GenerativeModel

STEPS = 4


class Sketch(GenerativeModel):
    """A model that draws noise about a number that its weight is."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weights = nn.ParameterList([torch.full((1,), 0.1)])

    def phases(self) -> list[Phase]:
        return []

    def sample(self, n: int, *, conditions: Conditions | None = None, generator: Generators = None) -> Tensor:
        return self._clipped(randn((n, *self.shape), generator, self.device) / 2 + self.weights[0])

    def _clipped(self, x: Tensor) -> Tensor:
        return x.clamp(*self.modality.bounds) if self.modality.bounds else x


class GuidedSketch(Sketch):
    """A sketch with an option of guidance."""

    def sample(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None, guidance_scale: float = 1.0
    ) -> Tensor:
        return super().sample(n, conditions=conditions, generator=generator) * guidance_scale


class LatentSketch:
    """Capability of a sketch with latents, which are its numbers in a row."""

    def encode(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        return x.flatten(1)

    def decode(self, latents: Tensor, conditions: Conditions | None = None) -> Tensor:
        return latents.view(-1, *self.shape)  # type: ignore[attr-defined]  # a model's


class NoisySketch:
    """Capability of a sketch that takes noise away, in a few steps."""

    num_train_timesteps = 10

    def add_noise(self, x: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        share = ((timesteps + 1) / self.num_train_timesteps).view(-1, *[1] * (x.ndim - 1))
        return (1 - share) * x + share * noise

    def predict_x0(self, x_t: Tensor, timesteps: Tensor, conditions: Conditions | None = None) -> Tensor:
        return x_t / 2

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        share = (timesteps + 1) / self.num_train_timesteps
        return ((1 - share) / share) ** 2

    def denoise(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None
    ) -> Iterator[DenoisingStep]:
        noise = randn((n, *self.shape), generator, self.device)  # type: ignore[attr-defined]  # a model's
        for index in range(STEPS):
            x = noise * (1 - index / (2 * STEPS))
            yield DenoisingStep(index, self.num_train_timesteps - 1 - 2 * index, x, noise / 2)


class LikelySketch:
    """Capability of a sketch that says how probable x is."""

    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        return batch.x.flatten(1).square().mean(1)


class LowSketch:
    """Capability of a sketch that says how low x lies: its distance from 0."""

    def energy(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        return x.flatten(1).square().sum(1)


ABLE: dict[type | None, tuple[type, ...]] = {
    None: (), Autoencoder: (LatentSketch,), Denoiser: (NoisySketch,), Energy: (LowSketch,),
    Likelihood: (LikelySketch,),
}  # fmt: skip
BY_OPTION: dict[str | None, type[Sketch]] = {None: Sketch, "guidance_scale": GuidedSketch}


def sketch_class(capability: type | None, option: str | None) -> Any:
    """Return a class of models that have a capability, and an option of `sample`, and no others; None: there is none."""
    if capability not in ABLE or option not in BY_OPTION:
        return None
    return type("Sketched", (*ABLE[capability], BY_OPTION[option]), {})
