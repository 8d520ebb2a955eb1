"""Recipes described: JSON Schema for editors, and the options of plugins."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from genhub.errors import PluginError, did_you_mean
from genhub.recipe import Recipe
from genhub.registry import KINDS, MODELS, TRAINERS, find_plugin, load_all, load_class, plugin_names

FROM = {"type": "string", "description": "Start from the weights in this folder; its Config fills what is left out."}


def recipe_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of recipes; `model` and `trainer` have the keys of the plugin that `name` names.

    Plugins that can't be loaded are left out: `genhub doctor` says why.
    """
    models = {name: cls.Config for name, cls in load_all(MODELS)[0].items()}
    trainers = {name: cls.Config for name, cls in load_all(TRAINERS)[0].items()}
    classes: list[type[BaseModel]] = [Recipe, *models.values(), *trainers.values()]
    references, schema = models_json_schema([(cls, "validation") for cls in dict.fromkeys(classes)])
    pointers = {cls: reference["$ref"] for (cls, _), reference in references.items()}
    definitions = {pointer: schema["$defs"][pointer.rpartition("/")[2]] for pointer in pointers.values()}
    for config in models.values():
        definitions[pointers[config]]["properties"]["from"] = FROM
    properties = definitions[pointers[Recipe]]["properties"]
    properties["model"] = _by_name({name: pointers[config] for name, config in models.items()})
    properties["trainer"] = _by_name({name: pointers[config] for name, config in trainers.items()}, "accelerate")
    order = ["model", "data", "trainer", "seed", "run_dir"]
    del schema["$defs"][pointers[Recipe].rpartition("/")[2]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "genhub recipe", "type": "object",
            "properties": {key: properties[key] for key in order}, "required": ["model"],
            "additionalProperties": False, "$defs": schema["$defs"]}  # fmt: skip


def _by_name(choices: dict[str, str], default: str | None = None) -> dict[str, Any]:
    """A section whose keys depend on its `name`; those of a module:Class are not known here."""
    name = {"anyOf": [{"enum": list(choices)}, {"type": "string", "pattern": ":"}]}
    rules = [
        {
            "if": {"properties": {"name": {"const": key}}, "required": [] if key == default else ["name"]},
            "then": {"$ref": pointer},
        }
        for key, pointer in choices.items()
    ]
    return {"type": "object", "properties": {"name": name}, "allOf": rules}


def plugin_facts(name: str) -> list[dict[str, Any]]:
    """Where the plugins of that name come from (a model and a scheduler may share one), and what their options are.

    Raises:
        PluginError: there is none, two distributions claim it, or it is broken.
    """
    groups = {kind: group for kind, group in KINDS.items() if name in plugin_names(group)}
    if not groups:
        known = {known for group in KINDS.values() for known in plugin_names(group)}
        raise PluginError(f"no plugin is called '{name}'; {did_you_mean(name, known)}")
    facts = []
    for kind, group in groups.items():
        plugin, cls = find_plugin(group, name), load_class(group, name)
        about = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
        facts.append({"kind": kind, "name": name, "class": plugin.value, "distribution": plugin.distribution,
                      "version": plugin.version, "about": about,
                      "options": _options(cls.Config) if hasattr(cls, "Config") else {}})  # fmt: skip
    return facts


def _options(config: type[BaseModel], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Every key by its path, as an override would write it."""
    options: dict[str, dict[str, Any]] = {}
    for name, field in config.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            options |= _options(annotation, f"{prefix}{name}.")
        else:
            kind = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            plain = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
            options[prefix + name] = {"type": kind, "default": plain, "meaning": field.description or ""}
    return options
