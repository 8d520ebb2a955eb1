"""Describe recipes: by JSON Schema for editors, and by the options of plugins."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from genhub.errors import PluginError, did_you_mean, shown
from genhub.interfaces.network import NetworkConfig
from genhub.interfaces.registry import (
    KINDS,
    METRICS,
    MODALITIES,
    MODELS,
    NETWORKS,
    SCHEDULERS,
    TRAINERS,
    VIEWS,
    Plugin,
    find_plugin,
    load_all,
    plugin_names,
)
from genhub.recipe.recipe import Recipe

FROM = {
    "type": "string",
    "description": "Start from these weights, a folder's or Hub id's; their Config fills what is left out.",
}


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of recipes; `model` and `trainer` have the keys of the plugin they name.

    Plugins that can't be loaded are left out: `genhub doctor` says why.
    """
    models = {name: cls.Config for name, cls in load_all(MODELS)[0].items()}
    trainers = {name: cls.Config for name, cls in load_all(TRAINERS)[0].items()}
    networks = {name: cls.Config for name, cls in load_all(NETWORKS)[0].items()}
    classes: list[type[BaseModel]] = [Recipe, *models.values(), *trainers.values(), *networks.values(), NetworkConfig]
    references, schema = models_json_schema([(cls, "validation") for cls in dict.fromkeys(classes)])
    keys = {cls: reference["$ref"].rpartition("/")[2] for (cls, _), reference in references.items()}
    definitions = schema["$defs"]
    for config in models.values():
        definitions[keys[config]]["properties"]["from"] = FROM
        del definitions[keys[config]]["properties"]["data"]  # which the data fill in
    by_name = _by_name({name: keys[config] for name, config in networks.items()})
    definitions[keys[NetworkConfig]] = {"anyOf": [{"enum": list(networks)}, by_name]}  # `network: unet` for short
    sections = definitions.pop(keys[Recipe])["properties"]
    sections["model"] = _by_name({name: keys[config] for name, config in models.items()})
    sections["trainer"] = _by_name({name: keys[config] for name, config in trainers.items()}, default="accelerate")
    measured = definitions["EvaluateConfig"]["properties"]
    measured["metrics"]["items"] = {"enum": plugin_names(METRICS)}
    measured["save_best"]["anyOf"][0] = {"enum": plugin_names(METRICS)}
    order = ("model", "data", "trainer", "evaluate", "hub", "seed", "run_dir")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "genhub recipe", "type": "object",
            "properties": {key: sections[key] for key in order}, "required": ["model"],
            "additionalProperties": False, "$defs": _used(definitions, sections)}  # fmt: skip


def _used(definitions: dict[str, Any], sections: Any) -> dict[str, Any]:
    """Return the definitions that the sections name, or one of these names."""
    used, waiting = dict[str, Any](), [sections]
    while waiting:
        names = set(re.findall(r"#/\$defs/([\w.-]+)", json.dumps(waiting.pop()))) - used.keys()
        used |= {name: definitions[name] for name in names}
        waiting += [definitions[name] for name in names]
    return dict(sorted(used.items()))


def _by_name(definitions: dict[str, str], default: str | None = None) -> dict[str, Any]:
    """Return the schema of a section whose keys depend on its `name`; those of a module:Class are not known here."""
    rules = [{"if": {"properties": {"name": {"const": name}}, "required": [] if name == default else ["name"]},
              "then": {"$ref": f"#/$defs/{definition}"}} for name, definition in definitions.items()]  # fmt: skip
    name = {"anyOf": [{"enum": list(definitions)}, {"type": "string", "pattern": ":"}]}
    return {"type": "object", "properties": {"name": name}, "allOf": rules}


def describe_plugin(name: str) -> list[dict[str, Any]]:
    """Describe the plugins of that name (a model and a scheduler may share one): their origin, capabilities and options,
    and a recipe that uses it.

    Raises:
        PluginError: there is none, two distributions claim it, or it is broken.
    """
    facts = []
    for kind, group in KINDS.items():
        if name in plugin_names(group):
            plugin = find_plugin(group, name)
            cls = plugin.load()
            about = " ".join((cls.__doc__ or "").strip().partition("\n\n")[0].split())
            keys = getattr(cls, "Config", None) or getattr(cls, "Options", None)
            options = _options(keys) if keys else _arguments(cls.draw if group == VIEWS else cls)
            if group == MODELS:
                del options["data"]  # which the data fill in
            facts.append({"kind": kind, "name": name, "class": plugin.value, "distribution": plugin.distribution,
                          "version": plugin.version, "about": about, "capabilities": capabilities(cls),
                          "options": options, "recipe": example_recipe(plugin, options)})  # fmt: skip
    if not facts:
        known = {known for group in KINDS.values() for known in plugin_names(group)}
        raise PluginError(f"no plugin is called {shown(name)}; {did_you_mean(name, known)}")
    return facts


def capabilities(cls: type) -> list[str]:
    """Return the names of a class's capabilities: the protocols of `interfaces` whose methods it has."""
    from genhub.interfaces.capabilities import Autoencoder, Denoiser, DiscreteAutoencoder, Energy, Likelihood, methods_of

    found = list[str]()
    for protocol in (Autoencoder, DiscreteAutoencoder, Denoiser, Energy, Likelihood):
        if all(callable(getattr(cls, name, None)) for name in methods_of(protocol)):
            found.append(protocol.__name__.lower())
    return found


def example_recipe(plugin: Plugin, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a short recipe that uses a plugin and passes `genhub recipe check`; None if no installed model can use it."""
    short = {"trainer": {"max_steps": 1000}}
    if plugin.group == MODELS:
        return {"model": {"name": plugin.name} | _required(options)} | short
    for model, cls in load_all(MODELS)[0].items():
        known = _options(cls.Config)
        section = {"name": model} | _required(known)
        if plugin.group == TRAINERS:
            return {"model": section, "trainer": {"name": plugin.name} | _required(options) | short["trainer"]}
        if plugin.group == SCHEDULERS and "sampling.scheduler" in known:
            section["sampling"] = {"scheduler": plugin.name}
            if "scheduler.name" in known and not plugin.value.startswith("diffusers:"):  # not a sampler alone
                section["scheduler"] = {"name": plugin.name}
            return {"model": section} | short
        if plugin.group == NETWORKS and NetworkConfig.__name__ in known.get("network", {}).get("type", ""):
            return {"model": section | {"network": {"name": plugin.name}}} | short
        if plugin.group == MODALITIES:
            column = {"modality": plugin.name} | _required(options)
            return {"model": section, "data": {"columns": {"COLUMN": column}}} | short
    return None


def _required(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the keys that a recipe can't leave out, with example values."""
    keys: dict[str, Any] = {}
    for path, option in options.items():
        if "example" in option:
            *sections, key = path.split(".")
            target = keys
            for section in sections:
                target = target.setdefault(section, {})
            target[key] = option["example"]
    return keys


def _options(config: type[BaseModel], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return every key with its type, default and meaning, by its path as an override would write it."""
    options: dict[str, dict[str, Any]] = {}
    defaults = config.model_construct().model_dump(mode="json", warnings=False)
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            options |= _options(field.annotation, f"{prefix}{name}.")
        else:
            option = {
                "type": _type_text(field.annotation),
                "default": defaults.get(name),
                "meaning": field.description or "",
            }
            if field.is_required():
                option["example"] = field.examples[0] if field.examples else None
            options[prefix + name] = option
    return options


def _arguments(cls: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Return the arguments of a class without Config, or the options of a view's `draw`, their meaning from the docstring's
    `name (type): meaning`."""
    options: dict[str, dict[str, Any]] = {}
    for name, argument in inspect.signature(cls, eval_str=inspect.isfunction(cls)).parameters.items():
        if name in ("self", "subject") or argument.kind is argument.VAR_KEYWORD:
            continue
        told = re.search(rf"^ *{name} \(.*\):((?:.|\n)*?)(?=\n *\w+ \(|\n *\n|\Z)", cls.__doc__ or "", re.MULTILINE)
        default = None if argument.default is argument.empty else argument.default
        annotation = "" if argument.annotation is argument.empty else argument.annotation
        options[name] = {"type": annotation if isinstance(annotation, str) else _type_text(annotation), "default": default,
                         "meaning": " ".join(told[1].split()) if told else ""}  # fmt: skip
    return options


def _type_text(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(inner[0])
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " | ".join(map(_type_text, inner))
    if inner:
        return f"{origin.__name__}[{', '.join(map(_type_text, inner))}]"
    if annotation in (type(None), Ellipsis):
        return "null" if annotation is type(None) else "..."
    return str(getattr(annotation, "__name__", annotation))
