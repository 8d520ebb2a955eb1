"""An autoregressive model: p(x) = prod_i p(x_i | x_1 .. x_i-1), each factor by a causal transformer (Child et al. 2019,
arXiv:1904.10509, on pixels; van den Oord et al. 2017, arXiv:1711.00937, on the codes of a VQ-VAE)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from genhub import (
    Batch,
    Conditioner,
    Conditions,
    FrozenEncoder,
    GenerativeModel,
    Generators,
    InputError,
    NonNegative,
    Phase,
    PositiveInt,
    load_strictly,
    randn,
    save_tensors,
    unused_guidance,
)
from genhub_ar.choice import between, choose, kept
from genhub_ar.config import ARConfig
from genhub_ar.tokens import read_tokens
from genhub_ar.transformer import TAKES, Transformer

Temperature = Annotated[float, Field(gt=0)]
Mass = Annotated[float, Field(gt=0, le=1)]


class AR(GenerativeModel):
    """A transformer that foretells each token of x by those before it: values with levels, such as 8-bit pixels, row after
    row, or the codes of an autoencoder. What it is given stands in front, as a prefix.

    Its likelihood of pixels is exact, and it draws one token after another: an evaluation a token.
    """

    Config = ARConfig
    config: ARConfig

    def __init__(self, config: ARConfig) -> None:
        super().__init__(config)
        self.tokens, self.config = read_tokens(config)
        width = config.network.hidden_size
        # Of no sides: a sequence has no place where an image could lie beside x, so that one comes as a vector, too.
        self.conditioner = Conditioner(self.conditions, (width,), width, TAKES)
        self.network = Transformer(config.network, self.tokens.num_tokens, self.tokens.length)

    # Training

    def phases(self) -> list[Phase]:
        return [Phase("foretell", self.loss, trains=("network", "conditioner") if self.conditions else ("network",))]

    def frozen_encoder(self) -> FrozenEncoder | None:
        """Return the autoencoder, where there is one that needs x alone."""
        return self.tokens.frozen_encoder()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log p(x) a token, in nats; logged apart in `bits`: of pixels, these are the bits per dimension."""
        nats = self.nats(batch).mean()
        return {"loss": nats, "bits": nats.detach() / math.log(2)}

    def nats(self, batch: Batch) -> Tensor:
        """Return -log p(token | those before it) of each token, (n, length)."""
        tokens = self.tokens.of_batch(batch)
        logits = self.network(tokens, self.conditioner(batch.conditions)).float()
        return functional.cross_entropy(logits.movedim(-1, 1), tokens, reduction="none")

    # Sampling

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        conditions: Conditions | None = None,
        generator: Generators = None,
        temperature: Temperature = 1.0,
        top_k: PositiveInt | None = None,
        top_p: Mass = 1.0,
        guidance_scale: NonNegative | None = None,
    ) -> Tensor:
        """Draw n elements, token after token.

        Args:
            temperature: 1 is the model; below 1 likely tokens gain.
            top_k: draw from so many tokens, the likeliest, alone.
            top_p: draw from the fewest tokens, the likeliest, that have this probability together.
            guidance_scale: for a model with conditions; 1 is the conditions alone, more exaggerates them, 0 ignores them.
        """
        conditions = self.conditions_of(n, conditions)
        given, scale = self.conditioner(conditions), 1.0 if guidance_scale is None else guidance_scale
        guides = bool(self.conditions) and scale != 1
        if guides:
            given = given.beside(self.conditioner(Conditions.nothing(self.conditions, n, self.device)))
        uniform = torch.special.ndtr(randn((n, self.tokens.length), generator, self.device))
        tokens: list[Tensor] = []
        logits, memory = self.network.begin(2 * n if guides else n, given)
        for share in uniform.T:
            if tokens:
                last = tokens[-1]
                logits, memory = self.network.go_on(torch.cat([last, last]) if guides else last, memory)
            wanted = between(logits, scale) if guides else logits
            tokens.append(choose(kept(wanted, temperature, top_k, top_p), share))
        return self.tokens.decode(torch.stack(tokens, 1), conditions)

    def unused_options(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Return guidance where there are no conditions."""
        return unused_guidance(self.conditions, options, 1.0)

    # The capability `Likelihood`

    @torch.no_grad()
    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        """Return -log2 p(x | y) a number of x, exactly: (n,).

        Raises:
            InputError: the tokens are codes.
        """
        if self.config.autoencoder is not None:
            raise InputError("bits per dimension: those of codes say nothing about x, of which a decoder makes one guess")
        conditions = self.conditions_of(len(batch), batch.conditions)
        return self.nats(Batch(batch.x, conditions)).mean(1) / math.log(2)

    # Folders

    def save_networks(self, path: Path) -> None:
        save_tensors(self._own().state_dict(), path / "model.safetensors")
        self.tokens.save(path)

    def load_networks(self, path: Path) -> None:
        load_strictly(self._own(), path / "model.safetensors")
        self.tokens.load(path)

    def _own(self) -> nn.Module:
        """Return a module of what the model has besides an autoencoder."""
        return nn.ModuleDict({"conditioner": self.conditioner, "network": self.network})
