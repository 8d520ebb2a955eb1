"""Checks of a noise schedule: it is built, told how many steps to take, and turns noise into a known image."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from genhub.interfaces.scheduler import Scheduler
from genhub.testing.report import Broken, NotHere, Subject
from genhub.testing.samples import global_states
from genhub.testing.subject import generators

STEPS = 20
SHAPE = (2, 1, 4, 4)
NEAR = 0.1
"""Most mean distance of a pixel in [-1, 1] at which a perfect network has to bring noise to the image."""
SPREAD = 0.25
"""Standard deviation of the images in `distribution`: so small that none is clipped."""


class SchedulerSubject(Subject):
    """A scheduler class under examination."""

    def __init__(self, cls: type[Any], config: Mapping[str, Any] | None) -> None:
        self.cls = cls
        self.config = dict(config or {})

    def build(self) -> Any:
        return self.cls(**self.config)

    def ready(self) -> Any:
        scheduler = self.build()
        scheduler.set_timesteps(STEPS)
        return scheduler

    def sample(self, guess: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Return images made of noise by a perfect network that knows the one image there is; `guess` makes of (image,
        noise, signal scale, noise scale) what it predicts. As a DDPM samples: a generator an image, where `step` takes
        one."""
        scheduler, images, noise = self.ready(), the_images(), the_noise()
        sample: Tensor = noise * scheduler.init_noise_sigma
        options = {"generator": generators(range(len(sample)))}
        options = {key: options[key] for key in options.keys() & inspect.signature(scheduler.step).parameters.keys()}
        for timestep in scheduler.timesteps:
            signal, scale = scales(scheduler, timestep)
            scheduler.scale_model_input(sample, timestep)
            current = (sample - signal * images) / scale.clamp(min=1e-6)
            sample = scheduler.step(guess(images, current, signal, scale), timestep, sample, **options).prev_sample
        return sample


def the_images() -> Tensor:
    return torch.linspace(-0.8, 0.8, 32).view(SHAPE)


def the_noise() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def scales(scheduler: Any, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shares of the image and of the noise that `add_noise` takes at a timestep."""
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    timesteps = timestep.reshape(1)
    return scheduler.add_noise(one, zero, timesteps), scheduler.add_noise(zero, one, timesteps)


def interface(subject: SchedulerSubject) -> None:
    """It is built without arguments, and has what `genhub.Scheduler` names."""
    scheduler = subject.ready()
    lacking = [
        name
        for name in (*Scheduler.__annotations__, "add_noise", "set_timesteps", "scale_model_input", "step")
        if not hasattr(scheduler, name)
    ]
    if lacking:
        raise Broken(
            f"it has no {', '.join(lacking)}", "diffusers' SchedulerMixin and ConfigMixin bring most of it", subject.cls
        )


def timesteps(subject: SchedulerSubject) -> None:
    """`set_timesteps(n)` makes about n timesteps, the noisiest first, as often as it is called."""
    scheduler = subject.build()
    for steps in (STEPS, 7, STEPS):
        scheduler.set_timesteps(steps)
        found = scheduler.timesteps
        if not isinstance(found, Tensor) or found.ndim != 1 or not steps <= len(found) <= 2 * steps + 12:
            raise Broken(f"set_timesteps({steps}) makes timesteps {found!r}", "make a tensor (n,)", scheduler.set_timesteps)
        shares = torch.cat([scale / (signal.abs() + scale) for signal, scale in (scales(scheduler, t) for t in found)])
        if (shares.flatten().diff() > 1e-4).any():
            raise Broken("noise grows on the way", "order timesteps from noise to image", scheduler.set_timesteps)


def noise(subject: SchedulerSubject) -> None:
    """`add_noise` mixes each image with its noise at its own timestep, and keeps shape and dtype."""
    scheduler, images, noise = subject.ready(), the_images(), the_noise()
    first, last = scheduler.timesteps[0], scheduler.timesteps[-1]
    mixed = scheduler.add_noise(images, noise, torch.stack([last, first]))
    if mixed.shape != images.shape or mixed.dtype != images.dtype:
        raise Broken(
            f"add_noise gives {mixed.dtype} {tuple(mixed.shape)} for {images.dtype} {SHAPE}",
            "give every image its factors as (n, 1, 1, 1), in its own dtype",
            scheduler.add_noise,
        )
    for index, timestep in enumerate([last, first]):
        signal, scale = scales(scheduler, timestep)
        wanted = signal * images[index] + scale * noise[index]
        if not torch.allclose(mixed[index], wanted[0], atol=1e-3 * (1 + scale.item())):
            raise Broken(
                "an image's noise depends on the other images, or is no weighted sum of image and noise",
                "add_noise is signal[t] * x_0 + scale[t] * noise",
                scheduler.add_noise,
            )


def step(subject: SchedulerSubject) -> None:
    """`step` turns noise into the image, if the network's guesses are perfect: of noise, image, v or velocity."""

    def v(image: Tensor, noise: Tensor, signal: Tensor, scale: Tensor) -> Tensor:
        length = (signal.square() + scale.square()).sqrt()
        return (signal * noise - scale * image) / length

    guesses = {
        "epsilon": lambda x, e, a, b: e,
        "sample": lambda x, e, a, b: x,
        "v_prediction": v,
        "velocity": lambda x, e, a, b: e - x,
    }
    named = getattr(subject.build().config, "prediction_type", None)
    tried = {named: guesses[named]} if named in guesses else guesses
    distances = {}
    for name, guess in tried.items():
        images = subject.sample(guess)
        if images.shape != SHAPE:
            raise Broken(f"step gives {tuple(images.shape)} for {SHAPE}", "keep the shape of `sample`", subject.cls.step)
        distances[name] = (images - the_images()).abs().mean().item()
    if not any(distance < NEAR for distance in distances.values()):
        found = ", ".join(f"{distance:.3g} for {name}" for name, distance in distances.items())
        raise Broken(
            f"with a perfect network, {STEPS} steps end this far from the image: {found}",
            "look for a sign, or for the sigma of the wrong timestep",
            subject.cls.step,
        )


def distribution(subject: SchedulerSubject) -> None:
    """Check that each step ends where the next one begins, also where the number of steps does not divide that of the
    levels: a perfect network for images of N(0, 0.25^2) leaves no noise in them."""
    if "num_train_timesteps" not in inspect.signature(subject.cls).parameters:
        raise NotHere("it takes no num_train_timesteps")
    scheduler = subject.cls(**{"num_train_timesteps": 100} | subject.config)
    total = dict(scheduler.config)["num_train_timesteps"]
    steps = round(0.6 * total)
    try:
        scheduler.set_timesteps(steps)
    except ValueError:
        raise NotHere(f"it takes no {steps} steps") from None
    named = getattr(scheduler.config, "prediction_type", None) or dict(scheduler.config).get("prediction_type")
    kinds = [named] if named in ("epsilon", "sample", "v_prediction") else ["epsilon", "sample", "v_prediction", "velocity"]
    found = {}
    for kind in kinds:
        scheduler.set_timesteps(steps)
        found[kind] = _drawn(scheduler, kind).std().item()
    if not any(abs(std - SPREAD) < 0.2 * SPREAD for std in found.values()):
        told = ", ".join(f"{std:.3g} for {kind}" for kind, std in found.items())
        raise Broken(
            f"in {steps} steps of {total} levels, images of deviation {SPREAD} are drawn with {told}",
            "let a step end at the next of `timesteps`: that is no fixed number of levels away",
            subject.cls.step,
        )


def _drawn(scheduler: Any, kind: str) -> Tensor:
    """Return what a scheduler draws with a perfect network for images of N(0, SPREAD^2), from their first timestep on."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    signal, scale = scales(scheduler, scheduler.timesteps[0])
    sample = (signal.square() * SPREAD**2 + scale.square()).sqrt() * torch.randn(16, 1, 16, 16, generator=generator)
    for timestep in scheduler.timesteps:
        signal, scale = scales(scheduler, timestep)
        image = signal * SPREAD**2 / (signal.square() * SPREAD**2 + scale.square()) * sample
        noise = (sample - signal * image) / scale.clamp(min=1e-6)
        length = (signal.square() + scale.square()).sqrt()
        guess = {
            "epsilon": noise,
            "sample": image,
            "v_prediction": (signal * noise - scale * image) / length,
            "velocity": noise - image,
        }[kind]
        scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(guess, timestep, sample, **options).prev_sample
    return sample


def randomness(subject: SchedulerSubject) -> None:
    """Given generators, `step` touches no global random numbers; the same seeds give the same bits."""
    states = global_states()
    first, again = (subject.sample(lambda image, noise, signal, scale: noise) for _ in range(2))
    touched = [library for library, state in global_states().items() if state != states[library]]
    if touched:
        raise Broken(
            f"step draws from the global random numbers of {touched[0]}",
            "take generator=None, a generator or a list of them, and draw with genhub.randn",
            subject.cls.step,
        )
    if not torch.equal(first, again):
        raise Broken(
            "the same seeds give other images the second time", "let set_timesteps forget the last run", subject.cls
        )


def saved(subject: SchedulerSubject) -> None:
    """Its `config` is JSON and holds the constructor's arguments: built from it, the schedule is the same again."""
    cls, scheduler = subject.cls, subject.ready()
    content = json.loads(json.dumps(dict(scheduler.config)))
    arguments = {key: content[key] for key in content.keys() & inspect.signature(cls).parameters.keys()}
    again = cls.from_config(content) if hasattr(cls, "from_config") else cls(**arguments)
    again.set_timesteps(STEPS)
    same = torch.equal(again.timesteps, scheduler.timesteps)
    if not same or any(scales(again, t) != scales(scheduler, t) for t in scheduler.timesteps):
        raise Broken(
            "built again from its config, it is another schedule",
            "keep every argument of __init__ in config (diffusers' register_to_config does)",
            cls,
        )
