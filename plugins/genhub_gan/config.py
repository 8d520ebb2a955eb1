"""The options of a GAN and of a conditional GAN."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genhub import ModelConfig, PositiveInt, Section

# Formulas and papers are in losses.py.
LossName = Literal["minimax", "non_saturating", "hinge", "wasserstein", "relativistic"]
PenaltyName = Literal["none", "r1", "r1_r2", "gp"]
Conditioning = Literal["projection", "concatenation"]
Threshold = Annotated[float, Field(gt=0)]

PUBLISHED_PENALTY: dict[LossName, PenaltyName] = {
    "minimax": "r1",
    "non_saturating": "r1",
    "hinge": "r1",
    "wasserstein": "gp",
    "relativistic": "r1_r2",
}
SMALLEST_SIDE, WIDTH, WIDEST = 7, 32, 256


class NetworkConfig(Section):
    """Keys of a residual network without normalisation; generator and discriminator are built alike."""

    channels: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    """Channels at each level, the image's own size first, then halved sides. Left out: 32, 64 to 256 down to a side of 7."""
    blocks_per_level: PositiveInt = 1
    """Residual blocks of two 3x3 convolutions."""

    def widths(self, sample_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the channels at each level for images (c, h, w), the image's own size first."""
        if self.channels is not None:
            return self.channels
        side, widths = min(sample_shape[1:]), [WIDTH]
        while side > SMALLEST_SIDE:
            side = -(-side // 2)
            widths.append(min(2 * widths[-1], WIDEST))
        return tuple(widths)


class GANConfig(ModelConfig):
    latent_dim: PositiveInt = 64
    """Numbers in z, the generator's noise, each N(0, 1)."""
    generator: NetworkConfig = NetworkConfig()
    discriminator: NetworkConfig = NetworkConfig()
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

    def mistakes(self) -> dict[str, str]:
        if self.used_penalty != "none":
            return {}
        given = {"penalty_weight": self.penalty_weight is not None, "penalty_interval": self.penalty_interval != 1}
        return {key: "changes nothing with penalty: none; leave it out" for key, idle in given.items() if idle}

    @property
    def used_penalty(self) -> PenaltyName:
        return PUBLISHED_PENALTY[self.loss] if self.penalty is None else self.penalty

    @property
    def used_weight(self) -> float:
        if self.penalty_weight is not None:
            return self.penalty_weight
        return 10.0 if self.used_penalty == "gp" else 1.0


class ConditionalGANConfig(GANConfig):
    conditioning: Conditioning = "projection"
    """Way that networks get the label. projection: Miyato & Koyama 2018; concatenation: one-hot, Mirza & Osindero 2014."""

    @model_validator(mode="after")
    def _has_labels(self) -> ConditionalGANConfig:
        if self.sample_shape is not None and self.num_classes is None:
            raise ValueError("num_classes: a conditional GAN needs labels, and the data has none; `gan` does without")
        return self
