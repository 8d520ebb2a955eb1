"""Guidance without a classifier (Ho & Salimans 2022, arXiv:2207.12598), for every family, and the dropout that it needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from genhub.interfaces.conditions import Conditions
from genhub.interfaces.network import Given


def guided(
    network: Callable[[Tensor, Tensor | None, Given], Tensor],
    x: Tensor,
    t: Tensor | None,
    given: Given,
    nothing: Given,
    scale: float,
) -> Tensor:
    """Return a network's output moved away from what it would be without the conditions, eq. 6, in one call of twice the
    batch; a scale of 1 is the condition alone, in one call of the batch.

    Args:
        x: (n, channels, *sides), or (n, d).
        t: (n,) or (n, k); None for a family without times.
        given: what the conditions make.
        nothing: what the same conditioner makes of `Conditions.nothing`.
        scale: 1: the condition alone, more exaggerates it, 0 ignores it.
    Returns:
        (n, out_channels, *sides). Those beyond x's channels, such as a learned variance, are the condition's own.
    """
    if scale == 1:
        return network(x, t, given)
    times = None if t is None else torch.cat([t, t])
    wanted, unasked = network(torch.cat([x, x]), times, given.beside(nothing)).chunk(2)
    output = torch.lerp(unasked, wanted, scale)
    output[:, x.shape[1] :] = wanted[:, x.shape[1] :]
    return output


def guidance_at(scale: float, interval: tuple[float, float], level: float) -> float:
    """Return the guidance scale at a noise level in [0, 1], 1 being noise alone: within the interval `scale`, outside 1, for
    guidance harms at high noise and is idle at low (Kynkaanniemi et al. 2024, arXiv:2404.07724)."""
    return scale if interval[0] <= level <= interval[1] else 1.0


def unused_guidance(conditions: Collection[str], options: Mapping[str, Any], scale: float) -> dict[str, str]:
    """Return the options of guidance that change nothing, each with the reason, for a model's `unused_options`: any where
    the model is given nothing, an interval where the scale is 1.

    Args:
        conditions: the model's, by column.
        scale: the guidance scale where the options have none.
    """
    asked = [key for key in ("guidance_scale", "guidance_interval") if options.get(key) is not None]
    if not conditions:
        return dict.fromkeys(asked, "this model is given nothing; it is for one trained with model.conditions")
    used = options["guidance_scale"] if "guidance_scale" in asked else scale
    idle = "guidance_interval" in asked and used == 1
    return {"guidance_interval": "there is no guidance at a guidance_scale of 1"} if idle else {}


def dropped(conditions: Conditions, share: float | Mapping[str, float], generator: torch.Generator) -> Conditions:
    """Return the conditions of a micro-batch without those of a random share of its rows, in training.

    Args:
        share: of rows that lose all their conditions together; or, by column, of rows that lose that one.
        generator: of the step and the process, so that a run that goes on drops the same ones.
    """

    def drawn(share: float) -> Tensor:
        return torch.rand(len(conditions), generator=generator, device=generator.device) < share

    device = next((present.device for present in conditions.present.values()), None)
    if isinstance(share, Mapping):
        return conditions.without({name: drawn(share[name]).to(device) for name in sorted(share)})
    return conditions.without(drawn(share).to(device)) if share else conditions
