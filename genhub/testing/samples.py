"""Checks of a model's `sample`: what it draws, and from which randomness."""

from __future__ import annotations

import inspect
import random
from dataclasses import replace
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor

from genhub.errors import GenhubError
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.model import Model
from genhub.recipe.sections import EMAConfig
from genhub.testing.report import Broken, NotHere, told
from genhub.testing.subject import ModelSubject, drawn, generators
from genhub.training.ema import EMA

TOLERANCE = 1e-3
"""Most that a number in a batch may change with the batch size: of one in [-1, 1], an eighth of an 8-bit step. Matrix
products round differently at every size, and a sampler of many steps carries that on."""


def sample(subject: ModelSubject) -> None:
    """`sample(n)` gives (n, *shape), finite floats within the modality's bounds; `generator` may be one, a list of n, or
    None."""
    model = subject.trained().eval()
    at, conditions, bounds = type(model).sample, subject.conditions(3), model.modality.bounds
    for generator in (generators(range(3)), torch.Generator().manual_seed(0), None):
        with torch.inference_mode():
            x = model.sample(3, conditions=conditions, generator=generator)
        if not isinstance(x, Tensor) or tuple(x.shape) != (3, *model.shape):
            got = f"a tensor {tuple(x.shape)}" if isinstance(x, Tensor) else repr(type(x))
            raise Broken(f"sample(3) gives {got}", f"return (n, *shape): {(3, *model.shape)}", at)
        if not x.dtype.is_floating_point:
            raise Broken(f"sample gives {x.dtype}", "return floats as in a batch; the modality makes its own of them", at)
        if not x.isfinite().all():
            raise Broken("sample gives values that are not finite", "look for what overflows or divides by zero", at)
        low, high = x.min().item(), x.max().item()
        if bounds is not None and not bounds[0] <= low <= high <= bounds[1]:
            raise Broken(f"sample gives values from {low:.4g} to {high:.4g}", "return x.clamp(*self.modality.bounds)", at)


def options(subject: ModelSubject) -> None:
    """The options of `sample` are keywords with an annotation and a default: `--set key=value` is checked by them."""
    function = subject.cls.sample
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if name in ("self", "n", "conditions", "generator"):
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
    """The same seeds give the same bits, other seeds something else."""
    model = subject.trained()
    first, again, others = (subject.draw(model, 3, seeds) for seeds in ([0, 1, 2], [0, 1, 2], [3, 4, 5]))
    at = type(model).sample
    if not torch.equal(first, again):
        raise Broken("the same seeds give something else the second time", "keep no state between calls of sample", at)
    if torch.equal(first, others):
        raise Broken("other seeds give the same", "draw with the given generator, not with one of your own", at)


def batches(subject: ModelSubject) -> None:
    """With a generator a row, a row does not depend on those drawn with it: its numbers are within 0.001."""
    model = subject.trained()
    together, conditions = subject.draw(model, 5), subject.conditions(5)
    for index in (0, 4):
        alone = subject.draw(model, 1, [index], conditions.rows(slice(index, index + 1)))
        distance = (alone - together[index]).abs().max().item()
        if not distance <= TOLERANCE:
            raise Broken(
                f"row {index} of 5 differs by up to {distance:.3g} from the same row drawn alone",
                "draw a row's noise from its own generator (genhub.randn does), and let nothing in sample run "
                "over the batch",
                type(model).sample,
            )


def conditions(subject: ModelSubject) -> None:
    """A model that is given something draws otherwise for other values, draws rows without conditions, too, as it does for
    None, and refuses those of other rows by a ValueError; another one draws the same for None and for no conditions."""
    model = subject.trained().eval()
    at, nothing = type(model).sample, Conditions.nothing(model.conditions, 2)
    if not torch.equal(drawn(model, 2, range(2), None), drawn(model, 2, range(2), nothing)):
        raise Broken(
            "sample(2, conditions=None) and rows without any condition give different things from the same seeds",
            "begin it with conditions = self.conditions_of(n, conditions), and use those",
            at,
        )
    if not model.conditions:
        return
    error = refusal(model, subject.conditions(3))
    if not isinstance(error, ValueError | GenhubError):
        found = f"raises {told(error)}" if error else "draws all the same"
        raise Broken(
            f"given the conditions of 3 rows, sample(2) {found}",
            "begin it with conditions = self.conditions_of(n, conditions), which raises the ValueError",
            at,
        )
    rows = subject.conditions(64)
    for name, values in rows.values.items():
        there = rows.present[name].nonzero().flatten()
        others = [row for row in there if not torch.equal(values[row], values[there[0]])]
        if not others:
            continue  # a column of one value has nothing else to ask for
        first = rows.rows(there[:1])
        second = replace(first, values={**first.values, name: values[others[0]][None]})
        if torch.equal(drawn(model, 1, [0], first), drawn(model, 1, [0], second)):
            raise Broken(
                f"different values of '{name}' give the same from the same seeds",
                "let the networks have what a genhub.Conditioner makes of the conditions",
                at,
            )


def refusal(model: Model, conditions: Conditions) -> Exception | None:
    try:
        drawn(model, 2, range(2), conditions)
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
            "the averaged copy draws something else than a fresh model with its weights",
            "reach networks through self only: lambdas and closures kept from __init__ go on to use the original's",
            type(model).sample,
        )
