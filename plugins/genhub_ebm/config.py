"""The options of both models, checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from genhub import Fraction, Means, ModelData, NetworkedConfig, NonNegative, PositiveInt, Section

Positive = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Steps = Annotated[int, Field(strict=True, ge=1, le=100_000)]


class FieldConfig(NetworkedConfig):
    """Keys that both models have."""

    condition_dropout: Fraction | Mapping[str, Fraction] = 0.1
    """Share of rows trained on without their conditions, which guidance needs."""

    def mistakes(self) -> dict[str, str]:
        """Return the key that changes nothing of a model that is given nothing, with the reason."""
        idle = not self.conditions and not self.is_default("sampling.guidance_scale")
        return {"sampling.guidance_scale": "changes nothing without conditions; leave it out"} if idle else {}


class DescentConfig(Section):
    """Defaults of the options of an eqm's `sample`."""

    num_inference_steps: Steps = 50
    """Steps of gradient descent, an evaluation of the network each."""
    step_size: Positive = 0.04
    """Length of a step: from noise to data it is about 1 in all, and more than that settles what is drawn."""
    momentum: Momentum = 0.0
    """Nesterov's: the share of the last step that the next one begins with."""
    guidance_scale: NonNegative = 1.0
    """For a model with conditions: 1 is the conditions alone, more exaggerates them (Ho & Salimans 2022)."""


class EqMConfig(FieldConfig):
    energy: Literal["none", "dot"] = "none"
    """none: the network is the field. dot: x . f(x) is an energy, and its gradient the field (EqM-E): it can be asked
    how low x lies, and training and drawing cost about three times as much."""
    decay_start: float = Field(default=0.8, ge=0, lt=1)
    """Share of data in x up to which the field keeps its length; from there it falls in a straight line, to 0 at the data
    (the truncated decay)."""
    sampling: DescentConfig = DescentConfig()


class LangevinConfig(Section):
    """Keys of the Langevin dynamics: x' = x - step_size dE/dx + noise_std noise."""

    step_size: Positive = 0.01
    noise_std: NonNegative | None = None
    """Left out: sqrt(2 step_size), with which chains end at exp(-E), given the time. Images need less: a chain is colder
    then, and shorter."""


MOST_NUMBERS = 256
"""Numbers of an element up to which an energy has been seen to hold."""


class ChainConfig(Section):
    """Defaults of the options of an ebm's `sample`."""

    num_inference_steps: Steps = 500
    """Steps from noise, an evaluation of the network and its gradient each."""
    guidance_scale: NonNegative = 1.0
    """For a model with conditions: 1 is the conditions alone, more exaggerates them (Ho & Salimans 2022)."""


class EBMConfig(FieldConfig):
    flatten: bool = False
    """The network sees the numbers of x in a row, as a vector: `mlp` then takes small images. Chains are thousands of
    evaluations, and one of an mlp costs a fraction of a unet's."""
    langevin: LangevinConfig = LangevinConfig()
    chain_steps: Steps = 20
    """Steps that chains go on for in a step of training."""
    replay_size: PositiveInt = 4096
    """Number of chains that are kept between steps of training."""
    restart: Fraction = 0.05
    """Share of chains that begin anew, from noise, in a step of training."""
    energy_weight: NonNegative = 0.1
    """Weight of the squares of energies in the loss, which keep them about 0."""
    data_noise: NonNegative = 0.0
    """Standard deviation of noise added to real x: values with levels lie on points, and an energy would dig a hole for
    each."""
    sampling: ChainConfig = ChainConfig()

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        numbers, adam = math.prod(data.target.shape), {"name": "adam", "lr": 2e-3, "betas": [0.0, 0.99]}
        if numbers > MOST_NUMBERS:
            raise ValueError(
                f"its energies of elements of {numbers:,} numbers, more than {MOST_NUMBERS}, ran away in every try; eqm "
                "learns the slope of an energy without chains"
            )
        network = {"name": "mlp", "hidden": 128 if numbers <= 16 else 256, "depth": 2, "frequencies": 0}
        keys = {"model.network": network, "model.chain_steps": 10, "trainer.optimizer": adam}
        if len(data.target.shape) == 1:
            return keys | {"model.langevin": {"step_size": 0.02}, "model.sampling": {"num_inference_steps": 200}}
        cold = {"model.langevin": {"step_size": 6.0, "noise_std": 0.03}, "model.sampling": {"num_inference_steps": 128}}
        return keys | cold | {"model.flatten": True, "model.data_noise": 0.06, "trainer.optimizer": adam | {"lr": 1e-3}}

    @property
    def network_shape(self) -> tuple[int, ...] | None:
        shape = super().network_shape
        return shape and ((math.prod(shape),) if self.flatten else shape)

    def mistakes(self) -> dict[str, str]:
        idle = self.flatten and self.shape is not None and len(self.shape) == 1
        return super().mistakes() | ({"flatten": "changes nothing of a vector; leave it out"} if idle else {})
