"""Interface of networks f(x, t, given), which any family can use: `Network`, from which a new one derives, and `Given`.

class Plain(Network):
    class Config(NetworkConfig):
        name: str = "plain"
        takes: ClassVar = frozenset({"vector"})
        hidden: PositiveInt = 64

        @property
        def width(self):
            return self.hidden

    def __init__(self, config, shape, conditioner, out_channels=None): ...
    def forward(self, x, t, given): ...               # (n, *shape), (n,) in [0, 1000], Given -> (n, out_channels, *sides)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, SerializeAsAny, ValidationInfo
from torch import Tensor, nn

from genhub.errors import PluginError, did_you_mean
from genhub.ground.brief import Brief, BriefModule
from genhub.ground.weights import load_strictly, save_tensors
from genhub.interfaces.means import Means
from genhub.interfaces.registry import NETWORKS, load_class, plugin_names
from genhub.interfaces.section import Section


@dataclass(frozen=True, repr=False)
class Given(Brief):
    """Parts that a network is given of a batch's conditions; None where there is no such part."""

    vector: Tensor | None = None
    """(n, width): labels, numbers and vectors, added up."""
    sequence: Tensor | None = None
    """(n, length, width): tokens of texts, one condition's behind another's."""
    mask: Tensor | None = None
    """(n, length) bool: which tokens are there; with `sequence`."""
    spatial: Tensor | None = None
    """(n, c, *sides), the sides those of x: images, channels behind one another."""
    label: Tensor | None = None
    """(n,) int64: a class, or the number of classes for a row without one; for a network that embeds classes by itself."""

    def each(self, function: Callable[[Tensor], Tensor]) -> Given:
        """Return this with a function of every tensor."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return Given(**{name: None if part is None else function(part) for name, part in parts.items()})

    def beside(self, other: Given) -> Given:
        """Return the rows of this and then those of another, which has the same parts."""
        parts = {part.name: (getattr(self, part.name), getattr(other, part.name)) for part in fields(self)}
        return Given(**{name: None if a is None else torch.cat([a, b]) for name, (a, b) in parts.items()})


class Embedding(BriefModule, nn.Module, ABC):
    """Module from one condition's values to its share of `Given`; `Modality.condition` makes it. Every parameter takes part
    in every forward, whoever is present: by `torch.where`, not by indexing, so that DDP finds no unused one."""

    gives: ClassVar[str]
    """The one part of `Given` that it makes: "vector", "sequence" or "spatial"."""
    takes_encoded: ClassVar[bool] = False
    """Whether it takes what the modality's frozen `encoder` makes of values, in their place."""
    channels: int = 0
    """Number of channels, of a spatial one."""

    @abstractmethod
    def forward(self, values: Tensor, present: Tensor) -> Given:
        """Return its part for values (n, *shape), as in a batch, or for what a frozen encoder made of them; rows that are
        not `present` (n,) get a learnt value."""


class NetworkConfig(Section):
    """Keys of a network; a network's own `Config` derives from it."""

    name: str = ""
    """A registered name: `genhub plugins` lists them."""

    takes: ClassVar[frozenset[str]] = frozenset()
    """Parts of `Given` that the network takes: "vector", "sequence", "spatial", "label"."""
    default_for: ClassVar[frozenset[int]] = frozenset()
    """Numbers of sides of x for which it is taken where a recipe names no network: 0 for vectors, 2 for images."""

    @classmethod
    def class_for(cls, value: object) -> type[Section]:
        """Return the Config of the network that a value names, if one does."""
        name = value.get("name") if isinstance(value, Mapping) else None
        return load_class(NETWORKS, name).Config if name in plugin_names(NETWORKS) else cls

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of the vector and of the tokens that it is given."""

    @classmethod
    def suited(cls, shape: tuple[int, ...], means: Means) -> dict[str, Any]:
        """Return the keys that suit an x of this shape and what there is to train with: {"hidden": 128}."""
        return {}

    def check(self, shape: tuple[int, ...]) -> None:
        """
        Raises:
            ValueError: it can't have an x of this shape: why, with the key that would have to differ in front, `key: ...`.
        """

    def build(self, shape: tuple[int, ...], conditioner: Any, out_channels: int | None = None) -> Network:
        """Return a new network for x (n, *shape).

        Args:
            conditioner: the `Conditioner` of what it will be given: it knows the parts and their widths.
            out_channels: of its output, (n, out_channels, *sides); None: x's.
        """
        network: Network = load_class(NETWORKS, self.name)(self, shape, conditioner, out_channels)
        return network


class Network(BriefModule, nn.Module, ABC):
    """Network f(x, t, given) -> like x, whatever family uses it."""

    Config: ClassVar[type[NetworkConfig]]

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor | None, given: Given) -> Tensor:
        """Return (n, out_channels, *sides) for x (n, channels, *sides); of vectors (n, out_channels) for (n, d).

        Args:
            t: times or noise levels, (n,) or (n, k) float in [0, 1000]; None for a family that has none.
        """

    def save(self, path: Path) -> None:
        """Write the weights into a folder of its own. Replace together with `load` to write a format that others read."""
        path.mkdir(parents=True, exist_ok=True)
        save_tensors(self.state_dict(), path / "model.safetensors")

    def load(self, path: Path) -> None:
        """Read what `save` wrote, strictly.

        Raises:
            CheckpointError: the weights don't fit.
        """
        load_strictly(self, path / "model.safetensors")


def network_for(sides: int) -> str:
    """Return the name of the network for an x of so many sides where a recipe names none.

    Raises:
        PluginError: no installed network says that it is for these.
    """
    for name in plugin_names(NETWORKS):
        if sides in load_class(NETWORKS, name).Config.default_for:
            return name
    raise PluginError(f"no installed network is for data of {sides} sides; name one: model.network")


def _typed(value: Any, info: ValidationInfo) -> Any:
    """Return a network's Config as its own class types it: `{name: unet, ...}`, or `unet` alone."""
    value = {"name": value} if isinstance(value, str) else value
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    if not isinstance(name, str):
        raise ValueError(f"name: must name a network; {did_you_mean('', plugin_names(NETWORKS))}")
    try:
        cls = load_class(NETWORKS, name)
    except PluginError as error:
        raise ValueError(f"name: {error}") from error
    return cls.Config.model_validate(value, context=info.context)


AnyNetwork = Annotated[SerializeAsAny[NetworkConfig], BeforeValidator(_typed)]
"""A network's Config as a key of a model's Config: `network: AnyNetwork | None = None`."""
