"""The sigmoid noise schedule (Jabri, Fleet & Chen 2022, arXiv:2212.11972, algorithm 1), with DDIM's steps back.

A noise schedule says how much noise is in x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise at each level t: `alphas_cumprod` is
a_t. As a model's `scheduler` it is what the model is trained on; as its `sampling.scheduler` it draws.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


class MyScheduler:
    """Noise schedule whose a_t falls from 1 to 0 along a sigmoid: most levels have neither very much nor very little noise.

    Args:
        num_train_timesteps (int): T, the number of noise levels.
        prediction_type (str): what the network predicts: epsilon, sample or v_prediction.
        clip_sample (bool): clip the guess of the clean x to [-1, 1].
        trained_betas (list): beta_t of another schedule, to draw from a model that was trained on that one.
        start (float): where on the sigmoid the levels start.
        end (float): where on the sigmoid they end.
        tau (float): a larger one flattens the sigmoid.
    """

    order = 1
    init_noise_sigma = 1.0  # the standard deviation of pure noise

    # The first four are diffusers' names: models pass those of their settings that are named here. The others come from a
    # recipe's `model.scheduler.options`, and with it into the checkpoint.
    def __init__(
        self, num_train_timesteps: int = 1000, prediction_type: str = "epsilon", clip_sample: bool = True,
        trained_betas: list[float] | None = None, start: float = -3.0, end: float = 3.0, tau: float = 1.0,
    ) -> None:  # fmt: skip
        if not start < end or tau <= 0:
            raise ValueError(f"start must be below end, and tau above 0, not {start}, {end} and {tau}")
        self.config: dict[str, Any] = {
            "num_train_timesteps": num_train_timesteps, "prediction_type": prediction_type, "clip_sample": clip_sample,
            "trained_betas": trained_betas, "start": start, "end": end, "tau": tau,
        }  # fmt: skip
        if trained_betas is None:
            times = torch.linspace(0, 1, num_train_timesteps + 1, dtype=torch.float64)[1:]
            first, last = (torch.tensor(x / tau, dtype=torch.float64).sigmoid() for x in (start, end))
            falling = (last - ((times * (end - start) + start) / tau).sigmoid()) / (last - first)
            self.alphas_cumprod = falling.clamp(1e-5, 1).float()  # never only noise: samplers divide by a_t
        else:
            self.alphas_cumprod = (1 - torch.tensor(trained_betas, dtype=torch.float64)).cumprod(0).float()
        self.set_timesteps(num_train_timesteps)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t for x_0 (n, ...) at levels (n,)."""
        a = self.alphas_cumprod.to(original_samples.device)[timesteps].view(-1, *[1] * (original_samples.ndim - 1))
        return a.sqrt() * original_samples + (1 - a).sqrt() * noise

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Choose the levels that a sampler visits, from pure noise down; called before every drawing."""
        levels = torch.linspace(len(self.alphas_cumprod), 0, num_inference_steps + 1).round().long() - 1
        self.timesteps = levels[:-1].to(device or "cpu")
        self._next = dict(zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True))  # the last is -1: no noise left

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """Return the network's input for x_t; some schedules scale it."""
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor) -> SimpleNamespace:
        """Step from x_t to the next lower level, without new noise (DDIM, Song et al. 2021, eq. 12 with sigma 0)."""
        level = int(timestep)
        a, lower = self.alphas_cumprod[level].item(), self._next[level]
        a_lower = self.alphas_cumprod[lower].item() if lower >= 0 else 1.0
        match self.config["prediction_type"]:
            case "epsilon":
                clean = (sample - (1 - a) ** 0.5 * model_output) / a**0.5
            case "v_prediction":
                clean = a**0.5 * sample - (1 - a) ** 0.5 * model_output
            case _:
                clean = model_output
        if self.config["clip_sample"]:
            clean = clean.clamp(-1, 1)
        noise = (sample - a**0.5 * clean) / (1 - a) ** 0.5
        return SimpleNamespace(prev_sample=a_lower**0.5 * clean + (1 - a_lower) ** 0.5 * noise, pred_original_sample=clean)
