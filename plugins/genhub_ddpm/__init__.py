"""Denoising diffusion probabilistic models."""

from genhub_ddpm.ddpm import DDPM

__all__ = ["DDPM"]
