"""A recipe as a file for people: short sections on one line, and behind a key what it means."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from genhub.ground.disk import saving, write_whole
from genhub.ground.parsing import yaml_line
from genhub.recipe.recipe import Recipe
from genhub.recipe.schema import recipe_schema

SCHEMA = "recipe.schema.json"
"""Name of the schema's file beside a recipe, by which editors check it."""
WIDE, FULL = 72, 125
"""Widest section on one line, and widest line."""
MEANT = 66
"""Longest comment behind a key; a longer first sentence is left out."""


def commented(keys: Mapping[str, Any], head: Sequence[str], recipe: Recipe) -> str:
    """Return the text of a recipe.

    Args:
        keys: its sections.
        head: lines for the top.
        recipe: the same, checked: its classes know what their keys mean.
    """
    top = [line for text in head for line in textwrap.wrap(text, FULL - 2, subsequent_indent="  ", break_on_hyphens=False)]
    found = list(_lines(keys, recipe, 0))
    column = min(44, max((len(line) for line, comment in found if comment), default=0))
    body = [f"{line.ljust(column)}  # {said}" if said and len(line) <= WIDE else line for line, said in found]
    lines = [f"# yaml-language-server: $schema={SCHEMA}", *(f"# {line}" for line in top), *body]
    return "\n".join(lines) + "\n"


def _lines(content: Mapping[str, Any], section: object, depth: int) -> Iterator[tuple[str, str]]:
    """Yield each line and its comment."""
    for key, value in content.items():
        inner = getattr(section, key, None) if isinstance(section, BaseModel) else None
        meaning = _meaning(section, key)
        indent = "  " * depth
        text = yaml_line(value)
        if isinstance(value, Mapping) and value and (depth == 0 or len(indent) + len(key) + len(text) > WIDE):
            yield f"{indent}{yaml_line(key)}:", meaning if depth else ""
            yield from _lines(value, inner, depth + 1)
        else:
            yield f"{indent}{yaml_line(key)}: {text}", meaning


def _meaning(section: object, key: str) -> str:
    """Return the first words of what a key's docstring says, where they are few."""
    if not isinstance(section, BaseModel) or key not in type(section).model_fields:
        return ""
    text = " ".join((type(section).model_fields[key].description or "").split())
    if re.match(r"\S+: ", text):  # a value's own meaning
        return ""
    for end in (". ", "; ", ": ", " ("):
        text = text.partition(end)[0] if len(text) > MEANT or end == ". " else text
    text = text.removesuffix(".")
    said = key != "name" and 0 < len(text) <= MEANT and "{" not in text
    return text[:1].lower() + text[1:] if said else ""


def write_beside(file: Path, text: str) -> None:
    """Write a recipe, and the schema that its first line names where it isn't there.

    Raises:
        GenhubError: they can't be saved.
    """
    schema = file.with_name(SCHEMA)
    with saving(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not schema.exists():
            write_whole(schema, json.dumps(recipe_schema(), indent=2) + "\n")
        write_whole(file, text)  # last: where it is there, all is
