"""diffusers' DDIM, whose share of ancestral noise is never more than all the noise there is."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

STOCK: Any = diffusers.DDIMScheduler
ROOM = 1 - 2**-22
"""Two roundings of float32 below 1."""


class DDIMScheduler(STOCK):  # type: ignore[misc]
    """A step takes the root of 1 - a - sigma^2, eq. 12 (Song et al. 2021). With eta 1 and nothing left of the image, sigma^2
    is 1 - a (eq. 16), and may come out larger by a rounding: diffusers' own then draws NaN (its issue 3851)."""

    def _get_variance(self, timestep: Any, prev_timestep: Any) -> torch.Tensor:
        levels, last = self.alphas_cumprod, self.final_alpha_cumprod
        noise = 1 - (levels[prev_timestep] if prev_timestep >= 0 else last)
        variance: torch.Tensor = super()._get_variance(timestep, prev_timestep)
        return torch.minimum(variance, ROOM * noise)
