"""Check of what a model can do beside drawing: encode, add noise, say how probable x is, or how low it lies."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from genhub.errors import InputError
from genhub.interfaces.capabilities import Autoencoder, Denoiser, DiscreteAutoencoder, Energy, Likelihood
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.model import Batch
from genhub.testing.report import Broken
from genhub.testing.samples import TOLERANCE
from genhub.testing.subject import ModelSubject, generators

ROWS = 3
OWN_OPTIONS = {"n", "conditions", "generator", "callback"}
"""Parameters of `sample` that are no options of the way from noise to data."""


def capabilities(subject: ModelSubject) -> None:
    """Latents, noisy x, bits and energies of a model that has them are of the shapes that the capability names, finite, and
    of each row alone; the last step of `denoise` is what `sample` draws."""
    model: Any = subject.trained().eval()
    x, conditions = subject.batch.x[:ROWS], subject.conditions(ROWS)
    for capability, check in CHECKS.items():
        if isinstance(model, capability):
            check(model, x, conditions)


def autoencoder(model: Any, x: Tensor, conditions: Conditions) -> None:
    latents = of_each_row(model.encode, x, conditions, None)
    of_each_row(model.decode, latents, conditions, model.shape)


def codes(model: Any, x: Tensor, conditions: Conditions) -> None:
    found = of_each_row(model.encode_codes, x, conditions, tuple(model.code_shape))
    if found.dtype != torch.int64 or found.min() < 0 or found.max() >= model.num_codes:
        span = f"{found.dtype} from {found.min().item()} to {found.max().item()}"
        raise Broken(
            f"encode_codes gives {span}", f"return int64 in [0, num_codes): below {model.num_codes}", model.encode_codes
        )
    of_each_row(model.decode_codes, found, conditions, model.shape)


def denoiser(model: Any, x: Tensor, conditions: Conditions) -> None:
    levels = model.num_train_timesteps
    ratio = model.signal_to_noise(torch.arange(levels))
    if tuple(ratio.shape) != (levels,) or ratio.isnan().any() or (ratio.diff() > 0).any():
        raise Broken(
            f"signal_to_noise of all {levels} timesteps does not fall from one to the next",
            "0 is nearly clean, num_train_timesteps - 1 or so pure noise",
            model.signal_to_noise,
        )
    timesteps = torch.linspace(0, levels - 1, ROWS).long()
    noise = torch.stack([torch.randn(x[0].shape, generator=one) for one in generators(range(ROWS))])
    mixed = model.add_noise(x, noise, timesteps)
    expect(mixed, tuple(x.shape), model.add_noise)
    expect(model.predict_x0(mixed, timesteps, conditions), tuple(x.shape), model.predict_x0)
    signatures = (inspect.signature(method).parameters for method in (model.sample, model.denoise))
    drawing, showing = (parameters.keys() - OWN_OPTIONS for parameters in signatures)
    if drawing != showing:
        names = ", ".join(sorted(drawing ^ showing))
        found = f"one of sample and denoise has {names}, the other has not"
        raise Broken(found, "give both the same options", model.denoise)
    steps = list(model.denoise(ROWS, conditions=conditions, generator=generators(range(ROWS))))
    if [step.index for step in steps] != list(range(len(steps))):
        raise Broken("denoise's steps are not numbered from 0 on", "count them by DenoisingStep.index", model.denoise)
    for step in steps:
        expect(step.sample, tuple(x.shape), model.denoise)
        expect(step.pred_original_sample, tuple(x.shape), model.denoise)
    last, bounds = steps[-1].sample, model.modality.bounds
    drawn = model.sample(ROWS, conditions=conditions, generator=generators(range(ROWS)))
    if not near(last.clamp(*bounds) if bounds else last, drawn):
        raise Broken(
            "the last step of denoise is not what sample draws from the same seeds", "draw by denoise itself", model.denoise
        )


def may_have_none(check: Callable[[Any, Tensor, Conditions], None]) -> Callable[[Any, Tensor, Conditions], None]:
    """Return a check that a model passes by an InputError: it has none, though others of its class do."""

    def checked(model: Any, x: Tensor, conditions: Conditions) -> None:
        with suppress(InputError):
            check(model, x, conditions)

    return checked


def likelihood(model: Any, x: Tensor, conditions: Conditions) -> None:
    def bits(x: Tensor, conditions: Conditions) -> Tensor:
        found: Tensor = model.bits_per_dimension(Batch(x, conditions), generator=generators(range(len(x))))
        return found

    of_each_row(bits, x, conditions, (), model.bits_per_dimension)


def energy(model: Any, x: Tensor, conditions: Conditions) -> None:
    of_each_row(model.energy, x, conditions, ())


CHECKS: dict[type, Callable[[Any, Tensor, Conditions], None]] = {
    Autoencoder: autoencoder, DiscreteAutoencoder: codes, Denoiser: denoiser,
    Likelihood: may_have_none(likelihood), Energy: may_have_none(energy),
}  # fmt: skip


def of_each_row(
    function: Callable[[Tensor, Conditions], Tensor], x: Tensor, conditions: Conditions, shape: tuple[int, ...] | None,
    at: Any = None,
) -> Tensor:  # fmt: skip
    """Return function(x, conditions), which is (n, *shape), finite, and the same for a row that is alone.

    Args:
        shape: None: any.
        at: what the author wrote, where that is not `function`.
    """
    at = at or function
    with torch.no_grad():
        found, alone = function(x, conditions), function(x[:1], conditions.rows(slice(0, 1)))
    expect(found, (len(x), *(found.shape[1:] if shape is None else shape)), at)
    if not near(found[:1], alone):
        raise Broken(
            f"{at.__name__} makes another thing of a row that is alone",
            "use no statistics of the batch, and a row's own generator for what is random (genhub.randn does)",
            at,
        )
    return found


def expect(found: Tensor, shape: tuple[int, ...], at: Any) -> None:
    if tuple(found.shape) != shape:
        raise Broken(f"{at.__name__} gives {tuple(found.shape)}", f"return {shape}", at)
    if not found.isfinite().all():
        raise Broken(f"{at.__name__} gives values that are not finite", "look for what overflows or divides by zero", at)


def near(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first.double(), second.double(), rtol=TOLERANCE, atol=TOLERANCE)
