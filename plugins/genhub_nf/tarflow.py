"""TarFlow (Zhai et al. 2024, arXiv:2412.06329): a stack of autoregressive flows over patches, each a causal transformer, in
turn forwards and backwards, trained by maximum likelihood on x with a little noise, which is taken out of what is drawn.

Notation: x_i the tokens, i = 1, ..., T; a block maps them to z_i = (x_i - mu_i) exp(-alpha_i), where mu_i and alpha_i depend
on the x_j before i and on what is given; the last block's z has the prior N(0, I).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genhub import (
    Batch,
    Conditioner,
    Conditions,
    GenerativeModel,
    Generators,
    Given,
    NonNegative,
    Phase,
    folded,
    guided,
    randn,
    unfolded,
    unused_guidance,
)
from genhub_nf.bins import Bins
from genhub_nf.config import TarFlowConfig, Temperature

Cache = dict[int, tuple[Tensor, Tensor]]
"""Keys and values (n, heads, length, size) of the tokens so far, by layer."""


class TarFlow(GenerativeModel):
    """Noise to x by transformers, a patch at a time; x to noise by the same ones, all patches at once: an exact density."""

    Config = TarFlowConfig
    config: TarFlowConfig

    def __init__(self, config: TarFlowConfig) -> None:
        super().__init__(config)
        channels, *sides = self.shape
        flat = (channels,)  # so that an image is given as a vector, too
        self.conditioner = Conditioner(self.conditions, flat, config.hidden_size, takes=frozenset({"vector"}))
        self.grid = [side // config.patch_size for side in sides]
        size = channels * config.patch_size ** len(sides)
        self.flow = nn.ModuleList(Block(size, math.prod(self.grid), config) for _ in range(config.num_blocks))
        self.bins = Bins(self.modality, config.levels)

    def phases(self) -> list[Phase]:
        return [Phase("likelihood", self.loss, trains=("flow", "conditioner") if self.conditions else ("flow",))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log2 p(x) a number of x with noise."""
        std = self.config.noise_std
        x = batch.x + std * torch.randn_like(batch.x) if std else self.bins.filled(batch.x)
        log_density = self.log_density(x, self.conditioner(batch.conditions))
        return {"loss": self.bins.trained_bits(log_density, batch.x[0].numel()).mean()}

    def log_density(self, x: Tensor, given: Given) -> Tensor:
        """Return (n,) log p(x) in nats, a density of a batch's values."""
        tokens = self.tokens(x)
        log_determinant = x.new_zeros(len(x))
        for number, block in enumerate(self.flow):
            tokens, more = block(_ordered(tokens, number), given)
            tokens, log_determinant = _ordered(tokens, number), log_determinant + more
        return log_determinant - 0.5 * (tokens.square() + math.log(2 * math.pi)).flatten(1).sum(1)

    def tokens(self, x: Tensor) -> Tensor:
        """Return the patches (n, T, size) of x (n, *shape)."""
        return folded(x, self.config.patch_size).flatten(2).transpose(1, 2)

    def untokened(self, tokens: Tensor) -> Tensor:
        """Return the inverse of `tokens`."""
        return unfolded(tokens.transpose(1, 2).reshape(len(tokens), -1, *self.grid), self.config.patch_size)

    def sample(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None,
        temperature: Temperature | None = None, guidance_scale: NonNegative | None = None, denoise: bool | None = None,
    ) -> Tensor:  # fmt: skip
        """Draw z from the prior and undo the blocks, a patch at a time.

        Args:
            temperature: the prior's standard deviation.
            guidance_scale: for a model with conditions; 1 is the conditions alone.
            denoise: take the training's noise out of what is drawn.
        """
        sampling = self.config.sampling
        scale = sampling.guidance_scale if guidance_scale is None else guidance_scale
        with torch.inference_mode(False), torch.no_grad():  # the density has to be differentiated by x
            given = self.conditioner(self.conditions_of(n, conditions).each(torch.clone))
            nothing = self.conditioner(Conditions.nothing(self.conditions, n, self.device))
            noise = randn((n, *self.shape), generator, self.device)
            tokens = (sampling.temperature if temperature is None else temperature) * self.tokens(noise)
            for number, block in reversed(list(enumerate(self.flow))):
                assert isinstance(block, Block)
                ordered = block.inverse(_ordered(tokens, number), given, nothing, scale if self.conditions else 1.0)
                tokens = _ordered(ordered, number)
            x = self.untokened(tokens)
            if self.config.noise_std and (sampling.denoise if denoise is None else denoise):
                x = self.denoised(x, given)
        return x.clamp(*self.modality.bounds) if self.modality.bounds else x

    def denoised(self, x: Tensor, given: Given) -> Tensor:
        """Return x + noise_std^2 d log p(x) / dx: the mean of the clean x, given one with noise (Tweedie)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (score,) = torch.autograd.grad(self.log_density(x, given).sum(), x)
        return x.detach() + self.config.noise_std**2 * score

    def unused_options(self, options: Mapping[str, Any]) -> dict[str, str]:
        unused = unused_guidance(self.conditions, options, self.config.sampling.guidance_scale)
        if options.get("denoise") is not None and not self.config.noise_std:
            unused["denoise"] = "this model was trained without noise"
        return unused

    # The capabilities `Likelihood` and `Energy`

    @torch.no_grad()
    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        """Return (n,) bits a number of x: of values with levels an upper bound in expectation over the noise that fills
        their bins. A model trained with noise has the density of x with that noise, and needs more bits than one with
        `noise_std: 0`."""
        x = self.bins.filled_by(batch.x, generator)
        return self.bins.bits(self.log_density(x, self.conditioner(batch.conditions)), batch.x[0].numel())

    def energy(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return (n,) -log p(x) in nats, of a batch's values."""
        return -self.log_density(x, self.conditioner(self.conditions_of(len(x), conditions)))


def _ordered(tokens: Tensor, number: int) -> Tensor:
    """Return tokens (n, T, size) in the order of block `number`, or back: every other one goes backwards."""
    return tokens.flip(1) if number % 2 else tokens


class Block(nn.Module):
    """One autoregressive flow: a token is moved and stretched by what a causal transformer makes of those before it."""

    def __init__(self, size: int, length: int, config: TarFlowConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.enter, self.leave = nn.Linear(size, width), nn.Linear(width, 2 * size)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.layers = nn.ModuleList(Layer(width, config.num_heads, config.dropout) for _ in range(config.layers_per_block))
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.leave.weight)  # starts as the identity
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """Return z (n, T, size) for x (n, T, size), and (n,) log |det dz/dx|."""
        before = nn.functional.pad(x[:, :-1], (0, 0, 1, 0))  # what each token is predicted from ends with the one before it
        alpha, mu = self.predicted(before, given).unbind(3)
        return (x - mu) * (-alpha).exp(), -alpha.flatten(1).sum(1)

    def inverse(self, z: Tensor, given: Given, nothing: Given, guidance_scale: float) -> Tensor:
        """Return x (n, T, size), token by token; alpha and mu are guided."""
        cache: Cache = {}
        last, done = torch.zeros_like(z[:, 0]), list[Tensor]()
        for place in range(z.shape[1]):

            def predict(last: Tensor, _: Tensor | None, given: Given, place: int = place) -> Tensor:
                return self.predicted(last[:, None], given, place, cache)[:, 0]

            alpha, mu = guided(predict, last, None, given, nothing, guidance_scale).unbind(2)
            last = z[:, place] * alpha.exp() + mu
            done.append(last)
        return torch.stack(done, 1)

    def predicted(self, before: Tensor, given: Given, place: int = 0, cache: Cache | None = None) -> Tensor:
        """Return alpha and mu, (n, length, size, 2) float32 in any precision, of the tokens from `place` on.

        Args:
            before: the token before each of them, (n, length, size); zeros before the first.
            cache: keys and values of earlier tokens, to which these are added.
        """
        tokens = self.enter(before) + self.positions[place : place + before.shape[1]]
        if given.vector is not None:
            tokens = tokens + given.vector[:, None]
        for number, layer in enumerate(self.layers):
            tokens = layer(tokens, number, cache)
        predicted: Tensor = self.leave(self.norm(tokens)).float().unflatten(2, (-1, 2))
        return predicted


class Layer(nn.Module):
    """Attention of tokens to those before them and themselves, then an MLP, each added to what comes in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query_key_value, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, number: int, cache: Cache | None) -> Tensor:
        """Return (n, length, width) for x (n, length, width): all tokens, or one more than are in the cache."""
        parts = self.query_key_value(self.norms[0](x)).chunk(3, 2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        if cache is not None:
            if number in cache:
                key, value = (torch.cat([old, new], 2) for old, new in zip(cache[number], (key, value), strict=True))
            cache[number] = key, value
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=cache is None)
        x = x + self.dropout(self.merge(attended.transpose(1, 2).flatten(2)))
        output: Tensor = x + self.dropout(self.mlp(self.norms[1](x)))
        return output
