"""A generator trained by the energy distance: one network, one loss, no adversary and no sampling loop.

It is small so that it can be read, and complete: it draws digits after half a minute, or whatever else a column holds.
Replace it piece by piece.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genhub import Batch, Conditions, GenerativeModel, Generators, ModelConfig, Phase, PositiveInt, randn


class MyModel(GenerativeModel):
    """A network that turns noise into elements, as far from each other as real ones and as near to those as they are."""

    class Config(ModelConfig):
        # A recipe's keys under `model`, checked by pydantic. `conditions` is there already, and what is learnt of the data:
        # `shape` and `modality`. A docstring under a key is what `genhub plugins info` and editors show.
        latent_dim: PositiveInt = 8
        """Number of noise values that make an element."""
        hidden: PositiveInt = 256
        """Width of the network's layers."""

        @model_validator(mode="after")
        def _is_given_nothing(self) -> Self:
            if self.conditions:
                raise ValueError("conditions: my-model is given nothing yet; leave them out")
            return self

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        # Networks are child modules: their names are what a phase trains, and what `trainer.optimizers` can set apart.
        self.generator = nn.Sequential(
            nn.Linear(config.latent_dim, config.hidden), nn.ReLU(),
            nn.Linear(config.hidden, config.hidden), nn.ReLU(),
            nn.Linear(config.hidden, config.hidden), nn.ReLU(),
            nn.Linear(config.hidden, math.prod(self.shape)),
        )  # fmt: skip

    def phases(self) -> list[Phase]:
        # A phase is one optimizer update. A GAN has two, which train different networks in turn.
        return [Phase("fit", self.loss, trains=("generator",))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the energy distance 2 E|x - y| - E|x - x'| - E|y - y'| of elements x and samples y, over the pairs of
        a batch.

        It is zero only where both have one distribution (Székely & Rizzo 2013); its first term alone would be least for
        their mean, and the last keeps samples apart. batch.x: (b, *shape), images in [-1, 1], all else standardised.
        """
        x = batch.x.flatten(1)
        y = self.generator(torch.randn(len(x), self.config.latent_dim, device=self.device))
        across = torch.cdist(x, y).mean()
        # "loss" is minimised, and must be a scalar; every entry of the mapping is logged.
        return {"loss": 2 * across - mean_of_pairs(x) - mean_of_pairs(y), "across": across}

    def sample(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ) -> Tensor:  # fmt: skip
        """Draw n elements, (n, *shape), as in a batch.

        Further arguments become options of `genhub sample --set temperature=0.7`, checked by their annotations. All noise
        comes from `generator` through `randn`: it may be one for each element, so that each depends on its seed alone.

        Args:
            temperature: the noise's standard deviation; less than 1 draws more usual elements.
        """
        noise = temperature * randn((n, self.config.latent_dim), generator, self.device)
        drawn: Tensor = self.generator(noise).view(n, *self.shape)
        return drawn.clamp(*self.modality.bounds) if self.modality.bounds else drawn  # images have bounds, vectors none


def mean_of_pairs(points: Tensor) -> Tensor:
    """Return the mean distance between two different ones of (b, d) points."""
    return torch.cdist(points, points).sum() / (len(points) * max(1, len(points) - 1))
