"""The VQ-VAE (van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937) on diffusers' VQModel: an image becomes a small
grid of codes, each one of K vectors.

Notation: x the images, z_e(x) the encoder's output (n, latent_channels, h, w), e_1..e_K the codebook, z_q the nearest
codes' vectors. Each level of the network but the last halves height and width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from genhub import (
    Batch,
    Conditions,
    GenerativeModel,
    Generators,
    ModelConfig,
    Phase,
    PositiveInt,
    load_strictly,
    randn,
    save_tensors,
)  # fmt: skip


class VQVAEConfig(ModelConfig):
    block_out_channels: tuple[PositiveInt, ...] = Field(default=(32, 64), min_length=1)
    """Channels at each level; each level but the last halves height and width."""
    layers_per_block: PositiveInt = 1
    norm_num_groups: PositiveInt = 8
    latent_channels: PositiveInt = 4
    """Length of a code's vector. Short ones are found more easily, and more of them are used."""
    num_vq_embeddings: PositiveInt = 64
    """K, the number of codes."""
    commitment_cost: Annotated[float, Field(ge=0)] = 0.25
    """beta, how strongly the encoder is kept near its codes (eq. 3)."""
    frequency_window: PositiveInt = 200
    """The prior counts codes over about so many of the last training batches."""

    @model_validator(mode="after")
    def _fits(self) -> VQVAEConfig:
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(f"block_out_channels: {width} does not divide by norm_num_groups {self.norm_num_groups}")
        if self.conditions:
            raise ValueError("conditions: a vqvae is given nothing; leave them out")
        if self.shape is None:
            return self
        if len(self.shape) != 3:
            raise ValueError(f"data: a vqvae copies images, of 2 sides, not {len(self.shape) - 1}")
        levels, (_, height, width) = len(self.block_out_channels), self.shape
        divisor = 2 ** (levels - 1)
        if height % divisor or width % divisor:
            raise ValueError(f"block_out_channels: {levels} levels need sides divisible by {divisor}, not {height}x{width}")
        return self


class VQVAE(GenerativeModel):
    """An autoencoder whose latents are codes. It learns to copy; where codes go together is for a second model to learn.

    The paper draws new codes from a PixelCNN. `sample` makes do with how often each place has each code, as if places did
    not know of each other: its pictures have the strokes of digits, and are none. A latent diffusion on `encode` is the
    better prior.
    """

    Config = VQVAEConfig
    config: VQVAEConfig

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__(config)
        import diffusers

        levels = len(config.block_out_channels)
        network: Any = diffusers.VQModel
        self.vq: Any = network(
            in_channels=self.shape[0], out_channels=self.shape[0], sample_size=max(self.shape[1:]),
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
            scaling_factor=1.0, mid_block_add_attention=False,
            **config.model_dump(include={"block_out_channels", "layers_per_block", "norm_num_groups", "latent_channels",
                                         "num_vq_embeddings"}),
        )  # fmt: skip
        scale = 2 ** (levels - 1)
        self.grid = (self.shape[1] // scale, self.shape[2] // scale)  # (h, w) of the codes
        codes = config.num_vq_embeddings
        self.frequencies = nn.Buffer(torch.full((self.grid[0] * self.grid[1], codes), 1 / codes))  # each row sums to 1
        self.batches = nn.Buffer(torch.zeros((), dtype=torch.int64))  # that the frequencies have seen

    def phases(self) -> list[Phase]:
        return [Phase("quantize", self.loss, trains=("vq",))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 3: |x - decoder(z_q)|^2 + |sg[z_e] - e|^2 + beta |z_e - sg[e]|^2, each a mean over its elements. The decoder's
        gradient passes z_q as if it were z_e.

        Logged apart: `reconstruction`, `commitment` (|z_e - e|^2), and `perplexity`, the number of codes in use.
        """
        images = batch.x
        latents = self.vq.encode(images).latents.float()
        codes = self.codes(latents)
        vectors = self.vectors(codes)
        passed = latents + (vectors - latents).detach()
        reconstruction = (self.decode_vectors(passed) - images).square().mean()
        commitment = (latents - vectors.detach()).square().mean()
        codebook = (latents.detach() - vectors).square().mean()
        shares = functional.one_hot(codes.flatten(1), self.config.num_vq_embeddings).float().mean(0)  # (h w, K)
        if self.training:
            with torch.no_grad():
                self.batches.add_(1)
                self.frequencies.lerp_(shares, 1 / self.batches.clamp(max=self.config.frequency_window).float())
        entropy = torch.special.entr(shares.mean(0)).sum()
        return {
            "loss": reconstruction + codebook + self.config.commitment_cost * commitment,
            "reconstruction": reconstruction,
            "commitment": commitment,
            "perplexity": entropy.exp(),
        }

    def codes(self, latents: Tensor) -> Tensor:
        """Eq. 1: the nearest code's number for each place of z_e, (n, h, w) int64."""
        with torch.autocast(latents.device.type, enabled=False):
            distances = torch.cdist(latents.float().movedim(1, -1).flatten(1, 2), self.codebook.float())
        return distances.argmin(-1).view(-1, *self.grid)

    def vectors(self, codes: Tensor) -> Tensor:
        """z_q of codes (n, h, w): (n, latent_channels, h, w)."""
        return self.codebook[codes].movedim(-1, 1)

    @property
    def codebook(self) -> Tensor:
        """(K, latent_channels)."""
        weight: Tensor = self.vq.quantize.embedding.weight
        return weight

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        images: Tensor = self.vq.decode(vectors, force_not_quantize=True).sample
        return images.float()

    def sample(self, n: int, *, conditions: Conditions | None = None, generator: Generators = None) -> Tensor:
        """Decode n grids of codes, each place's drawn by its own frequencies; see the class for why they are poor."""
        uniform = torch.special.ndtr(randn((n, len(self.frequencies)), generator, self.device))
        bounds = self.frequencies.cumsum(1)
        bounds = bounds / bounds[:, -1:]
        drawn = torch.searchsorted(bounds, uniform.T.contiguous(), right=True).T  # (n, h w)
        codes = drawn.clamp(max=self.config.num_vq_embeddings - 1).reshape(n, *self.grid)
        return self.clipped(self.decode_vectors(self.vectors(codes)))

    def clipped(self, images: Tensor) -> Tensor:
        return images.clamp(*self.modality.bounds) if self.modality.bounds else images

    # The capability `Autoencoder`. As Rombach et al. 2022 have it, quantizing is the decoder's part: latents are z_e.

    def encode(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """(n, c, h, w) in [-1, 1] to z_e, (n, latent_channels, h', w')."""
        latents: Tensor = self.vq.encode(x).latents
        return latents.float()

    def decode(self, latents: Tensor, conditions: Conditions | None = None) -> Tensor:
        """(n, latent_channels, h', w'), taken to its nearest codes, to (n, c, h, w) in [-1, 1]."""
        return self.clipped(self.decode_vectors(self.vectors(self.codes(latents))))

    # Folders: vq/ opens with diffusers' VQModel.from_pretrained

    def save_networks(self, path: Path) -> None:
        self.vq.save_pretrained(path / "vq")
        save_tensors(self._prior().state_dict(), path / "model.safetensors")

    def load_networks(self, path: Path) -> None:
        load_strictly(self.vq, path / "vq" / "diffusion_pytorch_model.safetensors")
        load_strictly(self._prior(), path / "model.safetensors")

    def _prior(self) -> nn.Module:
        prior = nn.Module()
        prior.frequencies, prior.batches = nn.Buffer(self.frequencies), nn.Buffer(self.batches)  # plain tensors, once moved
        return prior
