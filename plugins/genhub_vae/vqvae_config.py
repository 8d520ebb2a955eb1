"""The options of a VQ-VAE, checked before anything is built."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from genhub import Means, ModelConfig, ModelData, NonNegative, PositiveInt
from genhub_vae.config import check_halvings, suited_channels, used_channels

Levels = Annotated[int, Field(strict=True, ge=2, le=2**16)]
MOST_CODES = 2**20


class VQVAEConfig(ModelConfig):
    channels: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    """Channels of the encoder's convolutions, each of which halves every side (odd ones round up); the decoder goes the same
    way back. Of vectors, widths of hidden layers. Left out: 32, 64; of vectors 128, 128."""
    quantizer: Literal["vq", "fsq"] = "vq"
    """vq: the nearest of num_vq_embeddings learnt vectors. fsq: each number of the encoder's rounded to one of a few levels
    (Mentzer et al. 2023); nothing is learnt, and no code dies."""
    num_vq_embeddings: int = Field(default=64, strict=True, ge=2, le=MOST_CODES)
    """vq: K, the number of codes."""
    latent_dim: PositiveInt = 4
    """vq: length of a code's vector. Short ones are found more easily, and more of them are used."""
    commitment_cost: NonNegative = 0.25
    """vq: beta, how strongly the encoder is kept near its codes (eq. 3)."""
    levels: tuple[Levels, ...] = Field(default=(8, 5, 5, 5), min_length=1, max_length=20)
    """fsq: levels of each number; their product, 1000 here, is the number of codes."""
    vector_codes: PositiveInt = 4
    """Number of codes that a vector becomes; what has sides has a code for each place that the halvings leave."""
    frequency_window: PositiveInt = 200
    """Over how many training batches, about, `sample` counts how often each place has each code."""

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        return suited_channels(data, means)

    def mistakes(self) -> dict[str, str]:
        """Return the keys of the quantizer that was not chosen."""
        others = ("num_vq_embeddings", "latent_dim", "commitment_cost") if self.quantizer == "fsq" else ("levels",)
        other = "vq" if self.quantizer == "fsq" else "fsq"
        return {
            key: f"changes nothing without quantizer: {other}; leave it out" for key in others if not self.is_default(key)
        }

    @property
    def widths(self) -> tuple[int, ...]:
        return used_channels(self.channels, self.shape)

    @model_validator(mode="after")
    def _fits(self) -> VQVAEConfig:
        if math.prod(self.levels) > MOST_CODES:
            raise ValueError(f"levels: {math.prod(self.levels):,} codes; at most {MOST_CODES:,}")
        if self.shape is not None:
            check_halvings(len(self.widths), self.shape)
        return self
