"""Read a recipe: from YAML and key=value overrides to a frozen `Recipe`. Nothing here imports torch until a plugin does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import Field, PrivateAttr, SerializeAsAny, ValidationError, model_validator
from pydantic_core import ErrorDetails

from genhub.errors import InputError, RecipeError, did_you_mean, explained, shown
from genhub.ground.brief import line
from genhub.ground.ids import HUB, split_id
from genhub.ground.parsing import COMMAND_LINE, KeyPath, TextSource, apply_override, parse_yaml, plain, read_text, to_yaml
from genhub.hub.named import NamedModel, find_recipe_of
from genhub.hub.push import check_id
from genhub.interfaces.columns import DataConfig, DataSpec, ModelData
from genhub.interfaces.config import ModelConfig, TrainerConfig
from genhub.interfaces.registry import MODELS, TRAINERS, find_plugin, load_class, plugin_names
from genhub.interfaces.section import FROM_HUB, MAY_CHANGE, NonNegativeInt, NotOnTheHub, Section
from genhub.recipe.hints import GONE, key_paths, where_it_belongs
from genhub.recipe.optimizers import optimizer_faults
from genhub.recipe.sections import AccelerateConfig, EvaluateConfig, HubConfig
from genhub.recipe.shipped import find_recipe, whole_recipe
from genhub.recipe.theirs import check_theirs, without_own
from genhub.store.classes import read_model

S = TypeVar("S", bound=Section)
ORIGIN = "# From "
"""Start of the first line of a recipe.yaml whose recipe is from the Hub; hf://user/name follows."""
MOST_READINGS = 4
"""Most members of a union that a message lists where none takes the value."""


class _Core(Section):
    """Sections that can be checked without the model's plugin; another trainer's section comes here as its own Config."""

    data: DataConfig = DataConfig()
    trainer: SerializeAsAny[TrainerConfig]
    evaluate: Annotated[EvaluateConfig | None, MAY_CHANGE] = None
    """Measure the model while it trains; null: don't."""
    hub: Annotated[HubConfig | None, MAY_CHANGE] = None
    """Push checkpoints to the Hub while training; null: don't."""
    seed: NonNegativeInt = 0
    """All randomness of training derives from it."""
    run_dir: Annotated[str, MAY_CHANGE] = Field(min_length=1)
    """The run's folder; left out: runs/ and the recipe's name."""

    @model_validator(mode="after")
    def _measures_what_it_saves(self) -> Self:
        if self.evaluate and self.evaluate.every % self.trainer.save_every:
            every, save = self.evaluate.every, self.trainer.save_every
            above = -(-every // save) * save
            raise ValueError(
                f"evaluate.every: {every} must be a multiple of trainer.save_every ({save}), as checkpoints are measured; "
                f"{above} is the next"
            )
        if self.evaluate and self.data.streaming:
            raise ValueError("evaluate: a stream's rows are not at hand to compare with; genhub evaluate does it afterwards")
        return self

    @model_validator(mode="after")
    def _is_an_id(self) -> Self:
        if self.hub:
            try:
                check_id(self.hub.repo_id)
            except InputError as error:
                raise ValueError(f"hub.repo_id: {error}") from error
        return self


class _BuiltIn(_Core):
    trainer: AccelerateConfig = AccelerateConfig()


class Recipe(_Core):
    """A complete recipe: every key has its value, nothing is hidden."""

    model: SerializeAsAny[ModelConfig]
    init_from: str | None = Field(default=None, exclude=True)
    """`model.from`: the folder or Hub id whose weights training starts with."""
    folder: Path | None = Field(default=Path(), exclude=True)
    """The recipe file's folder, where `module:Class` names are looked up; None: a recipe from the Hub, for which only
    registered names count."""
    origin: str | None = Field(default=None, exclude=True)
    """Address of a recipe from the Hub, hf://user/name; None: the user's own."""
    left_out: tuple[str, ...] = Field(default=(), exclude=True)
    """Keys of a recipe from the Hub that are for whoever trains to say."""

    _initial: NamedModel | None = PrivateAttr(default=None)
    _known: ModelData | None = PrivateAttr(default=None)

    def __repr__(self) -> str:
        return line(type(self).__name__, self.model.name, f"data {self.data.title}", f"run {self.run_dir}")

    @property
    def initial(self) -> NamedModel | None:
        """The model that `model.from` names: the one that the recipe was checked with, and not looked up again."""
        return self._initial or (None if self.init_from is None else NamedModel(self.init_from))

    def model_class(self) -> Any:
        return load_class(MODELS, self.model.name, self.folder)

    def trainer_class(self) -> Any:
        return load_class(TRAINERS, self.trainer.name, self.folder)

    @property
    def known(self) -> ModelData | None:
        """The columns of the model that `model.from` names, by which the data are read; None without `from`."""
        return self._known

    def filled_from(self, spec: DataSpec) -> Recipe:
        """Return this recipe with the model's `data` as they were learnt, checked again.

        Raises:
            RecipeError: the model can't be made for these columns.
        """
        where, values = TextSource("recipe and data"), self.model.model_dump() | {"data": spec.model_data}
        return self.model_copy(update={"model": _check(type(self.model), values, ("model",), where)})

    def dump(self) -> dict[str, Any]:
        """Return the recipe as plain dictionaries, as it would be written in YAML."""
        content = self.model_dump(mode="json")
        model = content.pop("model")
        model.pop("data")  # which the data fill in
        if self.init_from is not None:
            model = {"name": self.model.name, "from": self.init_from} | model
        return {"model": model} | content

    def yaml(self) -> str:
        return (f"{ORIGIN}{self.origin}\n" if self.origin else "") + to_yaml(self.dump())


RecipeLike = str | Path | Mapping[str, Any] | Recipe


def read_recipe(source: RecipeLike, overrides: Sequence[str] = (), run_dir: str | None = None) -> Recipe:
    """Return a recipe from a file, a shipped recipe's name, a mapping or a Recipe, with `key.path=value` overrides on top. A
    Recipe with nothing on top has been checked, and is returned as it is.

    The core's own sections are checked first, without importing torch; then the model's, by importing its plugin.

    Raises:
        RecipeError: all faults found, one a line, each with file, line and key path.
    """
    if isinstance(source, Recipe) and not overrides and run_dir is None:
        return source
    origin, left_out = None, list[str]()
    folder: Path | None = Path.cwd()
    if isinstance(source, Recipe | Mapping):
        where = TextSource("recipe")
        if isinstance(source, Recipe):
            folder, origin, left_out = source.folder, source.origin, list(source.left_out)
        content = plain(source.dump() if isinstance(source, Recipe) else source, (), where)
    elif split_id(source) is not None:
        repo_id, file = find_recipe_of(str(source))
        where, folder, origin = TextSource(f"{repo_id}: recipe.yaml", theirs=True), None, f"{HUB}{repo_id}"
        content, left_out = without_own(parse_yaml(read_text(file), where))
        content["run_dir"] = f"runs/{repo_id.replace('/', '--')}"
    else:
        file = find_recipe(str(source))
        where, folder, text = TextSource(str(file)), file.resolve().parent, read_text(whole_recipe(file))
        content, origin = {"run_dir": f"runs/{file.stem}"} | parse_yaml(text, where), origin_in(text)
    for override in overrides:
        apply_override(content, override, where)
    if run_dir is not None:
        content["run_dir"] = run_dir
    content = plain(content, (), where)
    if where.theirs:
        content = check_theirs(content, where)
    where.raise_faults()
    return _validate(content, where, folder).model_copy(update={"origin": origin, "left_out": tuple(left_out)})


def origin_in(text: str) -> str | None:
    """Return hf://user/name from the text of a recipe.yaml whose recipe is from the Hub; None for a user's own."""
    found = re.match(rf"{ORIGIN}({HUB}\S+)\n", text)
    return found[1] if found else None


def read_data_config(file: Path | None, overrides: Sequence[str] = (), theirs: str | None = None) -> DataConfig:
    """Return the data that a run's recipe.yaml names, with `data.key=value` overrides on top; what model and trainer it has
    does not matter. Without a file, what the overrides say.

    Args:
        theirs: the repository that the file is from, if it is not the user's own.
    Raises:
        RecipeError: an override of something else, or data that can't be right.
    """
    where = TextSource(str(file) if file else COMMAND_LINE)
    if theirs and file:
        where = TextSource(f"{theirs}: recipe.yaml", theirs=True)
    content = parse_yaml(read_text(file), where) if file else {}
    for override in overrides:
        if not override.startswith("data."):
            raise RecipeError(f"{COMMAND_LINE}: {shown(override)}: the model is trained; only data.key=value can differ")
        apply_override(content, override, where)
    data = plain(content.get("data", {}), ("data",), where)
    if where.theirs:
        data = check_theirs({"data": data}, where)["data"]
    where.raise_faults()
    return _check(DataConfig, data, ("data",), where)


def _validate(content: dict[str, Any], where: TextSource, folder: Path | None) -> Recipe:
    known = {"model", *_Core.model_fields}
    for key in content.keys() - known:
        where.fault((key,), partial(_unknown, key, known, key_paths(_BuiltIn)))
    for key in ("model", "data", "trainer"):
        if not isinstance(content.setdefault(key, {}), dict):
            where.fault((key,), f"must be a section of keys, not {shown(content[key])}")
            where.raise_faults()
    model, trainer = content["model"], {"name": "accelerate"} | content["trainer"]
    if trainer.get("max_time") is not None and "max_steps" in trainer:  # a time may stand in for a file's steps
        steps = ("trainer", "max_steps")
        if where.origin(steps) == COMMAND_LINE:
            where.fault(steps, "changes nothing beside trainer.max_time; add trainer.max_time=null, or leave it out")
    init_from = model.pop("from", None)
    for section, group, values in [("trainer", TRAINERS, trainer), ("model", MODELS, model)]:
        name = values.get("name")
        if not isinstance(name, str) and ("name" in values or init_from is None):
            where.fault((section, "name"), f"must name a {section}; {did_you_mean('', plugin_names(group))}")
        elif name is not None and ":" not in name:
            with where.blaming(section, "name"):
                find_plugin(group, name)
    if init_from is not None and (not isinstance(init_from, str) or not init_from):
        where.fault(("model", "from"), f"must be a folder or a Hub id, not {shown(init_from)}")
    if str(trainer["name"]) != "accelerate":  # the built-in trainer's keys are AccelerateConfig, checked without torch
        where.raise_faults()
        with where.blaming("trainer", "name"):
            trainer_class = load_class(TRAINERS, trainer["name"], folder)
        where.raise_faults()
        _refuse_folders(trainer_class.Config, trainer, ("trainer",), where)
        content["trainer"] = _check(trainer_class.Config, trainer, ("trainer",), where)
    content.setdefault("run_dir", f"runs/{model.get('name', 'recipe')}")
    values = {key: content[key] for key in content.keys() & _Core.model_fields.keys()}
    core = _check(_BuiltIn if trainer["name"] == "accelerate" else _Core, values, (), where)
    where.raise_faults()
    initial = None if init_from is None else NamedModel(init_from)
    config, columns = _model_config(model, initial, where, folder)
    if isinstance(core.trainer, AccelerateConfig):  # its optimizers are known to torch, which the model has imported
        for path, mistake in optimizer_faults(core.trainer, folder).items():
            where.fault(("trainer", *path), mistake)
        where.raise_faults()
    values = {name: getattr(core, name) for name in _Core.model_fields}
    recipe = Recipe(model=config, init_from=init_from, folder=folder, **values)
    recipe._initial, recipe._known = initial, columns
    return recipe


def _model_config(
    model: dict[str, Any], initial: NamedModel | None, where: TextSource, folder: Path | None
) -> tuple[ModelConfig, ModelData | None]:
    """Return the model's section as its plugin types it; with `from`, on top of the Config of the folder named there, and
    the columns of that model."""
    cls, name, given, known = None, model.get("name", ""), model, None
    if "data" in model:
        where.fault(("model", "data"), "unknown key; the columns are filled in from the section `data`")
        where.raise_faults()
    if initial is None or ":" in name:
        with where.blaming("model", "name"):
            cls = load_class(MODELS, name, folder)
        where.raise_faults()
    if initial is not None:
        with where.blaming("model", "from"):
            cls, base = initial.read(lambda folder: read_model(folder, cls), weights=False)
            known, keys = base.data, base.model_dump(exclude={"data"})
            if name not in ("", base.name):
                cls = load_class(MODELS, name, folder)
                keys = cls.Config.keys_from(base)
                if keys is None:
                    raise RecipeError(f"{initial.source} holds '{base.name}', and model.name is '{name}'")
            model = _merge(keys, model)
        where.raise_faults()
    assert cls is not None
    _refuse_folders(cls.Config, model, ("model",), where)
    config: ModelConfig = _check(cls.Config, model, ("model",), where)
    for key, mistake in (_without_conditions(config) | dict(config.mistakes())).items():
        if _has(given, path := tuple(key.split("."))):
            where.fault(("model", *path), mistake)
    where.raise_faults()
    return config, known


def _without_conditions(config: ModelConfig) -> dict[str, str]:
    """Return the core's own key of a model that changes nothing where it is given nothing."""
    default = type(config).model_fields["condition_dropout"].default
    idle = not config.conditions and config.condition_dropout != default
    return {"condition_dropout": "changes nothing without conditions; leave it out"} if idle else {}


def _refuse_folders(cls: type[Section], values: dict[str, Any], at: KeyPath, where: TextSource) -> None:
    """Check that a recipe from the Hub names no model by a path, but where the command line does."""
    if not where.theirs:
        return
    try:
        cls.model_validate(values, context=FROM_HUB)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            path, cause = at + _existing(values, fault["loc"]), fault.get("ctx", {}).get("error")
            if isinstance(cause, NotOnTheHub) and where.origin(path) != COMMAND_LINE:
                where.fault(path, str(cause))
    where.raise_faults()


def _has(content: Any, path: Sequence[str]) -> bool:
    return not path or (isinstance(content, Mapping) and path[0] in content and _has(content[path[0]], path[1:]))


def _check(cls: type[S], values: Any, at: KeyPath, where: TextSource) -> S:
    """Return `values` as a section; what is wrong with them becomes faults, and then an error."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for fault in faults:
        found.setdefault(_path(cls, values, fault), []).append(fault)
    inner = {path[:end] for path in found for end in range(len(path))}
    for path, same in found.items():  # a union's members each complain of the same key, or of one inside it
        if path not in inner:
            where.fault(at + path, partial(_words, cls, values, same, at))
    where.raise_faults()
    raise AssertionError("a section that is not valid has faults")


def _path(cls: type[Section], values: Any, fault: ErrorDetails) -> KeyPath:
    """Return the path of the key that pydantic's fault is about."""
    path, keys = _existing(values, fault["loc"]), fault["loc"][-1:]
    if fault["type"] == "missing":
        return (*path, *keys)
    return path + _blamed(cls, values, fault)[0]


def _blamed(cls: type[Section], values: Any, fault: ErrorDetails) -> tuple[KeyPath, str]:
    """Split what a section's own rule says into the path of the key that it names, () for none, and the rest."""
    message = explained(fault)
    head, _, rest = message.partition(": ")
    keys = tuple(head.split("."))
    named = fault["type"] == "value_error" and keys[0] in _fields(cls, values, fault["loc"])
    return (keys, rest) if named else ((), message)


def _words(cls: type[Section], values: Any, faults: Sequence[ErrorDetails], at: KeyPath) -> str:
    """Return what is wrong with one key: the nearest right name, or all complaints in a line with the value once."""
    first = faults[0]
    if first["type"] == "extra_forbidden":
        paths = dict.fromkeys([*key_paths(_BuiltIn), *key_paths(cls, "".join(f"{key}." for key in at))])
        own = ".".join(map(str, (*at, *first["loc"])))  # which another trainer may have
        if own in GONE:
            return f"unknown key; {GONE[own]}"
        everywhere = [path for path in paths if path != own]
        return _unknown(str(first["loc"][-1]), _fields(cls, values, first["loc"][:-1]), everywhere)
    said = {_blamed(cls, values, fault)[1]: f", not {shown(fault['input'])}" for fault in faults}
    *others, last = sorted(said, key=lambda message: not message.endswith(said[message]))[-MOST_READINGS:]  # hints end it
    return " or ".join([*(message.removesuffix(said[message]) for message in others), last])


def _unknown(key: str, known: Iterable[str], everywhere: Iterable[str]) -> str:
    return f"unknown key; {where_it_belongs(key, known, everywhere)}"


def _existing(values: Any, loc: KeyPath) -> KeyPath:
    """Return `loc` as a path of keys: without the names of union members that pydantic puts in."""
    path: list[str | int] = []
    for part in loc:
        keys = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
        if part in keys:
            values = values[part]
            path.append(part)
    return tuple(path)


def _fields(annotation: Any, values: Any, loc: KeyPath) -> set[str]:
    """Return the names of the fields at `loc` in the sections of an annotation such as `EMAConfig | None`, for values whose
    own names may say which section it is."""
    if not (isinstance(annotation, type) and issubclass(annotation, Section)):
        return {name for inner in get_args(annotation) for name in _fields(inner, values, loc)}
    fields = annotation.class_for(values).model_fields
    if not loc:
        return set(fields)
    if loc[0] not in fields:
        return _fields(annotation, values, loc[1:])
    return _fields(fields[loc[0]].annotation, values.get(loc[0]) if isinstance(values, Mapping) else None, loc[1:])


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merge(base[key], value) if both else value
    return merged
