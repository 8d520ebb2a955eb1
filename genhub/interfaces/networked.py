"""Base of the Configs of models that have one network of x, whichever it is."""

from __future__ import annotations

from typing import Any, Self

from pydantic import model_validator

from genhub.errors import PluginError
from genhub.interfaces.columns import ModelData
from genhub.interfaces.config import ModelConfig
from genhub.interfaces.means import Means
from genhub.interfaces.network import AnyNetwork, network_for
from genhub.interfaces.registry import NETWORKS, load_class


class NetworkedConfig(ModelConfig):
    """Keys of a model with one network. Once the data are known, there is one, and it can have their shape."""

    network: AnyNetwork | None = None
    """The network: {name: unet, block_out_channels: [32, 64]}; `genhub plugins` lists them. Left out: the one for as many
    sides as x has, unet for images, mlp for vectors."""

    @property
    def network_shape(self) -> tuple[int, ...] | None:
        """Shape that the network works on; None before it is known."""
        return self.shape

    def check_network(self, shape: tuple[int, ...]) -> None:
        """
        Raises:
            ValueError: the network can't have an x of this shape.
        """
        assert self.network is not None
        try:
            self.network.check(shape)
        except ValueError as error:
            raise ValueError(f"network.{error}") from error

    @classmethod
    def suited(cls, data: ModelData, means: Means) -> dict[str, Any]:
        """Return, as keys of a recipe, the network for as many sides as x has, with the sizes that suit it."""
        try:
            name = network_for(len(data.target.shape) - 1)
        except PluginError:
            return {}  # which the recipe's check tells
        return {"model.network": {"name": name, **load_class(NETWORKS, name).Config.suited(data.target.shape, means)}}

    @model_validator(mode="after")
    def _has_a_network(self) -> Self:
        shape = self.network_shape
        if shape is None:
            return self
        if self.network is None:
            try:
                name = network_for(len(shape) - 1)
                chosen = load_class(NETWORKS, name).Config(name=name)
            except PluginError as error:
                raise ValueError(f"network: {error}") from error
            object.__setattr__(self, "network", chosen)  # a Config is frozen, and this one is still being made
        self.check_network(shape)
        return self
