"""A recipe: YAML and key=value overrides to a frozen `Recipe`. Nothing here imports torch until a plugin does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import Field, SerializeAsAny, ValidationError
from pydantic_core import ErrorDetails

from genhub.config import DataConfig, ModelConfig, NonNegativeInt, Section, TrainerConfig
from genhub.errors import CheckpointError, RecipeError, did_you_mean
from genhub.manifest import find_checkpoint, read_model
from genhub.registry import MODELS, TRAINERS, load_class, plugin_names

MAX_BYTES = 2**20
MAX_DEPTH = 32
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}

KeyPath = tuple[str | int, ...]
S = TypeVar("S", bound=Section)


class Recipe(Section):
    """A complete recipe: every key has its value, nothing is hidden."""

    model: SerializeAsAny[ModelConfig]
    data: DataConfig = DataConfig()
    trainer: SerializeAsAny[TrainerConfig] = TrainerConfig()
    seed: NonNegativeInt = 0
    """All randomness of training derives from it."""
    run_dir: str
    """Where the run's folder is; left out: runs/ and the recipe's name."""
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
        if self.init_from is not None:
            content["model"] = {"name": self.model.name, "from": self.init_from} | content["model"]
        return content

    def yaml(self) -> str:
        return yaml.safe_dump(self.dump(), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


@dataclass
class Source:
    """Where keys came from, and the faults found in them: a message names file, line and key path."""

    name: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overridden: set[KeyPath] = field(default_factory=set)
    faults: list[tuple[int, str]] = field(default_factory=list)

    def fault(self, path: KeyPath, message: str) -> None:
        origin, line = self.name, 0
        for end in range(len(path), 0, -1):  # the longest known prefix tells the line
            if path[:end] in self.overridden:
                origin = "command line"
            elif path[:end] in self.lines:
                line = self.lines[path[:end]]
            else:
                continue
            break
        where = f"{origin}:{line}" if line else origin
        keys = ".".join(map(str, path))
        self.faults.append((line, f"{where}: {keys}: {message}" if keys else f"{where}: {message}"))

    def raise_faults(self) -> None:
        if self.faults:
            raise RecipeError("\n".join(dict.fromkeys(text for _, text in sorted(self.faults, key=lambda f: f[0]))))


def read_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), run_dir: str | None = None) -> Recipe:
    """A recipe from a file, a shipped recipe's name or a mapping, with `key.path=value` overrides on top.

    The core's own sections are checked first, without importing torch; then the model's, by importing its plugin.

    Raises:
        RecipeError: all faults found, one a line, each with file, line and key path.
        PluginError: the model's or trainer's plugin is broken.
    """  # fmt: skip
    if isinstance(source, Mapping):
        where, folder, content = Source("recipe"), Path.cwd(), _copy(source)
    else:
        file = find_recipe(str(source))
        where, folder = Source(str(source)), file.resolve().parent
        content = parse_yaml(read_text(file), where)
    for override in overrides:
        apply_override(content, override, where)
    if run_dir is not None:
        content["run_dir"] = run_dir
    if not isinstance(source, Mapping):
        content.setdefault("run_dir", f"runs/{Path(source).stem}")
    return _validate(content, where, folder)


def _validate(content: dict[str, Any], where: Source, folder: Path) -> Recipe:
    known = set(Recipe.model_fields) - {"init_from", "folder"}
    for key in content.keys() - known:
        where.fault((key,), f"unknown key; {did_you_mean(str(key), known)}")
    trainer_name = _mapping(content, "trainer", where).get("name", "accelerate")
    model = _mapping(content, "model", where, required=True)
    sections = {key: value for key, value in content.items() if key in known - {"model"}}
    init_from = model.pop("from", None)
    if model and "name" not in model and init_from is None or not isinstance(model.get("name", ""), str):
        where.fault(("model", "name"), f"must name a model; {did_you_mean('', plugin_names(MODELS))}")
    for group, section, name in [(MODELS, "model", model.get("name")), (TRAINERS, "trainer", trainer_name)]:
        if isinstance(name, str) and ":" not in name and name not in plugin_names(group):
            where.fault((section, "name"), f"no {section} is called '{name}'; {did_you_mean(name, plugin_names(group))}")
    if trainer_name != "accelerate":  # the built-in trainer's keys are TrainerConfig's own
        where.raise_faults()
        cls = load_class(TRAINERS, trainer_name, folder)
        sections["trainer"] = _check(cls.Config, sections["trainer"], ("trainer",), where)
    core = _check(_Core, {"run_dir": "", **sections}, (), where)
    where.raise_faults()
    config = _model_config(model, init_from, core.data, where, folder)
    if config.sample_shape is None and core.data.size is not None:  # the rules for shapes can be checked already
        shape = (core.data.channels or 1, *core.data.size)
        _check(type(config), config.model_dump() | {"sample_shape": shape}, ("model",), where)
    where.raise_faults()
    values = {name: getattr(core, name) for name in type(core).model_fields}
    return Recipe(model=config, init_from=init_from, folder=folder, **values)


class _Core(Section):
    """What can be checked without a model's plugin."""

    data: DataConfig = DataConfig()
    trainer: SerializeAsAny[TrainerConfig] = TrainerConfig()
    seed: NonNegativeInt = 0
    run_dir: str


def _model_config(
    model: dict[str, Any], init_from: object, data: DataConfig, where: Source, folder: Path
) -> ModelConfig:
    """The model's section as its plugin types it; with `from`, on top of the Config of the folder named there."""
    if init_from is None:
        cls = load_class(MODELS, model["name"], folder)
        return cast(ModelConfig, _check(cls.Config, model, ("model",), where))
    try:
        cls, config = read_model(find_checkpoint(Path(str(init_from))))
    except CheckpointError as error:
        raise RecipeError(f"{where.name}: model.from: {error}") from error
    name = model.get("name", config.name)
    if name != config.name:
        where.fault(("model", "name"), f"is '{name}', but {init_from} holds '{config.name}'")
        where.raise_faults()
    return cast(ModelConfig, _check(cls.Config, _merge(config.model_dump(), model), ("model",), where))


def _check(cls: type[S], values: Any, at: KeyPath, where: Source) -> S:
    """`values` as a section; what is wrong with them becomes faults, and then an error."""
    if isinstance(values, cls):
        return values
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        messages: dict[KeyPath, list[str]] = {}
        for fault in error.errors():
            path = _existing(values, fault["loc"], fault["type"])
            messages.setdefault(path, []).append(_message(cls, fault))
        for path, texts in messages.items():  # a union's members each complain of the same key
            where.fault(at + path, " or ".join(dict.fromkeys(texts)))
    where.raise_faults()
    raise AssertionError("unreachable")


def _existing(values: Any, loc: KeyPath, kind: str) -> KeyPath:
    """`loc` without the names of union members that pydantic puts in, so that it is a path of keys."""
    path: list[str | int] = []
    for part in loc:
        inside = isinstance(values, Mapping) and part in values
        if inside or isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
            path.append(part)
        elif kind == "missing" and isinstance(values, Mapping):
            path.append(part)
    return tuple(path)


def _message(cls: type[Section], fault: ErrorDetails) -> str:
    """pydantic's message in our words, with the nearest right name where a name is wrong."""
    given, context = fault["input"], fault.get("ctx", {})
    match fault["type"]:
        case "extra_forbidden":
            return f"unknown key; {did_you_mean(str(fault['loc'][-1]), _fields(cls, fault['loc'][:-1]))}"
        case "missing":
            return "is required" if isinstance(fault["loc"][-1], str) else f"is too short: {given!r}"
        case "literal_error":
            choices = [choice.strip("' ") for choice in context["expected"].replace(" or ", ",").split(",")]
            return f"must be one of {', '.join(choices)}, not {given!r}; {did_you_mean(str(given), choices)}"
        case "value_error":
            return str(context["error"])
    text = fault["msg"].replace("Input should be", "must be")
    return f"{text[0].lower()}{text[1:]}, not {given!r}"


def _fields(cls: Any, loc: KeyPath) -> Iterator[str]:
    """Names of the fields of the section at `loc` below `cls`."""
    sections = [cls]
    for part in loc:
        nested = [s.model_fields[part].annotation for s in sections if part in s.model_fields]
        sections = [found for annotation in nested for found in _sections(annotation)] or sections
    return (name for section in sections for name in section.model_fields)


def _sections(annotation: Any) -> list[Any]:
    """The sections inside an annotation such as `EMAConfig | None` or `Mapping[str, OptimizerOverride]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for inner in get_args(annotation) for section in _sections(inner)]


def _mapping(content: dict[str, Any], key: str, where: Source, required: bool = False) -> dict[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        where.fault((key,), f"must be a section of keys, not {value!r}")
        content.pop(key)
        return {}
    if required and not value:
        where.fault((key,), "is required: name a model and its options")
    return cast(dict[str, Any], value)


def _copy(value: Any) -> Any:
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


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
    if path.is_file():
        return path
    if name in shipped:
        return shipped[name]
    if path.is_dir():
        raise RecipeError(f"{name}: is a folder, not a recipe file")
    siblings = [str(file) for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    raise RecipeError(f"{name}: no such recipe file or shipped recipe; {did_you_mean(name, [*shipped, *siblings])}")


def read_text(file: Path) -> str:
    """A text file of bounded size."""
    try:
        content = file.read_bytes()
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
        if self.check_event(yaml.AliasEvent):  # type: ignore[no-untyped-call]
            event = self.get_event()  # type: ignore[no-untyped-call]
            raise RecipeError(f"{self._at(event)}: '*{event.anchor}': aliases are not allowed; write the value out")
        return super().compose_node(parent, index)  # type: ignore[no-untyped-call]

    def value(self, node: Any, path: KeyPath) -> Any:
        self.where.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > MAX_DEPTH:
            raise RecipeError(f"{self._at(node)}: nested deeper than {MAX_DEPTH} levels")
        if node.tag not in PLAIN_TAGS:
            tag = node.tag.removeprefix("tag:yaml.org,2002:")
            hint = "put it in quotes" if tag == "timestamp" else "tags are not allowed"
            raise RecipeError(f"{self._at(node)}: {'.'.join(map(str, path))}: {tag}: {hint}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        return self.construct_object(node)  # type: ignore[no-untyped-call]

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{self._at(key_node)}: a key must be a word")
            key = key_node.value
            if key in values:
                first = self.where.lines[(*path, key)]
                keys = ".".join(map(str, (*path, key)))
                raise RecipeError(f"{self._at(key_node)}: {keys}: given twice (first in line {first})")
            self.where.lines[(*path, key)] = key_node.start_mark.line + 1
            values[key] = self.value(value_node, (*path, key))
        return values

    def _at(self, node: Any) -> str:
        return f"{self.where.name}:{node.start_mark.line + 1}"


def parse_yaml(text: str, where: Source) -> dict[str, Any]:
    """The mapping in a YAML text; line numbers go into `where`.

    Raises:
        RecipeError: not YAML, not a mapping, or more than plain YAML.
    """
    content = _parse(text, where, ())
    if content is None:
        raise RecipeError(f"{where.name}: is empty; a recipe has at least a section `model`")
    if not isinstance(content, dict):
        raise RecipeError(f"{where.name}: must be a mapping of sections (model, data, trainer), not {content!r:.60}")
    return content


def _parse(text: str, where: Source, path: KeyPath) -> Any:
    try:
        loader = _Loader(text, where)
        node = loader.get_single_node()  # type: ignore[no-untyped-call]
        return None if node is None else loader.value(node, path)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        hint = " (indent with spaces)" if "'\\t'" in str(error.problem) else ""
        raise RecipeError(f"{where.name}:{line}: not valid YAML: {error.problem}{hint}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{where.name}: not a YAML text: {str(error).splitlines()[0]}") from error
    except (RecursionError, ValueError) as error:  # nesting past any use; numbers and dates that can't be
        raise RecipeError(f"{where.name}: not a recipe: {error}") from error


def apply_override(content: dict[str, Any], override: str, where: Source) -> None:
    """Set `key.path=value` in a recipe's content; the value is read as YAML.

    Raises:
        RecipeError: no `=`, an empty key, or a path through something that is not a section.
    """
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"command line: '{override}': overrides look like trainer.max_steps=100")
    target = content
    for depth, key in enumerate(keys[:-1]):
        if target.get(key) is None:
            target[key] = {}
        target = target[key]
        if not isinstance(target, dict):
            raise RecipeError(f"command line: {dotted}: {'.'.join(keys[: depth + 1])} is a value, not a section")
    target[keys[-1]] = _parse(text, Source(f"command line: {dotted}"), ())
    where.overridden.add(tuple(keys))
