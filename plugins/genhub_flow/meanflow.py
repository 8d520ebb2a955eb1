"""Mean flows (Geng et al. 2025, arXiv:2505.13447): a network learns the average of a flow's velocity between two times, so
that one evaluation goes all the way from noise to data. path.py has the notation; the paper's t and r are s and r here.

The average u(x_s, r, s) over [r, s] keeps to u = v - (s - r) du/ds along the path, eq. 6. The derivative is one
Jacobian-vector product. As in the improved form (Geng et al. 2025, arXiv:2512.02012) the path's direction in it is the
network's own velocity u(x_s, s, s), and u + (s - r) du/ds is compared with noise - x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.functional import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from genhub import Batch, Conditions, DenoisingStep, Generators, Given, Phase
from genhub_flow.config import MeanFlowConfig, Steps, T
from genhub_flow.path import StraightPath, along, mix

LEAST = 1e-3
"""Constant c of the adaptive weight, Geng et al. 2025, section 4.3."""


class MeanFlow(StraightPath):
    """Learns where a flow leads between any two times; one step from noise to data draws, or a few."""

    Config = MeanFlowConfig
    config: MeanFlowConfig

    # Training

    def phases(self) -> list[Phase]:
        return [Phase("meanflow", self.loss, trains=self.trained)]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the squared error of u + (s - r) du/ds, weighted row by row; `mse` is its mean over numbers, unweighted."""
        s, r = self.two_times(len(batch))
        noise = torch.randn_like(batch.x)
        noisy, given = mix(batch.x, noise, s), self.conditioner(batch.conditions)
        # The prediction comes first: autocast keeps the weights that it casts, and would keep them without their gradients.
        average = self.average_velocity(noisy, r, s, given)
        error = average + along(s - r, noisy) * self.derivative(noisy, r, s, given)
        error = (error - self.target(noise - batch.x, noisy, s, batch.conditions)).square().flatten(1)
        return {"loss": weighted(error.sum(1), self.config.adaptive_power).mean(), "mse": error.mean()}

    def two_times(self, n: int) -> tuple[Tensor, Tensor]:
        """Return s and r (n,), r <= s, equal for a share `equal_times` of the rows."""
        one, other = self.times(n), self.times(n)
        s = torch.maximum(one, other)
        equal = torch.rand(n, device=self.device) < self.config.equal_times
        return s, torch.where(equal, s, torch.minimum(one, other))

    def average_velocity(
        self, noisy: Tensor, r: Tensor, s: Tensor, given: Given, network: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """Return u at x_s (n, *shape): the path's average velocity between r and s (n,)."""
        times = self.config.time_unit * torch.stack([s, r], 1)
        return (network or self.network)(noisy, times, given).float()

    @_disable_dynamo  # torch.compiler.disable imports torch._dynamo at once: a second of every start
    @torch.no_grad()
    def derivative(self, noisy: Tensor, r: Tensor, s: Tensor, given: Given) -> Tensor:
        """Return du/ds along the path, (n, *shape), without a gradient; 0 where s is r, as there it is multiplied with 0.

        It takes two backward passes. `forward` of the network is called here, as one that is compiled has no second.
        Gradients are of the prediction alone, whose ordinary call engines that wrap the model see."""
        change, rows = torch.zeros_like(noisy), (r < s).nonzero().flatten()
        if not len(rows):
            return change
        noisy, r, s = noisy[rows], r[rows], s[rows]
        given = given.each(lambda part: part[rows].to(noisy.dtype) if part.is_floating_point() else part[rows])
        forward, one = self.network.forward, torch.ones_like(s)
        # Of the kinds of attention, one alone has a second derivative.
        with torch.autocast(noisy.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            velocity = self.average_velocity(noisy, s, s, given, forward)
            change[rows] = jvp(  # type: ignore[no-untyped-call]
                lambda noisy, s: self.average_velocity(noisy, r, s, given, forward), (noisy, s), (velocity, one)
            )[1]
        return change

    @torch.no_grad()
    def target(self, velocity: Tensor, noisy: Tensor, s: Tensor, conditions: Conditions) -> Tensor:
        """Return the velocity to learn: the path's, (n, *shape), or with guidance, for rows that have a condition, eq. 19:
        omega v + (1 - omega) u, with the u of no conditions."""
        scale = self.config.guidance_scale
        if scale == 1 or not self.conditions:
            return velocity
        nothing = self.conditioner(Conditions.nothing(self.conditions, len(noisy), self.device))
        unasked = self.average_velocity(noisy, s, s, nothing)
        asked = torch.stack(list(conditions.present.values())).any(0)
        return torch.where(along(asked, noisy), torch.lerp(unasked, velocity, scale), velocity)

    # Sampling

    def sample(
        self,
        n: int,
        *,
        conditions: Conditions | None = None,
        generator: Generators = None,
        num_inference_steps: Steps | None = None,
        callback: Callable[[DenoisingStep], None] | None = None,
    ) -> Tensor:
        """Draw n elements.

        Args:
            num_inference_steps: 1 to 1000, an evaluation each; left out: the config's `sampling.num_inference_steps`.
            callback: is given every `DenoisingStep`.
        """
        options: dict[str, Any] = {"conditions": conditions, "generator": generator}
        step = None
        for step in self.denoise(n, **options, num_inference_steps=num_inference_steps):
            if callback is not None:
                callback(step)
        assert step is not None
        return self.clip(step.sample)

    def denoise(
        self,
        n: int,
        *,
        conditions: Conditions | None = None,
        generator: Generators = None,
        num_inference_steps: Steps | None = None,
    ) -> Iterator[DenoisingStep]:
        """Yield the way from noise to data in equal steps, eq. 12, arguments as in `sample`."""
        steps = num_inference_steps or self.config.sampling.num_inference_steps
        with torch.inference_mode():
            given = self.conditioner(self.conditions_of(n, conditions))
        sample, ends = self.noise(n, generator), torch.linspace(1, 0, steps + 1).tolist()
        for index, (s, r) in enumerate(pairwise(ends)):
            with torch.inference_mode():
                average = self.average_velocity(sample, sample.new_full((n,), r), sample.new_full((n,), s), given)
                original = self.clip(sample - s * average)  # straight on; in the last step, it is what is drawn
                sample = sample - (s - r) * average
            yield DenoisingStep(index, s * T - 1, sample, original)

    def predict_x0(self, x_t: Tensor, timesteps: Tensor, conditions: Conditions | None = None) -> Tensor:
        """Return the x (n, *shape) to which the path through x_t at levels (n,) leads."""
        given, s = self.conditioner(self.conditions_of(len(x_t), conditions)), (timesteps.float() + 1) / T
        return self.clip(x_t - along(s, x_t) * self.average_velocity(x_t, torch.zeros_like(s), s, given))


def weighted(error: Tensor, power: float) -> Tensor:
    """Return what has the gradient of error / (its value + c)^power, of squared errors (n,), and falls with them: with a
    power of 1 the logarithm."""
    above = error + LEAST
    return above.log() if power == 1 else above ** (1 - power) / (1 - power)
