"""A discriminator beside an autoencoder, so that what is decoded is sharp: VQGAN's way (Esser et al. 2021,
arXiv:2012.09841), with the discriminator's own features as perceptual distance (Larsen et al. 2016, arXiv:1512.09300), which
needs no network that others trained.

Notation: x real, x' decoded from x's own latent, C(x) a logit for each patch. A squared error is least at the mean of all x
that a latent may stand for, which is a blur; a discriminator tells a blur from a real x.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from genhub_vae.config import AdversarialConfig
from genhub_vae.networks import convolution

SLOPE = 0.2
TINY = 1e-6


class PatchDiscriminator(nn.Module):
    """Network of convolutions of stride 2 that says of each patch of x how real it looks (Isola et al. 2017), and the losses
    of both sides."""

    def __init__(self, config: AdversarialConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        sides, widths = len(shape) - 1, config.channels
        pairs = pairwise([shape[0], *widths])
        self.convolutions = nn.ModuleList(convolution(sides, before, after, stride=2) for before, after in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) if index else nn.Identity() for index, width in enumerate(widths))
        self.to_logits = convolution(sides, widths[-1], 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (n, patches) for x (n, *shape), and the features of each layer, all float32."""
        features = []
        for layer, norm in zip(self.convolutions, self.norms, strict=True):
            x = leaky_relu(norm(layer(x)), SLOPE)
            features.append(x.float())
        return self.to_logits(x).float().flatten(1), features

    def has_begun(self, step: int) -> bool:
        return step >= self.config.start_step

    def loss(self, x: Tensor, decoded: Tensor, step: int) -> dict[str, Tensor]:
        """Return the discriminator's own loss, E max(0, 1 - C(x)) + E max(0, 1 + C(x')) (Lim & Ye 2017); before it begins, a
        zero that leaves its weights alone.

        "real" and "fake" are mean logits C(x) and C(x').
        """
        if not self.has_begun(step):
            return {"loss": 0.0 * torch.stack([weight.sum() for weight in self.parameters()]).sum()}
        (real, _), (fake, _) = self(x), self(decoded)
        return {"loss": relu(1 - real).mean() + relu(1 + fake).mean(), "real": real.mean(), "fake": fake.mean()}

    def held_against(self, x: Tensor, decoded: Tensor, error: Tensor, output: Tensor) -> dict[str, Tensor]:
        """Return what an autoencoder's loss gains as "loss": weighted, so that each gradient at the decoder's output is as
        long as that of the error, times its weight (eq. 7, taken at the output, and for each element by itself: so it does
        not matter how a batch is split among processes).

        "adversarial": -C(x'), the generator's part of the hinge loss. "perceptual": mean |f(x) - f(x')| of features f.

        Args:
            decoded: x' (n, *shape), which is made from `output`.
            error: the autoencoder's own loss (n,), made from `output`.
            output: the decoder's (n, *shape).
        """
        with torch.no_grad():
            _, wanted = self.forward(x)
        logits, features = self.forward(decoded)  # as it is: compiled, its graph can't be gone through three times
        distances = [(a - b).abs().flatten(1).mean(1) for a, b in zip(wanted, features, strict=True)]
        terms = {"adversarial": -logits.mean(1), "perceptual": torch.stack(distances).mean(0)}
        weights = {"adversarial": self.config.weight, "perceptual": self.config.perceptual_weight}
        length = gradient_length(error, output)
        gained = error.new_zeros(())
        for name, term in terms.items():
            gained = gained + weights[name] * (length / (gradient_length(term, output) + TINY) * term).mean()
        return {name: term.mean() for name, term in terms.items()} | {"loss": gained}


def gradient_length(loss: Tensor, output: Tensor) -> Tensor:
    """Return |d loss / d output| (n,) for a loss (n,) of an output (n, *shape)."""
    (gradient,) = torch.autograd.grad(loss.sum(), output, retain_graph=True)
    length: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return length
