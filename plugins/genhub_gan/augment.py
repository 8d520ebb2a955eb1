"""Adaptive augmentation of what a discriminator sees (ADA, Karras et al. 2020, arXiv:2006.06676), for data that are few.

Real and generated x go through the same random, differentiable changes, each with probability p. The discriminator never
sees an unchanged training element twice and can't learn them by heart; as long as p stays below about 0.8, what the
generator draws is not augmented (section 2.2). p follows how much the discriminator overfits.

A flip, a shift and a scaling are made together, a side at a time: each place of the result lies between two places of x.
That is exact where they move by whole numbers, costs as much as x has numbers, and has any number of derivatives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed, nn

from genhub_gan.config import AugmentConfig

MOST = 0.8
"""Highest p: above, augmented x would be what is drawn most often, and the generator would draw it (section 2.2)."""
EVERY = 4
"""Steps between two changes of p (section 3)."""
SHIFT, SCALE, BRIGHTNESS, CONTRAST = 0.125, 0.2 * math.log(2), 0.2, 0.5 * math.log(2)
"""Strengths (appendix B): largest share of a side, and standard deviations; scale and contrast are log-normal."""


class AdaptiveAugment(nn.Module):
    """Random changes of x, and the p that they are made with: a buffer, and so in every checkpoint."""

    def __init__(self, config: AugmentConfig) -> None:
        super().__init__()
        self.config = config
        self.p = nn.Buffer(torch.zeros(()))
        self.signs = nn.Buffer(torch.zeros(2))  # their sum and their number, of all processes, since p was moved

    def forward(self, x: Tensor) -> Tensor:
        """Return x (n, c, *sides), float32, with each change made to each element with probability p."""
        with torch.autocast(x.device.type, enabled=False):
            return self._changed(x.float())

    def _changed(self, x: Tensor) -> Tensor:
        sides, like = x.shape[2:], (len(x), *(1 for _ in x.shape[1:]))
        scale = torch.exp(SCALE * self._drawn(x))
        for side, length in enumerate(sides):
            flip = 1 - 2 * self._chosen(x) * torch.randint(2, (len(x),), device=x.device)
            most = int(SHIFT * length)
            shift = self._chosen(x) * torch.randint(-most, most + 1, (len(x),), device=x.device)
            x = resampled(x.movedim(2 + side, -1), flip * scale, shift).movedim(-1, 2 + side)
        contrast = torch.exp(CONTRAST * self._drawn(x))
        return x * contrast.view(like) + (BRIGHTNESS * self._drawn(x)).view(like)

    def _chosen(self, x: Tensor) -> Tensor:
        """Return 1 for elements (n,) that a change is made to, else 0."""
        return (torch.rand(len(x), device=x.device) < self.p).float()

    def _drawn(self, x: Tensor) -> Tensor:
        """Return N(0, 1) for elements (n,) that a change is made to, else 0."""
        return self._chosen(x) * torch.randn(len(x), device=x.device)

    @torch.no_grad()
    def see(self, real: Tensor, fake: Tensor) -> None:
        """Count the signs of C(x_r) - C(x_f), for logits (n,) of real and generated x, in all processes."""
        sign = torch.sign(real - fake)
        seen = torch.stack([sign.sum(), torch.ones_like(sign).sum()])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(seen)
        self.signs.add_(seen)

    @torch.no_grad()
    def adapt(self, step: int) -> None:
        """Move p after every fourth step: up where r_t = E sign(C(x_r) - C(x_f)) is above its target, else down (section
        3)."""
        if step % EVERY != EVERY - 1:
            return
        total, number = self.signs
        self.p.add_(torch.sign(total / number - self.config.target) * number / self.config.ramp_rows)
        self.p.clamp_(0, MOST)
        self.signs.zero_()


def resampled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return x (n, ..., length), its last side scaled about its middle, by negative numbers mirrored, and then shifted:
    linear interpolation, with a mirror behind each end.

    Args:
        scale: (n,), not 0.
        shift: (n,), in places.
    """
    length, middle = x.shape[-1], (x.shape[-1] - 1) / 2
    places = torch.arange(length, device=x.device, dtype=x.dtype)
    source = middle + (places - middle - shift[:, None]) / scale[:, None]  # (n, length): where each place is read from
    source = (source + 0.5) % (2 * length)
    source = (length - (length - source).abs() - 0.5).clamp(0, length - 1)
    source = source.view(len(x), *(1 for _ in x.shape[1:-1]), length).expand(x.shape)
    before = source.floor()
    first, second = before.long(), (before + 1).clamp(max=length - 1).long()
    return torch.lerp(x.gather(-1, first), x.gather(-1, second), source - before)
