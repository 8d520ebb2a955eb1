"""A recipe: YAML and key=value overrides to a frozen `Recipe`. Nothing here imports torch until a plugin does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeVar, get_args

import yaml
from pydantic import Field, SerializeAsAny, ValidationError
from pydantic_core import ErrorDetails

from genhub.config import DataConfig, ModelConfig, NonNegativeInt, Section, TrainerConfig
from genhub.errors import CheckpointError, PluginError, RecipeError, did_you_mean
from genhub.manifest import find_checkpoint, read_model
from genhub.registry import MODELS, TRAINERS, find_plugin, load_class, plugin_names

MAX_BYTES = 2**17
MAX_DEPTH = 32
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}
KINDS = {"model_type": "a section of keys", "dict_type": "a section of keys", "mapping_type": "a section of keys",
         "tuple_type": "a list", "list_type": "a list", "int_type": "a whole number", "int_from_float": "a whole number",
         "int_parsing": "a whole number", "float_type": "a number", "float_parsing": "a number", "string_type": "text",
         "string_too_short": "text with something in it",
         "bool_type": "true or false", "bool_parsing": "true or false"}  # fmt: skip
"""What a value should have been, by pydantic's name of the fault."""

KeyPath = tuple[str | int, ...]
S = TypeVar("S", bound=Section)


class _Core(Section):
    """What can be checked without the model's plugin."""

    data: DataConfig = DataConfig()
    trainer: SerializeAsAny[TrainerConfig] = TrainerConfig()
    seed: NonNegativeInt = 0
    """All randomness of training derives from it."""
    run_dir: str = Field(min_length=1)
    """Where the run's folder is; left out: runs/ and the recipe's name."""


class Recipe(_Core):
    """A complete recipe: every key has its value, nothing is hidden."""

    model: SerializeAsAny[ModelConfig]
    init_from: str | None = Field(default=None, exclude=True)
    """`model.from`: the folder whose weights training starts with."""
    folder: Path = Field(default=Path(), exclude=True)
    """The recipe file's folder, where `module:Class` names are looked up."""

    def model_class(self) -> Any:
        return load_class(MODELS, self.model.name, self.folder)

    def trainer_class(self) -> Any:
        return load_class(TRAINERS, self.trainer.name, self.folder)

    def dump(self) -> dict[str, Any]:
        """The recipe as plain dictionaries, as it would be written in YAML."""
        content = self.model_dump(mode="json")
        model = content.pop("model")
        if self.init_from is not None:
            model = {"name": self.model.name, "from": self.init_from} | model
        return {"model": model} | content

    def yaml(self) -> str:
        return to_yaml(self.dump())


def to_yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


@dataclass
class Source:
    """Where keys came from, and the faults found in them: a message names file, line and key path."""

    name: str
    origins: dict[KeyPath, str] = field(default_factory=dict)
    """Key path to `file:line` or `command line`, in the order of reading."""
    faults: list[tuple[int, str]] = field(default_factory=list)

    def fault(self, path: KeyPath, message: str) -> None:
        known = next((path[:end] for end in range(len(path), 0, -1) if path[:end] in self.origins), None)
        position = list(self.origins).index(known) if known else -1
        self.faults.append((position, one_line(self.origins[known] if known else self.name, *_dotted(path), message)))

    def raise_faults(self) -> None:
        if self.faults:
            raise RecipeError("\n".join(dict.fromkeys(text for _, text in sorted(self.faults, key=lambda f: f[0]))))

    def error(self, path: KeyPath, message: str) -> RecipeError:
        """A fault after which nothing else can be said."""
        self.faults = []
        self.fault(path, message)
        return RecipeError(self.faults[0][1])


def one_line(*parts: str) -> str:
    """Parts of a message with colons between them; what a terminal would not print as a character is escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in ": ".join(parts))


def _dotted(path: KeyPath) -> list[str]:
    return [".".join(str(key) or "''" for key in path)] if path else []


def read_recipe(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), run_dir: str | None = None
) -> Recipe:
    """A recipe from a file, a shipped recipe's name or a mapping, with `key.path=value` overrides on top.

    The core's own sections are checked first, without importing torch; then the model's, by importing its plugin.

    Raises:
        RecipeError: all faults found, one a line, each with file, line and key path.
    """
    if isinstance(source, Mapping):
        where, folder = Source("recipe"), Path.cwd()
        content = _plain(source, (), where)
    else:
        file = find_recipe(str(source))
        where, folder = Source(str(file)), file.resolve().parent
        content = {"run_dir": f"runs/{file.stem}"} | parse_yaml(read_text(file), where)
    for override in overrides:
        apply_override(content, override, where)
    if run_dir is not None:
        content["run_dir"] = run_dir
    return _validate(_plain(content, (), where), where, folder)


def _validate(content: dict[str, Any], where: Source, folder: Path) -> Recipe:
    known = {"model", *_Core.model_fields}
    for key in content.keys() - known:
        where.fault((key,), f"unknown key; {did_you_mean(key, known)}")
    for key in ("model", "data", "trainer"):
        if not isinstance(content.setdefault(key, {}), dict):
            where.fault((key,), f"must be a section of keys, not {_shown(content[key])}")
    where.raise_faults()
    model, trainer = content.pop("model"), {"name": "accelerate"} | content["trainer"]
    init_from = model.pop("from", None)
    if init_from is None or "name" in model:
        _check_name("model", MODELS, model.get("name", ""), where)
    if init_from is not None and (not isinstance(init_from, str) or not init_from):
        where.fault(("model", "from"), f"must be a folder, not {_shown(init_from)}")
    _check_name("trainer", TRAINERS, trainer["name"], where)
    if trainer["name"] != "accelerate":  # the built-in trainer's keys are TrainerConfig's own
        where.raise_faults()
        trainer_class = _load("trainer", TRAINERS, trainer["name"], where, folder)
        content["trainer"] = _check(trainer_class.Config, trainer, ("trainer",), where)
    core = _check(_Core, {"run_dir": f"runs/{model.get('name', 'recipe')}"} | content, (), where)
    where.raise_faults()
    config = _model_config(model, init_from, where, folder)
    if config.sample_shape is None and core.data.size is not None:  # the rules for shapes can be checked already
        shape = (core.data.channels or 1, *core.data.size)
        _check(type(config), config.model_dump() | {"sample_shape": shape}, ("model",), where)
    values = {name: getattr(core, name) for name in _Core.model_fields}
    return Recipe(model=config, init_from=init_from, folder=folder, **values)


def _check_name(section: str, group: str, name: object, where: Source) -> None:
    if not isinstance(name, str) or not name:
        where.fault((section, "name"), f"must name a {section}; {did_you_mean('', plugin_names(group))}")
    elif ":" not in name:
        try:
            find_plugin(group, name)
        except PluginError as error:
            where.fault((section, "name"), str(error))


def _load(section: str, group: str, name: str, where: Source, folder: Path) -> Any:
    try:
        return load_class(group, name, folder)
    except PluginError as error:
        raise where.error((section, "name"), str(error)) from error


def _model_config(model: dict[str, Any], init_from: str | None, where: Source, folder: Path) -> ModelConfig:
    """The model's section as its plugin types it; with `from`, on top of the Config of the folder named there."""
    name = model.get("name", "")
    cls = _load("model", MODELS, name, where, folder) if init_from is None or ":" in name else None
    if init_from is not None:
        try:
            cls, base = read_model(find_checkpoint(Path(init_from)), cls)
        except CheckpointError as error:
            raise where.error(("model", "from"), str(error)) from error
        if name and name != base.name:
            raise where.error(("model", "name"), f"is '{name}', but {init_from} holds '{base.name}'")
        model = _merge(base.model_dump(), model)
    config: ModelConfig = _check(cls.Config, model, ("model",), where)  # type: ignore[union-attr]
    return config


def _check(cls: type[S], values: Any, at: KeyPath, where: Source) -> S:
    """`values` as a section; what is wrong with them becomes faults, and then an error."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        found: dict[KeyPath, list[str]] = {}
        for fault in error.errors(include_url=False):
            path, message = _explain(cls, values, fault)
            found.setdefault(path, []).append(message)
    for path, messages in found.items():  # a union's members each complain of the same key, or of one inside it
        if not any(other[: len(path)] == path for other in found if other != path):
            *others, last = dict.fromkeys(messages)
            where.fault(at + path, " or ".join([*(message.partition(", not ")[0] for message in others), last]))
    where.raise_faults()
    raise AssertionError("a section that is not valid has faults")


def _explain(cls: type[Section], values: Any, fault: ErrorDetails) -> tuple[KeyPath, str]:
    """The path of keys that pydantic's fault is about, and its message in our words, with the nearest right name."""
    loc, given, context = fault["loc"], fault["input"], fault.get("ctx", {})
    path = _existing(values, loc)
    match fault["type"]:
        case "extra_forbidden":
            return path, f"unknown key; {did_you_mean(str(loc[-1]), _fields(cls, loc[:-1]))}"
        case "missing" if isinstance(loc[-1], str):
            return (*path, loc[-1]), "is required"
        case "missing":
            return path, f"is too short: {_shown(given)}"
        case "literal_error":
            choices = [choice.strip("'") for choice in re.split(", | or ", context["expected"])]
            return path, f"can't be {_shown(given)}; {did_you_mean(str(given), choices)}"
        case "too_long":
            return path, f"has more than {context['max_length']} entries: {_shown(given)}"
        case "value_error":
            head, colon, rest = str(context["error"]).partition(": ")
            keys = tuple(head.split("."))  # a section's own rule may name the key inside it that it is about
            inside = colon and keys[0] in _fields(cls, loc)
            return ((*path, *keys), rest) if inside else (path, str(context["error"]))
    text = f"must be {KINDS[fault['type']]}" if fault["type"] in KINDS else fault["msg"].replace("Input should", "must")
    return path, f"{text[0].lower()}{text[1:]}, not {_shown(given)}"


def _existing(values: Any, loc: KeyPath) -> KeyPath:
    """`loc` without the names of union members that pydantic puts in, so that it is a path of keys."""
    path: list[str | int] = []
    for part in loc:
        index = isinstance(part, int) and isinstance(values, list | tuple) and part < len(values)
        if index or isinstance(values, Mapping) and part in values:
            values = values[part]
            path.append(part)
    return tuple(path)


def _fields(cls: type[Section], loc: KeyPath) -> set[str]:
    """Names of the fields of the section at `loc` below `cls`."""
    sections = [cls]
    for part in loc:
        nested = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
        sections = [found for annotation in nested for found in _sections(annotation)] or sections
    return {name for section in sections for name in section.model_fields}


def _sections(annotation: Any) -> list[type[Section]]:
    """The sections inside an annotation such as `EMAConfig | None` or `Mapping[str, OptimizerOverride]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for inner in get_args(annotation) for section in _sections(inner)]


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(value: Any, path: KeyPath, where: Source) -> Any:
    """A copy as YAML would give it; text that no file could hold becomes a fault."""
    if len(path) > MAX_DEPTH:
        raise where.error(path[:1], f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, (*path, str(key)), where) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, (*path, index), where) for index, inner in enumerate(value)]
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        where.fault(path, f"has a character that can't be written: {_shown(value)}")
    return value


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merge(base[key], value) if both else value
    return merged


# Files and names


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with genhub, by name: beside the package in a wheel, beside its folder in a checkout."""
    package = Path(__file__).parent
    inside = package / "recipes"
    folder = inside if inside.is_dir() else package.parent / "recipes"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """A path as it is, or a shipped recipe by its name.

    Raises:
        RecipeError: neither.
    """
    path, shipped = Path(name), shipped_recipes()
    try:
        if path.is_file():
            return path
        if name in shipped:
            return shipped[name]
        if path.is_dir():
            raise RecipeError(one_line(name or "''", "is a folder, not a recipe file"))
        siblings = [str(file) for file in path.parent.glob("*.y*ml")]
    except OSError as error:
        raise RecipeError(one_line(f"{name:.200}", str(error.strerror))) from error
    nearest = did_you_mean(name, [*shipped, *siblings])
    raise RecipeError(one_line(name, f"no such recipe file or shipped recipe; {nearest}"))


def read_text(file: Path) -> str:
    """A text file of bounded size.

    Raises:
        RecipeError: it can't be read, is larger, or is no text.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{file}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{file}: larger than {MAX_BYTES} bytes; is it a recipe?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: not a text file (byte {error.start} is not UTF-8)") from error


# YAML


class _Loader(yaml.SafeLoader):
    """Plain YAML alone: no aliases (they can grow without bound), no tags, no duplicate keys."""

    def __init__(self, text: str, where: Source) -> None:
        super().__init__(text)
        self.where = where

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise RecipeError(f"{self._at(event)}: '*{event.anchor}': aliases are not allowed; write the value out")
        if tag := event.tag:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise RecipeError(one_line(self._at(event), f"'{shown}': tags are not allowed; write the value alone"))
        return super().compose_node(parent, index)

    def value(self, node: Any, path: KeyPath) -> Any:
        self.where.origins.setdefault(path, self._at(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        # YAML 1.1 has dates, octal numbers and 1:30 for 90, all of them surprises here
        number = node.tag.endswith(("int", "float"))
        if node.tag not in PLAIN_TAGS or number and re.match(r"[-+]?0\w|.*:", node.value):
            raise self.where.error(path, f"{node.value}: write numbers in decimal digits, and text in quotes")
        if number and len(node.value) > 400:
            raise self.where.error(path, f"{node.value[:20]}...: a number of {len(node.value)} digits")
        return self.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{self._at(key_node)}: a key must be a word")
            key = key_node.value
            here = (*path, key)
            if key in values:
                first = self.where.origins[here]
                self.where.origins[here] = self._at(key_node)
                raise self.where.error(here, f"given twice (first at {first})")
            self.where.origins[here] = self._at(key_node)
            values[key] = self.value(value_node, here)
        return values

    def _at(self, node: Any) -> str:
        return f"{self.where.name}:{node.start_mark.line + 1}"


def parse_yaml(text: str, where: Source) -> dict[str, Any]:
    """The mapping in a YAML text; the keys' lines go into `where`.

    Raises:
        RecipeError: not YAML, not a mapping, or more than plain YAML.
    """
    content = _parse(text, where)
    if content is None:
        raise RecipeError(f"{where.name}: is empty; a recipe has at least a section `model`")
    if not isinstance(content, dict):
        raise RecipeError(f"{where.name}: must be a mapping of sections (model, data, trainer), not {_shown(content)}")
    return content


def _parse(text: str, where: Source) -> Any:
    try:
        loader = _Loader(text, where)
        node = loader.get_single_node()
        return None if node is None else loader.value(node, ())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        context = f"{error.context}, " if str(error.problem).startswith("but") else ""
        hint = " (indent with spaces)" if "'\\t'" in str(error.problem) else ""
        raise RecipeError(
            one_line(f"{where.name}:{line}", f"not valid YAML: {context}{error.problem}{hint}")
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(f"{where.name}:{line}: not a text: it has the character {error.character:#x}") from error
    except RecursionError as error:
        raise RecipeError(f"{where.name}: nested deeper than {MAX_DEPTH} levels") from error


def apply_override(content: dict[str, Any], override: str, where: Source, origin: str = "command line") -> None:
    """Set `key.path=value` in a recipe's content; the value is read as YAML.

    Raises:
        RecipeError: no `=`, an empty key, or a path through something that is not a section.
    """
    dotted, equals, text = override.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not equals or not all(keys):
        raise RecipeError(one_line(origin, f"'{override}' must look like key.path=value"))
    target = content
    for depth, key in enumerate(keys[:-1], start=1):
        if target.get(key) is None:
            target[key] = {}
        target = target[key]
        if not isinstance(target, dict):
            raise RecipeError(one_line(origin, dotted, f"{'.'.join(keys[:depth])} is a value, not a section"))
    target[keys[-1]] = _parse(text, Source(one_line(origin, dotted)))
    where.origins = {path: at for path, at in where.origins.items() if path[: len(keys)] != keys} | {keys: origin}
