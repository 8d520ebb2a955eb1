"""Description of a page on which to draw: what models can be told, the options of their `sample`, what a person asks with
these, and the command that asks the same. Nothing here knows how the page looks."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from genhub.errors import InputError
from genhub.ground.parsing import TextSource, apply_override
from genhub.interfaces.annotations import members
from genhub.interfaces.capabilities import Denoiser
from genhub.interfaces.control import Choice, Control, Line, Slider, Upload
from genhub.interfaces.model import Model
from genhub.sampling.request import Drawing
from genhub.sampling.typed import Typed
from genhub.views import POINTS

FEW = 16
"""Number of elements by default where each has a picture of its own."""
MOST = 1000
"""Most elements that a page draws."""
LARGEST_SEED = 2**53 - 1
"""Largest whole number that a browser knows exactly."""
OUT = "samples.png"


@dataclass(frozen=True)
class ToldCondition:
    """Condition that all models of a page can be told; it may be left unsaid."""

    name: str
    words: str
    """Line on what can be asked for."""
    control: Control


@dataclass(frozen=True)
class SampleOption:
    """Number, or yes or no, among the options of `sample` that all models of a page have."""

    name: str
    kind: str
    """As JSON calls it: "integer", "number" or "boolean"."""
    default: Any
    """Default in the signature; None: the model's own."""
    low: float | None = None
    """Least value, or the one that all are above; None: there is none."""
    high: float | None = None
    """Largest value, or the one that all are below; None: there is none."""

    @property
    def text(self) -> str:
        """The default as a text for `--set`; "": the model's own."""
        return "" if self.default is None else json.dumps(self.default)

    @property
    def another(self) -> Any:
        """A value beside the default, by which to ask whether it would change anything."""
        if self.kind == "boolean":
            return not self.default
        if self.low is not None and self.high is not None:
            middle = (self.low + self.high) / 2
        else:
            middle = 1.0 if self.low is None else self.low + 1
        return round(middle) if self.kind == "integer" else middle


@dataclass(frozen=True)
class Wish:
    """Wish of a person: the same for all models of a page."""

    n: int
    seed: int
    conditions: Mapping[str, Sequence[str]]
    """By column, the texts that the command line would be given."""
    options: Mapping[str, str]
    """Options of `sample` that are not left at their default, as the texts that `--set` would be given."""
    files: frozenset[str] = frozenset()
    """Names of the conditions whose texts are paths of files that were uploaded."""

    def drawing(self, model: Model) -> Drawing:
        """Return the drawing that `genhub sample` makes of the command.

        Raises:
            InputError: the model can't be asked that.
        """
        said = {name: Typed(texts) for name, texts in self.conditions.items()}
        return Drawing.of(model, self.n, _parsed(self.options), seed=self.seed, conditions=said)

    def command(self, source: str, out: str = OUT) -> str:
        """Return the command that draws the same; a file that was uploaded has its own name there, without a folder."""
        words = ["genhub", "sample", source, "-n", str(self.n)]
        for name, texts in self.conditions.items():
            for text in texts:
                words += ["--condition", f"{name}={Path(text).name if name in self.files else text}"]
        words += ["--seed", str(self.seed)]
        for name, text in self.options.items():
            words += ["--set", f"{name}={text}"]
        return shlex.join([*words, "--out", out])


@dataclass(frozen=True)
class Form:
    """Description of what a page asks, made from its models alone."""

    conditions: Sequence[ToldCondition] = ()
    options: Sequence[SampleOption] = ()
    n: int = FEW
    shows_way: bool = False
    """Whether one of the models shows the way from noise."""
    notes: Sequence[str] = field(default=())
    """Lines on what is left out, as not all models have it."""

    @classmethod
    def of(cls, models: Mapping[str, Model]) -> Form:
        """Return the form for models by name: the conditions that all can be told, and the options of `sample` that would
        change something in each."""
        conditions, untold = _conditions(models)
        options, unused = _options(models)
        together = all(model.modality.together for model in models.values())
        way = any(isinstance(model, Denoiser) for model in models.values())
        return cls(conditions, options, POINTS if together else FEW, way, [*untold, *unused])

    def wish(self, n: Any, seed: Any, said: Mapping[str, Any], options: Mapping[str, str]) -> Wish:
        """Return what a person asks with the controls' values.

        Args:
            said: by condition, the names that are chosen, a number, a text or a file's path; None, "" or []: nobody says.
            options: by name, the texts that `--set` would be given; "": left out.
        Raises:
            InputError: n or the seed is none that can be drawn with.
        """
        conditions = {name: texts for name, value in said.items() if (texts := _texts(value))}
        usual = {option.name: option.text for option in self.options}
        chosen = {name: text.strip() for name, text in options.items()}
        return Wish(
            _whole("n", n, 1, MOST), _whole("seed", seed, 0, LARGEST_SEED), conditions,
            {name: text for name, text in chosen.items() if text not in ("", usual.get(name))},
            frozenset(told.name for told in self.conditions if isinstance(told.control, Upload)),
        )  # fmt: skip


def _texts(value: Any) -> list[str]:
    """Return a control's value as texts: one a name that is chosen, none where nobody says."""
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return [str(each) for each in value]
    return [f"{value:.6g}" if isinstance(value, float) else str(value)]


def _parsed(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of options as `--set` reads them."""
    values: dict[str, Any] = {}
    for name, text in texts.items():
        apply_override(values, f"{name}={text}", TextSource("--set"), origin="--set")
    return values


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int | float) or value != int(value) or not low <= value <= high:
        raise InputError(f"{name}: must be a whole number, {low} to {high:,}")
    return int(value)


# What all models have


def _conditions(models: Mapping[str, Model]) -> tuple[list[ToldCondition], list[str]]:
    """Return the conditions that all models can be told, and lines on those that some can't be."""
    found, unlike, lacking = list[ToldCondition](), list[str](), dict[str, list[str]]()
    for name in dict.fromkeys(name for model in models.values() for name in model.conditions):
        without = [source for source, model in models.items() if name not in model.conditions]
        told = [model.conditions[name] for model in models.values() if name in model.conditions]
        if without:
            lacking.setdefault(", ".join(without), []).append(name)
        elif (control := _shared([modality.control() for modality in told])) is None:
            unlike.append(f"Left out: {name}; it is another thing to each model.")
        else:
            found.append(ToldCondition(name, told[0].told(), control))
    return found, unlike + [f"Left out: {', '.join(names)}; {who} can't be told it." for who, names in lacking.items()]


def _shared(controls: Sequence[Control]) -> Control | None:
    """Return a control for what all of several offer; None where they have nothing in common."""
    first = controls[0]
    if any(type(control) is not type(first) for control in controls):
        return None
    match first:
        case Choice():
            names = [set(control.names) for control in controls if isinstance(control, Choice)]
            common = tuple(name for name in first.names if all(name in each for each in names))
            return Choice(common) if common else None
        case Slider():
            ends = [(control.low, control.high) for control in controls if isinstance(control, Slider)]
            low, high = min(low for low, _ in ends), max(high for _, high in ends)
            return Slider(low, high) if low < high else Line(f"{low:g}")
        case Upload():
            takes = [control.endings for control in controls if isinstance(control, Upload)]
            endings = tuple(ending for ending in first.endings if all(ending in each for each in takes))
            return Upload(endings) if endings else None
    return first


def _options(models: Mapping[str, Model]) -> tuple[list[SampleOption], list[str]]:
    """Return the options that would change something in each model, and lines on those that would in some alone."""
    useful = {source: _useful(model) for source, model in models.items()}
    found, lacking = list[SampleOption](), dict[str, list[str]]()
    for name in dict.fromkeys(name for options in useful.values() for name in options):
        option = next(options[name] for options in useful.values() if name in options)
        without = [source for source, options in useful.items() if options.get(name) != option]
        if without:
            lacking.setdefault(", ".join(without), []).append(name)
        else:
            found.append(option)
    return found, [f"Left out: {', '.join(names)}; of no use to {who}." for who, names in lacking.items()]


def _useful(model: Model) -> dict[str, SampleOption]:
    """Return the numbers, and what is yes or no, among the options of a model's `sample` that would change something."""
    options = sample_options(model)
    return {name: option for name, option in options.items() if not model.unused_options({name: option.another})}


def sample_options(model: Model) -> dict[str, SampleOption]:
    """Return the numbers, and what is yes or no, among the options of a model's `sample`, by the signature alone."""
    sample, found = type(model).sample, {}
    hints = get_type_hints(sample, include_extras=True)
    for name, parameter in inspect.signature(sample).parameters.items():
        kinds = set(members(hints.get(name, Any))) - {type(None)}
        if parameter.kind is not parameter.KEYWORD_ONLY or not kinds or not (kinds <= {int, float} or kinds == {bool}):
            continue
        schema = TypeAdapter(hints[name]).json_schema()
        limits, *others = [each for each in schema.get("anyOf", [schema]) if each["type"] != "null"]
        low = limits.get("minimum", limits.get("exclusiveMinimum"))
        high = limits.get("maximum", limits.get("exclusiveMaximum"))
        default = None if parameter.default is parameter.empty else parameter.default
        found[name] = SampleOption(name, "number" if others else limits["type"], default, low, high)
    return found
