"""Quantizers: from an encoder's output to codes, whole numbers in [0, num_codes), and from codes to vectors.

Notation: z_e the encoder's output (n, d, *grid), codes (n, *grid) int64, z_q their vectors (n, d, *grid).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genhub_vae.vqvae_config import VQVAEConfig


class Quantized(NamedTuple):
    """Codes of latents, and their part in the loss."""

    codes: Tensor
    vectors: Tensor
    """Vectors z_q of the codes, through which the decoder's gradient passes as if they were z_e ("straight through")."""
    penalty: Tensor
    """Term that the quantizer adds to the loss."""


class VectorQuantizer(nn.Module):
    """Table of K learnt vectors, of which the nearest to z_e is taken (van den Oord et al. 2017, arXiv:1711.00937)."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.num_codes, self.latent_dim = config.num_vq_embeddings, config.latent_dim
        self.commitment_cost = config.commitment_cost
        near = 1 / self.num_codes  # as the paper's authors do: all codes start near 0, where the encoder's output is
        self.codebook = nn.Parameter(torch.empty(self.num_codes, self.latent_dim).uniform_(-near, near))

    def forward(self, latents: Tensor) -> Quantized:
        """Return the codes of z_e, z_q, and the last two terms of eq. 3, |sg[z_e] - e|^2 + beta |z_e - sg[e]|^2."""
        codes = self.codes(latents)
        vectors = self.vectors(codes)
        codebook = (latents.detach() - vectors).square().mean()
        commitment = (latents - vectors.detach()).square().mean()
        passed = latents + (vectors - latents).detach()
        return Quantized(codes, passed, codebook + self.commitment_cost * commitment)

    def codes(self, latents: Tensor) -> Tensor:
        """Return the number of the nearest vector at each place, eq. 1."""
        rows = latents.movedim(1, -1)
        with torch.autocast(latents.device.type, enabled=False):
            distances = torch.cdist(rows.flatten(1, -2).float(), self.codebook.float())
        return distances.argmin(-1).view(rows.shape[:-1])

    def vectors(self, codes: Tensor) -> Tensor:
        return self.codebook[codes].movedim(-1, 1)


class FiniteScalarQuantizer(nn.Module):
    """Rounding of each of a few numbers to levels of its own (Mentzer et al. 2023, arXiv:2309.15505): number i of a vector
    is one of L_i equally spaced values in [-1, 1], and a code is all of them, as the digits of one number."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        levels = torch.tensor(config.levels)
        self.num_codes, self.latent_dim = math.prod(config.levels), len(config.levels)
        self.levels = nn.Buffer(levels, persistent=False)
        self.worth = nn.Buffer(torch.cumprod(levels, 0) // levels, persistent=False)  # of a digit: 1, L_1, L_1 L_2, ...

    def forward(self, latents: Tensor) -> Quantized:
        """Return the codes of z_e, z_q and no penalty: there is no table that would have to follow."""
        codes, bounded = self.codes(latents), latents.tanh()
        return Quantized(codes, bounded + (self.vectors(codes) - bounded).detach(), latents.new_zeros(()))

    def codes(self, latents: Tensor) -> Tensor:
        """Return the codes of round((L - 1) (tanh(z_e) + 1) / 2): for odd L the paper's round(L // 2 tanh(z_e)), counted
        from 0; for even L it is symmetric, too, without the paper's half a step aside."""
        digits = ((latents.float().movedim(1, -1).tanh() + 1) / 2 * (self.levels - 1)).round().long()
        return (digits * self.worth).sum(-1)

    def vectors(self, codes: Tensor) -> Tensor:
        digits = codes[..., None] // self.worth % self.levels
        return (2 * digits / (self.levels - 1) - 1).movedim(-1, 1)


QUANTIZERS: dict[str, type[VectorQuantizer] | type[FiniteScalarQuantizer]] = {
    "vq": VectorQuantizer,
    "fsq": FiniteScalarQuantizer,
}
