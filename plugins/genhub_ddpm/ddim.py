"""diffusers' DDIM with its ancestral noise limited to the noise that a level has, so that no root is negative."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

STOCK: Any = diffusers.DDIMScheduler
ROOM = 1 - 2**-22
"""Largest share of a level's noise: two roundings of float32 below 1."""


class DDIMScheduler(STOCK):  # type: ignore[misc]
    """DDIM (Song et al. 2021) that also draws with eta 1 from a level where nothing is left of x_0. A step takes the
    root of 1 - a - sigma^2, eq. 12; there sigma^2 is 1 - a (eq. 16), and a rounding above it makes diffusers' own draw NaN
    (its issue 3851)."""

    def _get_variance(self, timestep: Any, prev_timestep: Any) -> torch.Tensor:
        levels, last = self.alphas_cumprod, self.final_alpha_cumprod
        noise = 1 - (levels[prev_timestep] if prev_timestep >= 0 else last)
        variance: torch.Tensor = super()._get_variance(timestep, prev_timestep)
        return torch.minimum(variance, ROOM * noise)
