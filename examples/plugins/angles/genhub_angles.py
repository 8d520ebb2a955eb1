"""Angles, a kind of column that genhub doesn't have, and a family that is given them: a mixture density network (Bishop
1994, "Mixture Density Networks", NCRG/94/004), whose density of a point is a sum of Gaussians, all of them functions of the
conditions.

Notation: x the point (n, d), c the conditions, p(x | c) = sum over k of w_k(c) N(x; m_k(c), s_k(c)^2), eq. 22 and 23, where
s_k is a deviation for each of the d numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from genhub import (
    Batch,
    Conditioner,
    Conditions,
    Embedding,
    Fraction,
    GenerativeModel,
    Generators,
    Given,
    Modality,
    ModelConfig,
    NotFinite,
    Phase,
    PositiveInt,
    RawColumn,
    Unreadable,
    randn,
)

if TYPE_CHECKING:
    from PIL import Image

MULTIPLES = 4
"""The sines and cosines of an angle, of twice the angle, and so on."""
LOOKED_AT = 100
"""Number of values that tell whether a column can be of angles."""


# The modality


class Angle(Modality):
    """A column of angles in degrees, kept in [0, 360); of points of the plane, their directions seen from 0. A recipe says
    that a column is one, for degrees look like any other numbers."""

    modality: Literal["angle"] = "angle"
    shape: tuple[()] = ()

    can_be_target = False

    @classmethod
    def learn(cls, column: RawColumn, options: Any) -> Self:
        found = [value for value in column.each(_degrees, column.spread(LOOKED_AT)) if value is not None]
        if all(isinstance(value, Unreadable) for value in found):
            raise ValueError(f"holds no angles: {found[0]}" if found else "no row has a value")
        return cls()

    def read(self, value: Any) -> NDArray[Any]:
        return _degrees(value)

    def to_batch(self, kept: Tensor) -> Tensor:
        """Return radians, (n,)."""
        return torch.deg2rad(kept)

    def from_batch(self, x: Tensor) -> Tensor:
        x = x.detach().cpu().double()
        if not x.isfinite().all():
            raise NotFinite("angles: NaN or infinity, which is not shown, written or measured")
        return torch.rad2deg(x).float() % 360

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        return AngleEmbedding(width)

    def split(self, text: str) -> list[str]:
        return [part.strip() for part in text.split(",")]

    def ask(self, value: Any) -> NDArray[Any]:
        try:
            return _degrees(value)
        except (TypeError, ValueError):
            raise ValueError(f"must be {self.told()}") from None

    def told(self) -> str:
        return "an angle in degrees, 0 to 360"

    def caption(self, kept: Tensor) -> str:
        return f"{float(kept):.0f} deg"

    def picture(self, values: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        """Return the angles as hands of a clock whose 0 is on the right, and which goes backwards."""
        from PIL import Image, ImageDraw

        picture = Image.new("RGB", (200, 200), "white")
        draw = ImageDraw.Draw(picture)
        draw.ellipse((10, 10, 190, 190), outline="grey")
        for angle in torch.deg2rad(values).tolist():
            draw.line([(100, 100), (100 + 90 * math.cos(angle), 100 - 90 * math.sin(angle))], fill="black")
        return picture


def _degrees(value: Any) -> NDArray[Any]:
    """Return an angle, or the direction of a point (2,), as float32 in [0, 360)."""
    given = np.asarray(value, np.float64)
    if given.shape == (2,) and given.any():
        given = np.rad2deg(np.arctan2(given[1], given[0]))
    if given.shape != () or not np.isfinite(given):
        raise ValueError("must be a number of degrees, or a point of the plane beside 0")
    degrees = np.float32(given % 360)
    return np.asarray(degrees % np.float32(360))  # which a little less than 360 was rounded to


class AngleEmbedding(Embedding):
    """Sines and cosines of an angle's first multiples, then two layers: 359 is as near to 1 as 3 is."""

    gives: ClassVar[str] = "vector"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * MULTIPLES, width), nn.SiLU(), nn.Linear(width, width))
        self.nothing = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor, present: Tensor) -> Given:
        angles = values[:, None] * torch.arange(1, MULTIPLES + 1, device=values.device)
        waves = torch.cat([angles.sin(), angles.cos()], 1).to(self.nothing.dtype)
        return Given(vector=torch.where(present[:, None], self.layers(waves), self.nothing))


# The family


class MixtureDensityConfig(ModelConfig):
    condition_dropout: Fraction | Mapping[str, Fraction] = 0.1
    """Share of rows trained on without their conditions, so that it can also draw without them."""
    components: PositiveInt = 16
    """Gaussians of the mixture."""
    hidden: PositiveInt = 128
    """Width of the network's two layers."""
    min_std: Annotated[float, Field(gt=0)] = 0.02
    """Least deviation of a Gaussian, of standardised numbers. Points that lie on a line have no density, and would have one
    without end."""

    @model_validator(mode="after")
    def _fits(self) -> MixtureDensityConfig:
        if self.modality is not None and len(self.modality.shape) != 1:
            raise ValueError(f"data: mixture-density draws vectors; this target is of modality {self.modality.modality}")
        return self


class MixtureNetwork(nn.Module):
    """From conditions to weights, means and deviations."""

    def __init__(self, conditions: Mapping[str, Modality], shape: tuple[int, ...], config: MixtureDensityConfig) -> None:
        super().__init__()
        self.sizes = [1, shape[0], shape[0]]
        self.min_std = config.min_std
        self.conditioner = Conditioner(conditions, shape, config.hidden, frozenset({"vector"}))
        self.start = nn.Parameter(torch.zeros(config.hidden))
        last = nn.Linear(config.hidden, config.components * sum(self.sizes))
        self.layers = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden, config.hidden), nn.SiLU(), last)

    def forward(self, n: int, conditions: Conditions) -> MixtureSameFamily:
        """Return the mixture for each of n rows, of points (n, d)."""
        vector = self.conditioner(conditions).vector
        hidden = self.start.expand(n, -1) if vector is None else self.start + vector
        made = self.layers(hidden).float().view(n, -1, sum(self.sizes))
        logits, means, spreads = made.split(self.sizes, 2)
        gaussians = Normal(means, nn.functional.softplus(spreads) + self.min_std)
        return MixtureSameFamily(Categorical(logits=logits[..., 0]), Independent(gaussians, 1))


class MixtureDensity(GenerativeModel):
    """Points as sums of Gaussians, given any conditions that make a vector; says exactly how probable a point is."""

    Config = MixtureDensityConfig
    config: MixtureDensityConfig

    def __init__(self, config: MixtureDensityConfig) -> None:
        super().__init__(config)
        self.network = MixtureNetwork(self.conditions, self.shape, config)

    def phases(self) -> list[Phase]:
        return [Phase("likelihood", self.loss, trains=("network",))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log p(x | c), eq. 29, a mean over rows and numbers."""
        return {"loss": -self.network(len(batch), batch.conditions).log_prob(batch.x).mean() / self.shape[0]}

    def sample(self, n: int, *, conditions: Conditions | None = None, generator: Generators = None) -> Tensor:
        """Draw n points: a Gaussian each, by the largest of its log-weights with Gumbel noise, then a point of it."""
        mixture = self.network(n, self.conditions_of(n, conditions))
        gaussians, logits = mixture.component_distribution.base_dist, mixture.mixture_distribution.logits
        noise = randn((n, self.config.components + self.shape[0]), generator, self.device).float()
        uniform = torch.special.ndtr(noise[:, self.shape[0] :]).clamp(1e-7, 1 - 1e-7)
        chosen = (logits - (-uniform.log()).log()).argmax(1)
        rows = torch.arange(n, device=self.device)
        points: Tensor = gaussians.mean[rows, chosen] + gaussians.stddev[rows, chosen] * noise[:, : self.shape[0]]
        return points

    # The capability `Likelihood`

    @torch.no_grad()
    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        """Return (n,) bits a number, -log2 of the density in the column's own units."""
        log_density = self.network(len(batch), batch.conditions).log_prob(batch.x)
        bits: Tensor = (self.modality.log_scale - log_density) / (math.log(2) * self.shape[0])
        return bits
