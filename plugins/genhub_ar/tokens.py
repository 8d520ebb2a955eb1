"""Tokens that the transformer learns: the values of x one by one, or the codes of an autoencoder.

Both are seen the same way, so that neither the loss nor the sampler asks which of them it has.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from genhub import (
    Batch,
    Conditions,
    ContainedModel,
    DiscreteAutoencoder,
    FrozenEncoder,
    InputError,
    Modality,
    Model,
    RecipeError,
    StoredModel,
    check_contained,
    load,
)
from genhub_ar.config import ARConfig


def read_tokens(config: ARConfig) -> tuple[Values | Codes, ARConfig]:
    """Return the tokens that a Config asks for, and the Config with an autoencoder's description in place of its name.

    Raises:
        RecipeError: the autoencoder is not there, has no codes, or is for other data.
    """
    assert config.data is not None  # as of every model that is built
    if config.autoencoder is None:
        return Values(config.data.target), config
    if isinstance(config.autoencoder, StoredModel):
        return Codes(_checked(config.autoencoder.build(), config), config.autoencoder), config
    try:
        model = _checked(load(config.autoencoder), config)
    except InputError as error:
        raise RecipeError(f"model.autoencoder: {error}") from error
    model.trained_on = None  # a run that goes on builds it from its Config, and must save the same
    described = StoredModel.of(model)
    return Codes(model, described, config.autoencoder), config.model_copy(update={"autoencoder": described})


def _checked(model: Model, config: ARConfig) -> Model:
    if not isinstance(model, DiscreteAutoencoder):
        name = model.config.name or type(model).__name__
        raise InputError(f"'{name}' has no codes (no encode_codes and decode_codes); vqvae has")
    assert config.data is not None
    check_contained(model, config.data)
    return model


class Values(nn.Module):
    """Tokens that are the levels of x, place by place, row after row, the channels of a place behind one another."""

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        assert modality.levels is not None
        assert modality.bounds is not None
        self.shape, self.bounds = modality.shape, modality.bounds
        self.num_tokens, self.length = modality.levels, math.prod(modality.shape)

    def of_batch(self, batch: Batch) -> Tensor:
        """Return the tokens (n, length) int64 of a batch."""
        low, high = self.bounds
        levels = ((batch.x.float() - low) / (high - low) * (self.num_tokens - 1)).round().long()
        return levels.clamp(0, self.num_tokens - 1).movedim(1, -1).flatten(1)

    def decode(self, tokens: Tensor, conditions: Conditions) -> Tensor:
        """Return x (n, *shape) of tokens (n, length)."""
        low, high = self.bounds
        values = low + (high - low) * tokens.float() / (self.num_tokens - 1)
        return values.view(len(tokens), *self.shape[1:], self.shape[0]).movedim(-1, 1)

    def frozen_encoder(self) -> None:
        """Return None, as nothing is computed of x."""

    def save(self, path: Path) -> None:
        """Write nothing."""

    def load(self, path: Path) -> None:
        """Read nothing."""


class Codes(ContainedModel):
    """Tokens that are the codes of a trained autoencoder, frozen, row after row of their grid."""

    def __init__(self, model: Model, described: StoredModel, trained_as: str = "") -> None:
        super().__init__(model, trained_as)
        self.described = described
        codes = cast(DiscreteAutoencoder, model)
        self.num_tokens, self.length = codes.num_codes, math.prod(codes.code_shape)

    def of_batch(self, batch: Batch) -> Tensor:
        """Return the tokens (n, length) of a batch, computed now or kept from before."""
        kept = batch.cached.get("latents")
        codes = self.encode(batch.x, batch.conditions) if kept is None else kept
        return codes.long().flatten(1)

    def frozen_encoder(self) -> FrozenEncoder | None:
        """Return the autoencoder; None where it is given conditions, on which codes depend then."""
        return None if self.given else FrozenEncoder(self.encode, self.model, self.described.model_dump_json())

    @torch.no_grad()
    def encode(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the codes of x as floats, (n, *code_shape): as such they are kept, and up to 2^24 they are exact."""
        codes: Tensor = self.model.encode_codes(x, self.own_conditions(conditions)).float()
        return codes

    def decode(self, tokens: Tensor, conditions: Conditions) -> Tensor:
        """Return x (n, *shape) of tokens (n, length), given its conditions."""
        x: Tensor = self.model.decode_codes(
            tokens.view(len(tokens), *self.model.code_shape), self.own_conditions(conditions)
        )
        return x
