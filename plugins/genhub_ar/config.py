"""The options of an autoregressive model, checked before anything is built, and without importing transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from genhub import Fraction, Means, ModelConfig, ModelData, ModelPath, PositiveInt, Section, StoredModel

MOST_LEVELS = 256


class TransformerConfig(Section):
    """Keys of the transformer, which is GPT-2's."""

    hidden_size: PositiveInt = 64
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of numbers left out in training, of embeddings and what each layer adds: against learning few data by heart."""

    @model_validator(mode="after")
    def _has_whole_heads(self) -> TransformerConfig:
        if self.hidden_size % self.num_heads:
            near = max(1, round(self.hidden_size / self.num_heads)) * self.num_heads
            raise ValueError(f"hidden_size: {self.hidden_size} does not divide by num_heads {self.num_heads}; {near} does")
        return self


class ARConfig(ModelConfig):
    condition_dropout: Fraction | Mapping[str, Fraction] = 0.1
    """Share of rows trained on without their conditions, which guidance needs: all of a row's together; {label: 0.1} drops
    each column for itself."""
    autoencoder: ModelPath | StoredModel | None = None
    """A trained model of codes (a vqvae, say), by its run or folder: its codes are the tokens, and a checkpoint has a copy.
    Left out: the tokens are the values themselves, such as an image's pixels."""
    network: TransformerConfig = TransformerConfig()

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        values, most = math.prod(data.target.shape), 8192 if means.accelerator else 1024
        if data.target.levels is not None and values > most:
            raise ValueError(
                f"{values:,} values one by one are too many, at most {most:,} here: train a vqvae on the data, and name "
                "that by model.autoencoder"
            )
        small, large = {"hidden_size": 64, "num_layers": 3}, {"hidden_size": 256, "num_layers": 8, "num_heads": 8}
        few = {"dropout": 0.1} if means.few_rows else {}
        long = {} if values <= 256 else {"data.batch_size": 64 if means.accelerator else 8}
        return {"model.network": {**(large if means.accelerator else small), **few}} | long

    @property
    def contains(self) -> tuple[str, str] | None:
        return ("autoencoder", self.autoencoder) if isinstance(self.autoencoder, str) else None

    @model_validator(mode="after")
    def _has_tokens(self) -> ARConfig:
        if self.modality is None or self.autoencoder is not None:
            return self
        levels, kind = self.modality.levels, self.modality.modality
        if levels is None:
            raise ValueError(
                f"data: a {kind} has no levels to draw one by one: train a vqvae on it, and name that by model.autoencoder"
            )
        if levels > MOST_LEVELS:
            raise ValueError(
                f"data: its values have {levels:,} levels, and ar draws at most {MOST_LEVELS}: keep 8 bits, or train "
                "a vqvae, and name that by model.autoencoder"
            )
        return self
