"""Capabilities that views, metrics and other models may ask of a model, whatever its class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from genhub.ground.brief import Brief
from genhub.ground.randomness import Generators
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.model import Batch


@runtime_checkable
class Autoencoder(Protocol):
    """A model that turns x into latents and back."""

    def encode(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the latents (n, ...) of x (n, *shape), given its conditions (None: none is present)."""

    def decode(self, latents: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the x (n, *shape) of latents, given its conditions."""


@runtime_checkable
class DiscreteAutoencoder(Autoencoder, Protocol):
    """An autoencoder whose latents stand for codes, whole numbers on a grid: what a model of sequences learns from."""

    num_codes: int
    """Number of codes that there are."""
    code_shape: tuple[int, ...]
    """Shape of the grid of codes that an element becomes, (h, w) say."""

    def encode_codes(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the codes (n, *code_shape) int64, in [0, num_codes), of x (n, *shape), given its conditions (None: none is
        present). An element's codes depend on it alone."""

    def decode_codes(self, codes: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the x (n, *shape) of codes (n, *code_shape), given its conditions."""


@dataclass(frozen=True, repr=False)
class DenoisingStep(Brief):
    """One step of a reverse process."""

    index: int
    """Number of the step, from 0."""
    timestep: float
    """Noise level that the step started from; num_train_timesteps - 1 or so is pure noise, 0 nearly clean."""
    sample: Tensor
    """The x_t after the step, (n, *shape)."""
    pred_original_sample: Tensor
    """The model's guess of x_0 at this step, (n, *shape)."""


@runtime_checkable
class Denoiser(Protocol):
    """A model with a forward process that adds noise, and a way back that shows every step."""

    num_train_timesteps: int

    def add_noise(self, x: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t for x_0 (n, *shape) and timesteps (n,) int64 in [0, num_train_timesteps)."""

    def predict_x0(self, x_t: Tensor, timesteps: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the model's guess of x_0 (n, *shape) from x_t at timesteps (n,), given its conditions: what a student that
        distils this teacher learns from."""

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """Return the ratio of signal to noise power at timesteps (n,)."""

    def denoise(
        self, n: int, *, conditions: Conditions | None = None, generator: Generators = None, **options: Any
    ) -> Iterator[DenoisingStep]:
        """Draw n elements, a step at a time; `options` are those of `sample`."""


@runtime_checkable
class Likelihood(Protocol):
    """A model that can say how probable x is."""

    def bits_per_dimension(self, batch: Batch, *, generator: Generators = None) -> Tensor:
        """Return (n,) bits per number of x, or an upper bound of them: -log2 of the probability of x where the modality has
        `levels`, as 8-bit images do; else of its density in the column's own units (`log_scale`), which may be below 0."""


@runtime_checkable
class Energy(Protocol):
    """A model that can say how low x lies in the landscape from which it draws."""

    def energy(self, x: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return (n,) the energy of x (n, *shape), as in a batch, given its conditions (None: none is present): the lower,
        the likelier. Of a model of probabilities, -log p(x) in nats but for a constant.

        Raises:
            InputError: this model has none, though others of its class do.
        """


def methods_of(capability: type) -> list[str]:
    """Return the names of the methods that a capability asks for, in their order."""
    return [name for name, value in vars(capability).items() if callable(value) and not name.startswith("_")]
