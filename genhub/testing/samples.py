"""Checks of a model's `sample`: what it draws, and from which randomness."""

from __future__ import annotations

import inspect
import random
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor

from genhub.errors import GenhubError
from genhub.interfaces.model import Model
from genhub.recipe.sections import EMAConfig
from genhub.testing.report import Broken, NotHere, told
from genhub.testing.subject import ModelSubject, generators
from genhub.training.ema import EMA

TOLERANCE = 1e-3
"""Most that a value in [-1, 1] may change with the batch size: an eighth of an 8-bit step. Matrix products round
differently at every size, and a sampler of many steps carries that on."""


def sample(subject: ModelSubject) -> None:
    """`sample(n)` gives (n, channels, height, width), floats in [-1, 1]; `generator` may be one, a list of n, or None."""
    model = subject.trained().eval()
    at = type(model).sample
    labels = torch.arange(3) % (model.config.num_classes or 1) if subject.conditional else None
    for generator in (generators(range(3)), torch.Generator().manual_seed(0), None):
        with torch.inference_mode():
            images = model.sample(3, labels=labels, generator=generator)
        if not isinstance(images, Tensor) or tuple(images.shape) != (3, *model.sample_shape):
            got = f"a tensor {tuple(images.shape)}" if isinstance(images, Tensor) else repr(type(images))
            raise Broken(f"sample(3) gives {got}", f"return (n, c, h, w): {(3, *model.sample_shape)}", at)
        if not images.dtype.is_floating_point:
            raise Broken(f"sample gives {images.dtype}", "return floats in [-1, 1]; genhub makes bytes of them", at)
        low, high = images.min().item(), images.max().item()
        if not -1 <= low <= high <= 1:  # false for NaN, too
            raise Broken(f"sample gives values from {low:.4g} to {high:.4g}", "return images.clamp(-1, 1)", at)


def options(subject: ModelSubject) -> None:
    """The options of `sample` are keywords with an annotation and a default: `--set key=value` is checked by them."""
    function = subject.cls.sample
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if name in ("self", "n", "labels", "generator"):
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            raise Broken(
                f"sample takes any keyword as **{name}", "name each option, so that a misspelt one is found", function
            )
        if name not in hints or parameter.default is parameter.empty:
            raise Broken(
                f"sample's option '{name}' has no annotation or no default",
                f"write {name}: float | None = None, say: its type is what --set is checked against",
                function,
            )


def randomness(subject: ModelSubject) -> None:
    """Given generators, `sample` draws from them alone: torch's, NumPy's and Python's global ones are not touched."""
    model = subject.trained().eval()
    before = global_states()
    subject.draw(model, 3)
    for library, state in global_states().items():
        if state != before[library]:
            raise Broken(
                f"sample draws from the global random numbers of {library}",
                "draw with genhub.randn(shape, generator, self.device), or pass generator= on",
                type(model).sample,
            )


def global_states() -> dict[str, Any]:
    numpy: Any = np.random.get_state()
    return {"torch": torch.get_rng_state().tolist(), "NumPy": (numpy[1].tolist(), numpy[2]), "Python": random.getstate()}


def seeds(subject: ModelSubject) -> None:
    """The same seeds give the same bits, other seeds other images."""
    model = subject.trained()
    first, again, others = (subject.draw(model, 3, seeds) for seeds in ([0, 1, 2], [0, 1, 2], [3, 4, 5]))
    at = type(model).sample
    if not torch.equal(first, again):
        raise Broken("the same seeds give other images the second time", "keep no state between calls of sample", at)
    if torch.equal(first, others):
        raise Broken("other seeds give the same images", "draw with the given generator, not with one of your own", at)


def batches(subject: ModelSubject) -> None:
    """With a generator an image, an image does not depend on those drawn with it, within 0.001 of [-1, 1]."""
    model = subject.trained()
    labels = torch.arange(5) % (model.config.num_classes or 1) if subject.conditional else None
    together = subject.draw(model, 5, labels=labels)
    for index in (0, 4):
        one = None if labels is None else labels[index : index + 1]
        distance = (subject.draw(model, 1, [index], one) - together[index]).abs().max().item()
        if not distance <= TOLERANCE:
            raise Broken(
                f"image {index} of 5 differs by up to {distance:.3g} from the same image drawn alone",
                "draw an image's noise from its own generator (genhub.randn does), and let nothing in sample run "
                "over the batch",
                type(model).sample,
            )


def labels(subject: ModelSubject) -> None:
    """A conditional model draws what labels ask for, and refuses missing or unknown ones by a ValueError; another ignores
    or refuses all."""
    model = subject.trained().eval()
    at, classes = type(model).sample, model.config.num_classes or 1
    asked = torch.arange(2) % classes
    if not subject.conditional:
        error = refusal(model, asked)
        if error is not None and not isinstance(error, ValueError | GenhubError):
            raise Broken(f"given labels, sample raises {told(error)}", "ignore labels, or refuse them by a ValueError", at)
        if error is None and not torch.equal(subject.draw(model, 2), subject.draw(model, 2, labels=asked)):
            raise Broken("labels change what is drawn", 'say so: conditions = ("labels",)', at)
        return
    wrong: list[tuple[str, Tensor | None]] = [
        ("no labels", None),
        (f"label {classes}", torch.tensor([0, classes])),
        ("label -1", torch.tensor([0, -1])),
    ]
    for what, given in wrong:
        error = refusal(model, given)
        if not isinstance(error, ValueError | GenhubError):
            found = f"raises {told(error)}" if error else "draws all the same"
            raise Broken(
                f"given {what}, sample {found}",
                "begin it with labels = self.check_labels(labels), which raises the ValueError",
                at,
            )
    if classes > 1:
        zeros, ones = (subject.draw(model, 2, labels=torch.full((2,), label)) for label in (0, 1))
        if torch.equal(zeros, ones):
            raise Broken("labels 0 and 1 give the same images from the same seeds", "let the networks have the labels", at)


def refusal(model: Model, labels: Tensor | None) -> Exception | None:
    try:
        with torch.inference_mode():
            model.sample(2, labels=labels, generator=generators(range(2)))
    except Exception as error:
        return error
    return None


def ema(subject: ModelSubject) -> None:
    """The averaged copy draws from its own weights and buffers, as a fresh model with the same ones would."""
    model = subject.build()
    networks = {name for phase in model.phases() if phase.ema for name in phase.trains}
    if not networks:
        raise NotHere("no phase has networks to average")
    averages = EMA(model, EMAConfig(decay=0.9), networks)
    subject.train(model, 5)
    averages.update(100)
    copy, fresh = averages.current(), subject.build()
    fresh.load_state_dict(copy.state_dict())
    if not torch.equal(subject.draw(copy, 3), subject.draw(fresh, 3)):
        raise Broken(
            "the averaged copy draws other images than a fresh model with its weights",
            "reach networks through self only: lambdas and closures kept from __init__ go on to use the original's",
            type(model).sample,
        )
