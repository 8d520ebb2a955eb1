"""The VQ-VAE (van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937): x becomes a grid of codes, each one of K."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genhub import Batch, Conditions, GenerativeModel, Generators, Phase, randn
from genhub_vae.grids import GridDecoder, GridEncoder
from genhub_vae.networks import sizes
from genhub_vae.quantizers import QUANTIZERS
from genhub_vae.vqvae_config import VQVAEConfig


class VQVAE(GenerativeModel):
    """An autoencoder whose latents are codes. It learns to copy; where codes go together is for a second model to learn.

    The paper draws new codes from a PixelCNN: here `ar` is that second model. `sample` makes do with how often each place
    has each code, as if places did not know of each other: its pictures have the strokes of digits, and are none.

    Notation: z_e the encoder's output (n, d, *grid), z_q the vectors of its codes. Given conditions y, the encoder and the
    decoder both are, and the count is of all codes, whatever was given.
    """

    Config = VQVAEConfig
    config: VQVAEConfig

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__(config)
        self.quantizer = QUANTIZERS[config.quantizer](config)
        self.num_codes = self.quantizer.num_codes
        self.code_shape = sizes(self.shape, len(config.widths))[-1] or (config.vector_codes,)
        latent_shape = (self.quantizer.latent_dim, *self.code_shape)
        self.encoder = GridEncoder(self.conditions, self.shape, config.widths, latent_shape)
        self.decoder = GridDecoder(self.conditions, self.shape, config.widths, latent_shape)
        places = math.prod(self.code_shape)
        self.frequencies = nn.Buffer(torch.full((places, self.num_codes), 1 / self.num_codes))  # each row sums to 1
        self.batches = nn.Buffer(torch.zeros((), dtype=torch.int64))  # that the frequencies have seen

    def phases(self) -> list[Phase]:
        learnt = ("quantizer",) if self.config.quantizer == "vq" else ()
        return [Phase("quantize", self.loss, trains=("encoder", "decoder", *learnt))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return eq. 3: |x - decoder(z_q)|^2 + |sg[z_e] - e|^2 + beta |z_e - sg[e]|^2, each a mean over its elements; of fsq
        the first term alone.

        Logged apart: `reconstruction`, the first term, and `perplexity`, the number of codes in use: exp of the entropy of
        the codes' frequencies in the batch.
        """
        latents = self.encoder(batch.x, batch.conditions).float()
        quantized = self.quantizer(latents)
        reconstruction = (self.decoder(quantized.vectors, batch.conditions).float() - batch.x).square().mean()
        shares = self.shares(quantized.codes)
        if self.training:
            with torch.no_grad():
                self.batches.add_(1)
                self.frequencies.lerp_(shares, 1 / self.batches.clamp(max=self.config.frequency_window).float())
        entropy = torch.special.entr(shares.mean(0)).sum()
        return {
            "loss": reconstruction + quantized.penalty,
            "reconstruction": reconstruction,
            "perplexity": entropy.exp(),
        }

    def shares(self, codes: Tensor) -> Tensor:
        """Return how often each place has each code in a batch of codes (n, *grid): (places, K)."""
        counts = torch.zeros_like(self.frequencies)
        return counts.scatter_add(1, codes.flatten(1).T, counts.new_ones(1).expand(codes.flatten(1).T.shape)) / len(codes)

    def sample(self, n: int, *, conditions: Conditions | None = None, generator: Generators = None) -> Tensor:
        """Decode n grids of codes, each place's drawn by its own frequencies; see the class for why they are poor."""
        uniform = torch.special.ndtr(randn((n, len(self.frequencies)), generator, self.device))
        bounds = self.frequencies.cumsum(1)
        drawn = torch.searchsorted(bounds / bounds[:, -1:], uniform.T.contiguous(), right=True).T  # (n, places)
        return self.decode_codes(drawn.clamp(max=self.num_codes - 1).reshape(n, *self.code_shape), conditions)

    # The capability `DiscreteAutoencoder`. As in Rombach et al. 2022, quantizing is the decoder's part: latents are z_e.

    def encode(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return z_e (n, d, *grid) of x (n, *shape)."""
        latents: Tensor = self.encoder(x, self.conditions_of(len(x), conditions))
        return latents.float()

    def decode(self, latents: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the x (n, *shape) of z_e (n, d, *grid), taken to its codes, within its modality's bounds."""
        return self.decode_codes(self.quantizer.codes(latents), conditions)

    def encode_codes(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the codes (n, *grid) int64 of x (n, *shape)."""
        return self.quantizer.codes(self.encode(x, conditions))

    def decode_codes(self, codes: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the x (n, *shape) of codes (n, *grid), within its modality's bounds."""
        vectors = self.quantizer.vectors(codes)
        x: Tensor = self.decoder(vectors, self.conditions_of(len(codes), conditions)).float()
        return x.clamp(*self.modality.bounds) if self.modality.bounds else x
