"""Choosing a token by its logits: guidance, temperature, the k likeliest, those of a mass p, and one uniform number."""

from __future__ import annotations

import torch
from torch import Tensor


def between(logits: Tensor, scale: float) -> Tensor:
    """Return the logits (n, k) of p(x | y)^scale p(x)^(1 - scale), eq. 6 of Ho & Salimans 2022, arXiv:2207.12598. logits:
    (2n, k), those given y and then those of the same rows given nothing."""
    wanted, unasked = logits.float().log_softmax(-1).chunk(2)
    return torch.lerp(unasked, wanted, scale)


def kept(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Return the probabilities (n, k) by which to draw from logits (n, k).

    Args:
        temperature: below 1 likely tokens gain, above 1 unlikely ones.
        top_k: only so many, the likeliest, are kept (Fan et al. 2018, arXiv:1805.04833).
        top_p: only the fewest, the likeliest, that have this probability together are kept (Holtzman et al. 2020,
            arXiv:1904.09751).
    """
    logits = logits.float() / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        likelier = ordered.cumsum(-1) - ordered  # mass of those before it
        unwanted = torch.zeros_like(likelier, dtype=torch.bool).scatter(-1, order, likelier >= top_p)
        probabilities = probabilities.masked_fill(unwanted, 0.0)
    return probabilities


def choose(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return the tokens (n,) where the cumulated probabilities (n, k), which need not sum to 1, pass a share in (0, 1) of
    their sum: the inverse of their distribution. uniform: (n,). One number a token makes a row independent of the others."""
    cumulated = probabilities.cumsum(-1)
    share = uniform.clamp(max=1 - 2**-24)  # 1 itself would be past the last token
    return (cumulated <= share[:, None] * cumulated[:, -1:]).sum(-1)
