"""Views that move: elements that change step by step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor

from genhub.errors import InputError
from genhub.ground.console import Progress
from genhub.ground.finite import check_finite
from genhub.ground.randomness import SAMPLE_STREAM, Between, generators, randn, seed_for
from genhub.interfaces.capabilities import Autoencoder, Denoiser
from genhub.interfaces.modality import Modality
from genhub.interfaces.model import Model
from genhub.interfaces.view import View
from genhub.sampling.request import Drawing
from genhub.views.canvas import Film
from genhub.views.viewed import Asked, Count, Seed, Steps, Viewed, in_batches

FAR = 1.5
"""Largest standard deviation of x that is shown as it is, where data have 1."""


class Forward(View):
    """Real rows that turn into noise: x_0, then `steps` noise levels up to the last."""

    capability = Denoiser
    moves = untrained = True

    def draw(self, subject: Viewed, *, n: Count = 4, steps: Steps = 10, seed: Seed = 0) -> Film:
        model = cast(Denoiser, subject.model)
        x = subject.x(subject.choose(n, seed))
        noise = randn(tuple(x.shape), generators(seed, range(len(x))), x.device)
        total, steps = model.num_train_timesteps, min(steps, model.num_train_timesteps)
        timesteps = torch.tensor([total * step // steps - 1 for step in range(1, steps + 1)], device=x.device)
        with torch.inference_mode():
            noisy = [check_finite(model.add_noise(x, noise, t.expand(len(x))), f"x_t at t = {t}") for t in timesteps]
            ratios = model.signal_to_noise(timesteps).tolist()
        captions = [f"t = {t}\nSNR {_short(ratio)}" for t, ratio in zip(timesteps.tolist(), ratios, strict=True)]
        return Film(
            f"{subject.title}: the forward process, from data to noise",
            f"$x_t$ at {steps} of {total:,} noise levels t; SNR: signal power over noise power",
            subject.modality,
            {"$x_t$": torch.stack([x, *noisy]).cpu()},
            ["$x_0$", *captions],
            real=subject.behind(seed),
        )


class Reverse(View):
    """The way back from noise: x after each step, and the model's guess of x_0 that led there."""

    capability = Denoiser
    moves = True

    def shows_rows(self, subject: Viewed, options: Mapping[str, Any]) -> bool:
        return subject.modality.together or subject.takes_rows(options.get("conditions"))

    def draw(
        self, subject: Viewed, *, n: Count = 4, steps: Steps = 10, seed: Seed = 0, conditions: Asked = None, **options: Any
    ) -> Film:
        model = cast(Denoiser, subject.model)
        asked = subject.drawing(n, seed, conditions, options)
        given = asked.conditions_of(subject.model)
        drawn, guessed, captions = [], [], []
        with torch.inference_mode():
            for step in model.denoise(n, conditions=given, generator=generators(seed, range(n)), **asked.options):
                for x in (step.sample, step.pred_original_sample):
                    check_finite(x, f"step {step.index + 1} (t = {step.timestep:.4g})")
                drawn.append(in_sight(step.sample, subject.modality).cpu())
                guessed.append(step.pred_original_sample.cpu())
                captions.append(f"step {step.index + 1}\nt = {step.timestep:.0f}")
        shown = torch.linspace(0, len(drawn) - 1, min(steps, len(drawn))).round().long().tolist()
        return Film(
            f"{subject.title}: the way back, from noise to data",
            f"$x$ after a step, and the guess of $x_0$ it took from t; {len(shown)} of {len(drawn)} steps, seed {seed}",
            subject.modality,
            {"$x$": torch.stack([drawn[i] for i in shown]), "guess of $x_0$": torch.stack([guessed[i] for i in shown])},
            [captions[i] for i in shown],
            given=asked.captions(subject.model),
            real=subject.behind(seed),
        )


def in_sight(x: Tensor, modality: Modality) -> Tensor:
    """Return x (n, *shape) made smaller where it goes far beyond a modality's bounds, or the deviation of what is
    standardised, as the first steps of samplers that count in sigma do."""
    if modality.bounds is None:
        return x / (x.std() / FAR).clamp(min=1)
    return x / x.std(tuple(range(1, x.ndim)), keepdim=True).clamp(min=1)


class Interpolate(View):
    """The way from one element to another: between the latents of two real ones, or the noise of two drawn ones."""

    moves = True

    def shows_rows(self, subject: Viewed, options: Mapping[str, Any]) -> bool:
        drawn_for_rows = subject.takes_rows(options.get("conditions"))
        return subject.modality.together or between_images(subject, options.get("between")) or drawn_for_rows

    def draw(
        self,
        subject: Viewed,
        *,
        n: Count = 4,
        steps: Steps = 8,
        seed: Seed = 0,
        conditions: Asked = None,
        between: Literal["images", "seeds"] | None = None,
        **options: Any,
    ) -> Film:
        shares = torch.linspace(0, 1, steps).tolist()
        captions = [f"{share:.2g}" for share in shares]
        if not between_images(subject, between):
            asked = subject.drawing(n, seed, conditions, options)
            return Film(
                f"{subject.title}: between two seeds",
                "the noise goes from one to the other on a great circle (slerp)",
                subject.modality,
                {"": _between_seeds(subject.model, asked, shares)},
                captions,
                there_and_back=True,
                given=asked.captions(subject.model),
                real=subject.behind(seed),
            )
        if unused := [*options, *(conditions or ())]:
            raise InputError(
                f"interpolate: between two images nothing is drawn, so {unused[0]} has no use; add --between seeds"
            )
        if not isinstance(subject.model, Autoencoder):
            raise InputError(f"interpolate: {subject.name} lacks the capability Autoencoder; it can go between seeds only")
        rows = subject.choose(2 * n, seed)
        x, given = subject.x(rows), subject.given(rows)
        latents = in_batches(subject.model.encode, x, given)
        first, second = latents[::2], latents[1::2]
        of_first = None if given is None else given.rows(slice(0, None, 2))
        ways = [in_batches(subject.model.decode, torch.lerp(first, second, s).to(x.device), of_first) for s in shares]
        return Film(
            f"{subject.title}: between the latents of two real rows",
            "a real row; its latent, decoded, and how far from it to the other's; the other real row",
            subject.modality,
            {"": torch.stack([x[::2].cpu(), *ways, x[1::2].cpu()])},
            ["real", *captions, "real"],
            there_and_back=True,
            real=subject.behind(seed),
        )


def between_images(subject: Viewed, between: str | None) -> bool:
    """Whether `interpolate` goes between real rows: where it is told to, and by default for a model with latents."""
    return between == "images" or (between is None and isinstance(subject.model, Autoencoder))


def _between_seeds(model: Model, asked: Drawing, shares: list[float]) -> Tensor:
    """Return elements (steps, n, *shape), the i-th between the rows 2i and 2i + 1 of `genhub sample`."""
    n, seed, given, checked = asked.n, asked.seed, asked.conditions_of(model), asked.options
    still = {"eta": 0.0}  # else a sampler's own noise decides
    if "eta" in inspect.signature(model.sample).parameters and not model.unused_options({**checked, **still}):
        checked = {**still, **checked}
    ways, progress = [], Progress(len(shares))
    for share in shares:
        ends = zip(generators(seed, range(0, 2 * n, 2)), generators(seed, range(1, 2 * n, 2)), strict=True)
        noise: list[torch.Generator] = [
            Between(first, second, share, seed_for(seed, SAMPLE_STREAM, 2 * i)) for i, (first, second) in enumerate(ends)
        ]
        with torch.inference_mode():
            x = model.sample(n, conditions=given, generator=noise, **checked).float().cpu()
            ways.append(check_finite(x, f"what is drawn {share:.2g} of the way"))
        progress.advance(len(ways))
    progress.close()
    if torch.equal(ways[0], ways[-1]):
        raise InputError(
            f"interpolate: {type(model).__name__} does not draw its noise with genhub.randn, "
            "so nothing lies between two seeds"
        )
    return torch.stack(ways)


def _short(number: float) -> str:
    """Return a number with two digits: 1200, 0.52, 2.4e-9."""
    return f"{float(f'{number:.2g}'):g}".replace("e-0", "e-")
