"""Writes docs/reference.md from the docstrings of the public names: python docs/make_reference.py

A test holds that the committed page is what this makes.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import genhub
from genhub import errors

PAGE = Path(__file__).with_name("reference.md")
SECTIONS = {
    "Models": ("GenerativeModel", "Model", "Phase", "FrozenEncoder", "ModelConfig", "ModelData", "Batch", "Generators"),
    "Conditions": ("Conditions", "Conditioner", "Given", "Embedding", "guided", "guidance_at"),
    "Networks": ("Network", "NetworkConfig", "AnyNetwork", "network_for"),
    "Modalities": (
        "Modality",
        "RawColumn",
        "ConditionEncoder",
        "Unreadable",
        "Image",
        "Signal",
        "Vector",
        "Label",
        "Number",
        "Text",
    ),
    "Data": ("DataConfig", "DataSpec", "load_data"),
    "Capabilities": ("Autoencoder", "Denoiser", "DenoisingStep", "Likelihood"),
    "Noise schedules": ("Scheduler", "SchedulerName", "load_scheduler", "scheduler_names"),
    "Metrics": ("Metric", "MeasuredModel"),
    "Trainers": (
        "Trainer",
        "TrainerConfig",
        "Run",
        "TrainerState",
        "StoppedRun",
        "TrainingData",
        "Share",
        "RunLog",
        "seed_for",
    ),
    "Views": ("View", "ViewSubject", "Film", "PictureRow", "table"),
    "Recipes": ("Recipe", "read_recipe", "Section", "PositiveInt", "Fraction", "Shape"),
    "Verbs": ("train", "load", "sample"),
    "For a model's own folder format": ("save_tensors", "load_strictly", "read_json"),
    "Noise": ("randn",),
    "Patches": ("folded", "unfolded"),
    "Errors": (
        "GenhubError",
        "InputError",
        "RecipeError",
        "DataError",
        "PluginError",
        "CheckpointError",
        "TrainingError",
        "Interrupted",
        "NotFinite",
        "did_you_mean",
    ),
}
HEAD = """# Reference

The public names, `from genhub import ...`, made from their docstrings by `python docs/make_reference.py`. What may change
and when: [compatibility.md](compatibility.md). A tutorial: [plugins.md](plugins.md).
"""


def page() -> str:
    """The whole of reference.md."""
    sections = dict(SECTIONS)
    listed = {name for names in sections.values() for name in names}
    if others := tuple(name for name in genhub.__all__ if name not in listed):
        sections["Others"] = others
    parts = [HEAD]
    for title, names in sections.items():
        parts.append(f"## {title}\n")
        if title == "Errors":  # the tree, with what each is for
            parts.append(f"```text\n{inspect.cleandoc(errors.__doc__ or '')}\n```\n")
        parts += [entry(name) for name in names]
    return "\n".join(parts)


def entry(name: str) -> str:
    """A public name's heading, what it is, and its members."""
    value = getattr(genhub, name)
    if inspect.isclass(value):
        lines = [f"### {name}\n", *text(value.__doc__ if value.__doc__ != dict.__doc__ else "")]
        bases = [base.__name__ for base in value.__mro__[1:] if base.__name__ in genhub.__all__]
        if bases:
            lines.append(f"A `{bases[0]}`.\n")
        lines += [f"- `{line}`{': ' + about if about else ''}" for line, about in fields(value)]
        lines += ["", *members(value)]
        return "\n".join(lines).rstrip() + "\n"
    if inspect.isfunction(value):
        return "\n".join([f"### {name}\n", f"```python\n{signature(name, value)}\n```\n", *text(value.__doc__)])
    return "\n".join([f"### {name}\n", f"`{readable(str(value))}`\n", *text(documented(name))])


def text(docstring: str | None) -> list[str]:
    """A docstring as Markdown: `Args:` and the like become lists."""
    if not docstring:
        return []
    out: list[str] = []
    docstring = re.sub(r"( *>>> (?:.|\n)*)", r"\n```python\n\1\n```", docstring.rstrip())
    for line in inspect.cleandoc(docstring).splitlines():
        if line in ("Args:", "Returns:", "Raises:"):
            out += [*[""] * (out[-1:] != [""]), f"*{line[:-1]}*", ""]
        elif found := re.match(r"    (\w+): (.*)", line):
            out.append(f"- `{found[1]}`: {found[2]}")
        else:
            out.append(line if not line.startswith("    ") else f"  {line.strip()}")
    return ["\n".join(out).strip() + "\n"]


def fields(cls: type) -> Iterator[tuple[str, str]]:
    """The data that a class has: name, type and default, and the docstring below it."""
    told = attribute_docs(cls)
    if issubclass(cls, BaseModel):
        for name, field in cls.model_fields.items():
            default = "" if field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
            yield f"{name}: {readable(annotation(cls, name))}{default}", " ".join((field.description or "").split())
        return
    defaults = {f.name: f for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    for name in inspect.get_annotations(cls):
        if name.startswith("_"):
            continue
        value = defaults[name].default if name in defaults else getattr(cls, name, dataclasses.MISSING)
        default = "" if value is dataclasses.MISSING or inspect.isclass(value) else f" = {value!r}"
        yield f"{name}: {readable(annotation(cls, name))}{default}", told.get(name, "")


def members(cls: type) -> Iterator[str]:
    """A class's own public methods, as its source has them in order."""
    for name, raw in vars(cls).items():
        value = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
        value = value.fget if isinstance(value, property) else value
        if not inspect.isfunction(value) or value.__module__ != cls.__module__:
            continue
        if name.startswith("_") and (name != "__init__" or dataclasses.is_dataclass(cls) or issubclass(cls, Exception)):
            continue
        marks = [
            mark
            for mark, holds in [
                ("abstract", getattr(value, "__isabstractmethod__", False)),
                ("final", getattr(value, "__final__", False) or getattr(raw, "__final__", False)),
                ("classmethod", isinstance(raw, classmethod)),
                ("property", isinstance(raw, property)),
            ]
            if holds
        ]
        shown = name if isinstance(raw, property) else signature(name, value)
        yield f"#### `{cls.__name__}.{name}`" + (f" ({', '.join(marks)})" if marks else "") + "\n"
        yield f"```python\n{shown}\n```\n"
        yield from text(value.__doc__)


def signature(name: str, function: Any) -> str:
    """`name(arguments) -> result`, on several lines where it is long."""
    line = name + readable(str(inspect.signature(function)))
    if len(line) <= 110:
        return line
    arguments = [readable(str(p)) for p in inspect.signature(function).parameters.values()]
    star = next((i for i, p in enumerate(inspect.signature(function).parameters.values()) if p.kind is p.KEYWORD_ONLY), None)
    if star is not None:
        arguments.insert(star, "*")
    result = line.rpartition(")")[2]
    return f"{name}(\n" + textwrap.indent(",\n".join(arguments), "    ") + f",\n){result}"


def readable(shown: str) -> str:
    shown = re.sub(r"<function (\w+) at 0x\w+>", r"\1", shown)
    return (
        re.sub(r"'((?:\w|[.\[\], |])+)'(?=[,)= \]]|$)", r"\1", shown).replace("typing.", "").replace("collections.abc.", "")
    )


def annotation(cls: type, name: str) -> str:
    """As the source has it."""
    for base in cls.__mro__:
        own = inspect.get_annotations(base)
        if name in own:
            return own[name] if isinstance(own[name], str) else getattr(own[name], "__name__", str(own[name]))
    return ""


def attribute_docs(cls: type) -> dict[str, str]:
    """The string below each annotated name in a class's source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    return dict(_documented(body.body))


def documented(name: str) -> str:
    """The string below a name in the module that defines it."""
    tree = ast.parse(inspect.getsource(importlib.import_module(f"genhub.{genhub._WHERE[name]}")))
    return dict(_documented(tree.body)).get(name, "")


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node, below in pairwise(body):
        target = getattr(node, "target", None) or next(iter(getattr(node, "targets", ())), None)
        if isinstance(target, ast.Name) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield target.id, " ".join(str(below.value.value).split())


if __name__ == "__main__":
    PAGE.write_text(page())
