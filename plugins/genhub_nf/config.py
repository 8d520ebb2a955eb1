"""The flows' options, checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from genhub import Fraction, Means, ModelConfig, ModelData, NonNegative, PositiveInt, Section, patch_for

Levels = Annotated[int, Field(strict=True, ge=2, le=2**16)]
Temperature = Annotated[float, Field(gt=0)]


class BinnedConfig(ModelConfig):
    """Keys that both flows have."""

    levels: Levels | None = None
    """Number of values that a number of x really has, where it has fewer than its column could hold. In training each
    becomes a bin that is filled evenly. The recipe for digits says 17: with 256, 15 of 16 bins would stay empty, and a flow
    puts ever higher peaks on the others. Left out: as many as the column's, 256 of 8-bit images."""

    @model_validator(mode="after")
    def _are_there(self) -> BinnedConfig:
        if self.levels is not None and self.modality is not None:
            if self.modality.levels is None:
                raise ValueError(f"levels: a {self.modality.modality} has none, it is continuous; leave it out")
            if self.levels > self.modality.levels:
                raise ValueError(f"levels: {self.levels} are more than the {self.modality.levels} that the column can hold")
        return self


class RealNVPConfig(BinnedConfig):
    num_couplings: Annotated[int, Field(strict=True, ge=2)] = 8
    """Layers; each changes half of the numbers, given the other half."""
    hidden_features: PositiveInt = 128
    """Width of the two hidden layers of a coupling's network."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """For few elements, which a flow learns by heart: its bits per dimension then fall for these alone."""

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        numbers = math.prod(data.target.shape)
        width = 64 if numbers <= 4 else 128 if numbers <= 256 else 384
        slow = {} if numbers <= 4 else {"trainer.optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05}}
        few = {"model.dropout": 0.1} if means.few_rows else {}
        return {"model.hidden_features": width * (2 if means.accelerator else 1)} | slow | few


class TarFlowSampling(Section):
    """Defaults of the options of a tarflow's `sample`."""

    temperature: Temperature = 1.0
    """Standard deviation of the noise; less than 1 gives likelier elements that differ less."""
    guidance_scale: NonNegative = 1.0
    """For a model with conditions: 1 is the conditions alone, more exaggerates them."""
    denoise: bool = True
    """Take the training's noise out of what is drawn, in one step."""


class TarFlowConfig(BinnedConfig):
    condition_dropout: Fraction | Mapping[str, Fraction] = 0.1
    """Share of rows trained on without their conditions, which guidance needs."""
    patch_size: PositiveInt = 2
    """Side of a patch, which is a token; it divides x's sides."""
    num_blocks: PositiveInt = 4
    """Blocks, which go through the patches in turn forwards and backwards: an autoregressive flow each."""
    layers_per_block: PositiveInt = 2
    """Layers of a block's transformer."""
    hidden_size: PositiveInt = 64
    """Width of the tokens."""
    num_heads: PositiveInt = 4
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """For few elements, which a flow learns by heart."""
    noise_std: NonNegative = 0.05
    """Standard deviation of Gaussian noise added to x in training, in a batch's units: what is drawn is far better for it.
    0: values with levels fill their bins evenly, which is best for bits per dimension."""
    sampling: TarFlowSampling = TarFlowSampling()

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        sides = data.target.shape[1:]
        patch = patch_for(sides, 256 if means.accelerator else 64 if math.prod(sides) > 256 else 16)
        size = {"model.hidden_size": 256, "model.layers_per_block": 4} if means.accelerator else {"model.hidden_size": 96}
        few = {"model.dropout": 0.1} if means.few_rows else {}
        slow = {"trainer.optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01}}
        return {"model.patch_size": patch, "model.noise_std": 0.1} | size | few | slow

    @model_validator(mode="after")
    def _fits(self) -> TarFlowConfig:
        if self.hidden_size % self.num_heads:
            near = max(1, round(self.hidden_size / self.num_heads)) * self.num_heads
            raise ValueError(f"hidden_size: {self.hidden_size} does not divide by num_heads {self.num_heads}; {near} does")
        sides = () if self.shape is None else self.shape[1:]
        if self.shape is not None and not sides:
            raise ValueError("name: tarflow is for images, signals and what else has sides; realnvp is for vectors")
        for side in sides:
            if side % self.patch_size:
                divisors = [number for number in range(1, side + 1) if side % number == 0]
                near = min(divisors, key=lambda number: (abs(number - self.patch_size), number))
                raise ValueError(f"patch_size: {self.patch_size} does not divide the side {side}; {near} does")
        return self

    def mistakes(self) -> dict[str, str]:
        found = {}
        if not self.conditions and not self.is_default("sampling.guidance_scale"):
            found["sampling.guidance_scale"] = "changes nothing without conditions; leave it out"
        if self.noise_std == 0 and not self.sampling.denoise:
            found["sampling.denoise"] = "changes nothing: with noise_std: 0 there is no noise to take out; leave it out"
        if self.noise_std and self.levels is not None:
            found["levels"] = "changes nothing beside noise_std, which fills no bins; leave it out, or set noise_std: 0"
        return found
