"""Recipes described: JSON Schema for editors, and a plugin's options as text."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from genhub.config import ModelConfig
from genhub.errors import PluginError, did_you_mean
from genhub.recipe import Recipe
from genhub.registry import KINDS, MODELS, TRAINERS, load_plugin, plugins


def recipe_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of recipes; `model` and `trainer` have the keys of the plugin that `name` names.

    Raises:
        PluginError: an installed model or trainer is broken.
    """
    configs = {(group, p.name): p.load().Config for group in (MODELS, TRAINERS) for p in plugins(group)}
    classes: list[type[BaseModel]] = [Recipe, *configs.values()]
    references, definitions = models_json_schema([(cls, "validation") for cls in dict.fromkeys(classes)])
    recipe = definitions["$defs"].pop(references[Recipe, "validation"]["$ref"].rpartition("/")[2])
    properties = recipe["properties"]
    for key in ("init_from", "folder"):
        del properties[key]
    for key, group, default in [("model", MODELS, None), ("trainer", TRAINERS, "accelerate")]:
        choices = {name: references[cls, "validation"]["$ref"] for (g, name), cls in configs.items() if g == group}
        properties[key] = _chosen_by_name(choices, default)
    for name in {ref.rpartition("/")[2] for ref in (references[c, "validation"]["$ref"] for c in configs.values()
                                                     if issubclass(c, ModelConfig))}:  # fmt: skip
        definitions["$defs"][name]["properties"]["from"] = {
            "type": "string", "description": "Start from the weights in this folder; its Config fills what is left out."
        }  # fmt: skip
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "genhub recipe", "type": "object",
            "properties": properties, "required": ["model"], "additionalProperties": False, **definitions}  # fmt: skip


def _chosen_by_name(choices: dict[str, str], default: str | None) -> dict[str, Any]:
    name: dict[str, Any] = {"anyOf": [{"enum": list(choices)}, {"type": "string", "pattern": ":"}]}
    rules = [{"if": {"properties": {"name": {"const": key}}, "required": [] if key == default else ["name"]},
              "then": {"$ref": reference}} for key, reference in choices.items()]  # fmt: skip
    return {"type": "object", "properties": {"name": name}, "allOf": rules}


def plugin_text(name: str, kind: str = "") -> str:
    """Where a plugin comes from and what its options are, one a line.

    Raises:
        PluginError: no plugin, or several kinds, of that name.
    """
    groups = {k: group for k, group in KINDS.items() if kind in ("", k) and name in {p.name for p in plugins(group)}}
    if not groups:
        known = {plugin.name for group in KINDS.values() for plugin in plugins(group)}
        raise PluginError(f"no plugin is called '{name}'; {did_you_mean(name, known)}")
    texts = []
    for k, group in groups.items():
        cls = load_plugin(group, name)
        found = next(p for p in plugins(group) if p.name == name)
        doc = (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""
        lines = [f"{name} ({k}): {found.value}, {found.distribution} {found.version}", f"  {doc}"]
        if config := getattr(cls, "Config", None):
            lines += _option_lines(config)
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def _option_lines(config: type[BaseModel], indent: str = "  ") -> list[str]:
    lines = []
    for name, field in config.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            lines += [f"{indent}{name}:", *_option_lines(annotation, indent + "  ")]
            continue
        kind = getattr(annotation, "__name__", str(annotation)) if isinstance(annotation, type) else str(annotation)
        kind = kind.replace("typing.", "")
        meaning = f"  # {field.description}" if field.description else ""
        lines.append(f"{indent}{name}: {field.default!r} ({kind}){meaning}".replace("\n", " "))
    return lines
