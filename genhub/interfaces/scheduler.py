"""Interface of noise schedules."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Scheduler(Protocol):
    """A noise schedule and the sampler that goes with it, under diffusers' names, so that its schedulers fit as they are.

    Models build it by keyword, giving those of their settings that `__init__` names (`num_train_timesteps`,
    `prediction_type`, `trained_betas`, `timestep_spacing`, ...); one of diffusers' by its `from_config`. To be trained on by
    a DDPM, it needs `alphas_cumprod` as well: (num_train_timesteps,) the shares of signal power. Methods may take further
    keywords that not all have (`generator`, `eta`): callers pass those that the signature names.
    """

    config: Any
    """Mapping of the arguments that it was built with."""
    timesteps: Tensor
    """The noise levels to visit, from pure noise down, once `set_timesteps` was called."""
    init_noise_sigma: Any
    """Standard deviation of the noise that sampling starts from."""

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t for images x_0 (n, c, h, w) at levels (n,) int64."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Choose `timesteps`, and forget the state of earlier drawings."""

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """Return the network's input for x_t, (n, c, h, w)."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        """Step from x_t (n, c, h, w) to the next of `timesteps`; return an object with `prev_sample`."""
