"""The options of a GAN and of a conditional GAN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from genhub import Fraction, Means, ModelConfig, ModelData, PositiveInt, Section

# Formulas and papers are in losses.py.
LossName = Literal["minimax", "non_saturating", "hinge", "wasserstein", "relativistic"]
PenaltyName = Literal["none", "r1", "r1_r2", "gp"]
Conditioning = Literal["projection", "concatenation"]
ColumnName = Annotated[str, Field(min_length=1, max_length=255)]
Threshold = Annotated[float, Field(gt=0)]
Architecture = Literal["residual", "r3gan"]

PUBLISHED_PENALTY: dict[LossName, PenaltyName] = {
    "minimax": "r1",
    "non_saturating": "r1",
    "hinge": "r1",
    "wasserstein": "gp",
    "relativistic": "r1_r2",
}
SMALLEST_SIDE, WIDTH, WIDEST = 7, 32, 256
OF_VECTORS = (128, 128, 128)
MOST_SIDES = 3
EXPANSION, GROUP_SIZE = 2, 16
"""Widths of R3GAN's blocks: a branch's channels over the block's, and how many of them make a group."""


class ResidualConfig(Section):
    """Keys of a residual network without normalisation; generator and discriminator are built alike."""

    architecture: Architecture = "residual"
    """residual: blocks of two convolutions. r3gan: those of Huang et al. 2024, a wide branch of three, the middle one in
    groups of channels; for x that has sides."""
    channels: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    """Channels at each level, x's own size first, then halved sides. Left out: 32, 64 to 256 down to a side of 7; of
    vectors, which have no sides, 128 three times."""
    blocks_per_level: PositiveInt = 1
    """Residual blocks at each level, of convolutions of 3 a side; of vectors, of two linear layers."""
    patch_size: PositiveInt = 1
    """Neighbouring values of each side that are folded into channels before the first level, and unfolded behind the last.
    Sounds need it: a patch's waves are made at once, and the work is so many times less."""

    def folded(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape (c, *sides) of x as it is at the first level."""
        channels, *sides = shape
        return (channels * self.patch_size ** len(sides), *(side // self.patch_size for side in sides))

    def widths(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the channels at each level for x (c, *sides), folded; the first level's first."""
        if self.channels is not None:
            return self.channels
        if len(shape) == 1:
            return OF_VECTORS
        side, widths = min(shape[1:]), [WIDTH]
        while side > SMALLEST_SIDE:
            side = -(-side // 2)
            widths.append(min(2 * widths[-1], WIDEST))
        return tuple(widths)

    def check_groups(self, shape: tuple[int, ...]) -> None:
        """
        Raises:
            ValueError: R3GAN's blocks can't have such an x, or so many channels.
        """
        if len(shape) == 1:
            raise ValueError("architecture: r3gan is for x that has sides, images or signals; of vectors leave it out")
        step = GROUP_SIZE // EXPANSION
        for width in self.widths(shape):
            if width % step:
                near = max(1, round(width / step)) * step
                raise ValueError(f"channels: {width} does not divide by {step}, as r3gan's groups need; {near} does")


class AugmentConfig(Section):
    """Keys of adaptive augmentation (Karras et al. 2020)."""

    target: Fraction = 0.6
    """Overfitting that is put up with, E sign(C(x_r) - C(x_f)): 0 where the discriminator can't tell, 1 where it always can.
    Above it, what it sees is changed more often, below it less."""
    ramp_rows: PositiveInt = 500_000
    """Rows in which the probability of a change could go from 0 to 1; fewer for short runs."""


class GANConfig(ModelConfig):
    latent_dim: PositiveInt = 64
    """Numbers in z, the generator's noise, each N(0, 1)."""
    generator: ResidualConfig = ResidualConfig()
    discriminator: ResidualConfig = ResidualConfig()
    conditioning: Conditioning = "projection"
    """Way that networks get labels, numbers and vectors. projection: Miyato & Koyama 2018; concatenation: Mirza & Osindero
    2014, where a label is one-hot. Images that it is given lie beside x with either."""
    loss: LossName = "non_saturating"
    """Loss of generator and discriminator; relativistic: real against fake in pairs, as in R3GAN."""
    penalty: PenaltyName | None = None
    """Keeps the discriminator smooth. Left out: gp for wasserstein, r1_r2 for relativistic, r1 for the others."""
    penalty_weight: float | None = Field(default=None, ge=0)
    """Weight of the penalty: gamma of R1 and R2 (halved in the loss), lambda of gp. Left out: 1 for R1 and R2, 10 for gp."""
    penalty_interval: PositiveInt = 1
    """1: part of the discriminator's loss. More: a phase of its own on every so many steps, weighted by as much."""
    n_critic: PositiveInt = 1
    """The generator is trained on every n-th step, the discriminator on each."""
    augment: AugmentConfig | None = None
    """Adaptive augmentation, for data that are few: what the discriminator sees is mirrored, shifted, scaled, darkened and
    so on. For x that has sides; {}: with the paper's settings. Left out: none."""

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        adam = {"name": "adam", "lr": 1e-3, "betas": [0.0, 0.99]}
        calm = {"trainer.optimizer": adam, "trainer.max_grad_norm": None}  # the penalty keeps gradients in bounds
        shape = data.target.shape
        if len(shape) == 1:
            return calm | {"model.latent_dim": max(8, min(64, shape[0])), "model.penalty_weight": 0.1}
        number = math.prod(shape[1:])
        size: dict[str, Any] = {"channels": _channels(shape[1:], means)}
        if len(shape) == 2 and number > 512 and number % 16 == 0:  # waves of a patch are made at once
            size |= {"patch_size": 16}
        few = {"model.augment": {"ramp_rows": 30_000}} if means.few_rows and number > 256 else {}
        pairs = {"model.loss": "relativistic", "model.penalty": "r1_r2", "model.penalty_interval": 4,
                 "model.penalty_weight": 1.0 if number <= 256 else 2.0 if len(shape) > 2 else 5.0}  # fmt: skip
        return calm | {"model.generator": size, "model.discriminator": size} | pairs | few

    def mistakes(self) -> dict[str, str]:
        found = {}
        if self.used_penalty == "none":
            given = {"penalty_weight": self.penalty_weight is not None, "penalty_interval": self.penalty_interval != 1}
            found = {key: "changes nothing with penalty: none; leave it out" for key, idle in given.items() if idle}
        if self.conditioning != "projection" and not self.conditions:
            found["conditioning"] = "changes nothing without conditions; leave it out"
        return found

    @model_validator(mode="after")
    def _has_few_sides(self) -> GANConfig:
        if self.shape is not None and not 0 <= len(self.shape) - 1 <= MOST_SIDES:
            raise ValueError(
                f"data: its networks draw vectors and what has channels and 1 to {MOST_SIDES} sides, not elements of "
                f"{'x'.join(map(str, self.shape)) or 'one number'}"
            )
        return self

    @model_validator(mode="after")
    def _divides_by_patches(self) -> GANConfig:
        for name, network in (("generator", self.generator), ("discriminator", self.discriminator)):
            patch, sides = network.patch_size, (self.shape or ())[1:]
            if self.shape is not None and patch > 1 and not (sides and all(side % patch == 0 for side in sides)):
                raise ValueError(
                    f"{name}.patch_size: patches of {patch} don't divide the sides of x, "
                    f"{'x'.join(map(str, sides)) or 'which has none'}"
                )
        return self

    @model_validator(mode="after")
    def _r3gan_fits(self) -> GANConfig:
        for name, network in (("generator", self.generator), ("discriminator", self.discriminator)):
            if self.shape is not None and network.architecture == "r3gan":
                try:
                    network.check_groups(network.folded(self.shape))
                except ValueError as error:
                    raise ValueError(f"{name}.{error}") from None
        return self

    @model_validator(mode="after")
    def _can_be_augmented(self) -> GANConfig:
        if self.augment is not None and self.shape is not None and len(self.shape) == 1:
            raise ValueError("augment: moves x along its sides, and a vector has none; leave it out")
        return self

    @property
    def used_penalty(self) -> PenaltyName:
        return PUBLISHED_PENALTY[self.loss] if self.penalty is None else self.penalty

    @property
    def used_weight(self) -> float:
        if self.penalty_weight is not None:
            return self.penalty_weight
        return 10.0 if self.used_penalty == "gp" else 1.0


def _channels(sides: tuple[int, ...], means: Means) -> list[int]:
    """Return the channels of levels that go down to a side of 8 or less; the first ones see x's full size, and are dear."""
    if len(sides) == 1:
        return [128, 192, 256, 256] if means.accelerator else [64, 96, 128, 128]
    first = 64 if means.accelerator else 32 if math.prod(sides) <= 256 else 16
    levels = 2
    while min(sides) > 8 * 2 ** (levels - 1):
        levels += 1
    return [first * min(2**level, 4) for level in range(levels)]


class ConditionalGANConfig(GANConfig):
    conditions: tuple[ColumnName, ...] = Field(min_length=1, max_length=100, examples=[["label"]])
    """Columns that it is given, at least one: [label]; `gan` does without."""

    @classmethod
    def from_format_1(cls, config: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        return super().from_format_1(config | {"conditions": ["label"]}, data)
