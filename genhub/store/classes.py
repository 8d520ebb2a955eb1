"""Find the class and the Config of the model in a folder. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from genhub.errors import CheckpointError, NewerFormat, PluginError, first_fault
from genhub.interfaces.columns import ModelData
from genhub.interfaces.config import ModelConfig
from genhub.interfaces.registry import FORMATS, MODELS, load_class, plugin_names, plugin_of
from genhub.interfaces.section import STORED, Section
from genhub.store.find import foreign_format, weight_bytes
from genhub.store.manifest import (
    CODE,
    FORMAT,
    MANIFEST,
    MAX_JSON_BYTES,
    TRAINER_PART,
    FileEntry,
    Manifest,
    PluginEntry,
    newer_version,
    read_json,
    read_manifest,
    written_by,
)
from genhub.store.usage import Usage

if TYPE_CHECKING:
    from genhub.interfaces.model import Model


class StoredModel(Section):
    """Description of a model: enough to build it again, without its weights. For models that have another one inside."""

    plugin: PluginEntry
    config: dict[str, Any]
    """The model's Config."""

    @classmethod
    def of(cls, model: Model, **values: Any) -> Self:
        """Return the description of a model; `values` are the keys of a class derived from this one."""
        plugin, own = plugin_of(MODELS, type(model)), type(model)
        entry = PluginEntry(
            name=plugin.name if plugin else f"{own.__module__}:{own.__qualname__}",
            distribution=plugin.distribution if plugin else "",
            version=plugin.version if plugin else "",
        )
        return cls(plugin=entry, config=model.config.model_dump(mode="json"), **values)

    def build(self) -> Model:
        """Return the model, its weights new. Only registered names count.

        Raises:
            CheckpointError: its plugin is not installed, or its Config is not valid.
        """
        model: Model = _plugin_class(self.plugin, "")(self.typed_config())
        return model

    @classmethod
    def from_format_1(cls, stored: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """Return this format's keys for a description that genhub stored in format 1: see `ModelConfig.from_format_1`."""
        name = stored["plugin"]["name"]
        if name not in plugin_names(MODELS):  # `build` says so
            return stored
        return stored | {"config": load_class(MODELS, name).Config.from_format_1(stored["config"], data)}

    def typed_config(self) -> ModelConfig:
        """Return the Config as the model's own class types it.

        Raises:
            CheckpointError: see `build`.
        """
        return read_config(_plugin_class(self.plugin, ""), self.config, self.plugin.name)


def read_model(folder: Path, cls: type[Any] | None = None) -> tuple[type[Any], ModelConfig]:
    """Return the class and Config of a checkpoint or of a folder that another library saved.

    Args:
        cls: the caller's own class. Without it only registered names count: a checkpoint imports nothing else.
    Raises:
        CheckpointError: damaged, its Config is not valid, or its plugin is not installed.
    """
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        cls = cls or _plugin_class(manifest.plugin, f"{folder}: ", manifest.code)
        try:
            config = manifest.config if manifest.format == FORMAT else _from_format_1(cls, folder)
            return cls, read_config(cls, config, f"{folder / MANIFEST}: config")
        except CheckpointError as error:
            if newer_version(manifest.genhub):  # a Config may have learned a key, in a manifest as it was
                raise NewerFormat(f"{error}; it {written_by(manifest.model_dump())}") from error
            raise
    try:
        cls = cls or load_class(FORMATS, foreign_format(folder) or "")
        return cls, cls.config_from_foreign(folder)
    except PluginError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a plugin's reader meets JSON of any shape
        reason = first_fault(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{folder}: its config can't be read: {reason}") from error


def _from_format_1(cls: type[Any], folder: Path) -> dict[str, Any]:
    """Return the Config in a folder of format 1 with the keys that its class has now."""
    stored = read_json(folder / MANIFEST)
    given = {"conditions": ["label"]} if "labels" in (stored.get("conditions") or ()) else {}
    try:
        config: dict[str, Any] = cls.Config.from_format_1(stored["config"] | given, stored.get("data") or {})
        return config
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a plugin's own, of JSON of any shape
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{folder / MANIFEST}: its config of format 1 can't be read: {reason}") from error


def _plugin_class(plugin: PluginEntry, where: str, code: FileEntry | None = None) -> Any:
    if plugin.name in plugin_names(MODELS):
        try:
            return load_class(MODELS, plugin.name)
        except PluginError as error:
            raise CheckpointError(f"{where}{error}") from error
    needs = f"{where}this model needs '{plugin.name}' from"
    if plugin.distribution:
        raise CheckpointError(f"{needs} {plugin.distribution} {plugin.version}: pip install {plugin.distribution}")
    if code is not None:
        raise CheckpointError(
            f"{needs} its author's own code, {CODE} in the repository; read it, then load with trust_remote_code=True"
        )
    own = plugin.name.partition(":")[2] or plugin.name
    raise CheckpointError(f"{needs} your own code: {own}.from_pretrained loads it")


def read_config(cls: type[Any], config: dict[str, Any], where: str) -> ModelConfig:
    """Return a stored Config, as `cls` types it.

    Raises:
        CheckpointError: it is not valid for this class.
    """
    try:
        typed: ModelConfig = cls.Config.model_validate(config, context=STORED)
        return typed
    except ValidationError as error:
        raise CheckpointError(f"{where}: {first_fault(error)}") from error


def describe_folder(folder: Path) -> dict[str, Any]:
    """Return facts about a model folder; if its weights are a pickle, a `note` says so."""
    _, config = read_model(folder)
    facts: dict[str, Any] = {"folder": str(folder), "parameters": sum(map(_parameters, folder.rglob("*.safetensors")))}
    try:
        weight_bytes(folder)
    except CheckpointError as error:
        facts |= {"parameters": None, "note": str(error)}
    if not (folder / MANIFEST).is_file():
        return facts | described_columns(config.data) | {
            "plugin": {"name": config.name}, "config": config.model_dump(mode="json")}  # fmt: skip
    return facts | described_manifest(read_manifest(folder), str(folder))


def described_manifest(manifest: Manifest, source: str) -> dict[str, Any]:
    """Return facts about a model, from its genhub.json alone, and how one draws from it, by the folder or repository that it
    is loaded from."""
    told = described_columns(manifest.columns) | Usage(manifest, source).facts()
    return told | manifest.model_dump(mode="json", exclude={"checksum"})


def described_columns(data: ModelData | None) -> dict[str, Any]:
    """Return what a model draws, and what it can be told."""
    if data is None:
        return {}
    target = data.target
    drawn = {"modality": target.modality, "shape": list(target.shape), **target.facts()}
    return {
        "draws": {data.column: drawn},
        "can be told": {name: modality.told() for name, modality in data.conditions.items()},
    }


def _parameters(file: Path) -> int:
    """Return how many numbers a file of weights holds, from its header alone; 0 for the trainer's part."""
    if file.parent.name == TRAINER_PART:
        return 0
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(min(int.from_bytes(stream.read(8), "little"), MAX_JSON_BYTES)))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error
