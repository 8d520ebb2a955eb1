"""Base of both models: one network of x that is told no time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genhub import Conditioner, GenerativeModel, unused_guidance
from genhub_ebm.config import FieldConfig


class FieldModel(GenerativeModel):
    """A model with one network of x and of what it is given."""

    config: Any

    def __init__(self, config: FieldConfig, out_channels: int | None = None) -> None:
        """
        Args:
            out_channels: of the network's output; None: x's.
        """
        super().__init__(config)
        network, shape = config.network, config.network_shape
        assert network is not None  # the Config names one once it knows the data
        assert shape is not None
        self.conditioner = Conditioner(self.conditions, shape, network.width, network.takes)
        self.network = network.build(shape, self.conditioner, out_channels)

    @property
    def trained(self) -> tuple[str, ...]:
        """The networks that have weights: without conditions, the conditioner has none."""
        return ("network", "conditioner") if self.conditioner.state_dict() else ("network",)

    def unused_options(self, options: Mapping[str, Any]) -> dict[str, str]:
        return unused_guidance(self.conditions, options, self.config.sampling.guidance_scale)
