"""diffusers' U-Net, asked for its precision quickly."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

STOCK: Any = diffusers.UNet2DModel


class UNet2DModel(STOCK):  # type: ignore[misc]
    """Each forward pass asks for `dtype`, for which diffusers walks through all modules in search of casting hooks: 8% of a
    small U-Net's call at batch 1. Nothing hooks this one."""

    __module__ = STOCK.__module__  # a saved folder names the class and the library that whoever opens it has

    @property
    def dtype(self) -> torch.dtype:
        precision: torch.dtype = self.conv_in.weight.dtype
        return precision
