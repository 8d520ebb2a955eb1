"""`genhub.json`: what a model folder holds, so that it can be checked before anything is built. No torch here.

A folder is one of: a checkpoint (has genhub.json), a run (has checkpoints/), or one that another library saved and a
plugin reads (its JSON has a `_class_name` registered under `genhub.formats`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from packaging.version import InvalidVersion, Version
from pydantic import ValidationError

from genhub.config import STORED, DataSpec, ModelConfig, NonNegativeInt, Section
from genhub.errors import CheckpointError, NewerFormat, PluginError
from genhub.registry import FORMATS, MODELS, load_class, plugin_names, plugin_of

if TYPE_CHECKING:
    from genhub.interfaces import GenerativeModel

FORMAT = 1
FILE = "genhub.json"
MAX_JSON_BYTES = 16 * 2**20


class FileEntry(Section):
    size: NonNegativeInt
    sha256: str


class PluginEntry(Section):
    name: str
    distribution: str
    version: str


class StoredModel(Section):
    """A model described: enough to build it again, its weights apart. For models that have another one inside."""

    plugin: PluginEntry
    config: dict[str, Any]
    """The model's Config."""

    @classmethod
    def of(cls, model: GenerativeModel, **values: Any) -> Self:
        """The description of a model; `values` are the keys of a class derived from this one."""
        plugin, own = plugin_of(MODELS, type(model)), type(model)
        entry = PluginEntry(
            name=plugin.name if plugin else f"{own.__module__}:{own.__qualname__}",
            distribution=plugin.distribution if plugin else "",
            version=plugin.version if plugin else "",
        )
        return cls(plugin=entry, config=model.config.model_dump(mode="json"), **values)

    def build(self) -> GenerativeModel:
        """The model, its weights new. Only registered names count.

        Raises:
            CheckpointError: its plugin is not installed, or its Config is not valid.
        """
        cls = _plugin_class(self.plugin, "")
        model: GenerativeModel = cls(read_config(cls, self.config, self.plugin.name))
        return model


class Manifest(Section):
    """The content of genhub.json."""

    format: int = FORMAT
    genhub: str = ""
    """Version that wrote the folder."""
    plugin: PluginEntry
    config: dict[str, Any]
    """The model's Config."""
    data: DataSpec | None = None
    """What the model was trained on."""
    step: NonNegativeInt = 0
    files: dict[str, FileEntry] = {}  # noqa: RUF012
    """Every file beside this one, by its path in the folder."""
    checksum: str = ""
    """SHA-256 of this manifest without the checksum."""

    def sealed(self) -> Manifest:
        return self.model_copy(update={"checksum": self._digest()})

    def _digest(self) -> str:
        text = json.dumps(self.model_dump(mode="json", exclude={"checksum"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def verify(self, folder: Path) -> None:
        """Compare every file with its size and hash.

        Raises:
            CheckpointError: the first file that is missing or differs.
        """
        for name, entry in self.files.items():
            file = folder / name
            if not file.is_file():
                raise CheckpointError(f"{file}: missing; the checkpoint is incomplete")
            if file.stat().st_size != entry.size or file_digest(file) != entry.sha256:
                raise CheckpointError(f"{file}: damaged (its SHA-256 is not the one in {FILE})")


def file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """An entry for every file below a folder, but for the manifest."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / FILE)
    return {
        file.relative_to(folder).as_posix(): FileEntry(size=file.stat().st_size, sha256=file_digest(file)) for file in files
    }


def read_json(file: Path) -> Any:
    """A JSON file of bounded size.

    Raises:
        CheckpointError: missing, too large, or not JSON.
    """
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{file}: larger than {MAX_JSON_BYTES} bytes; refused")
        return json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, its own checksum verified; the other files are not looked at.

    Raises:
        CheckpointError: missing or damaged.
        NewerFormat: written by a newer genhub.
    """
    content = read_json(folder / FILE)
    if isinstance(content, dict) and _is_newer(content):
        needed = content["genhub"]
        raise NewerFormat(f"{folder / FILE}: format {content['format']} needs genhub >= {needed}")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{folder / FILE}: damaged: {_first_fault(error)}") from error
    if manifest.sealed() != manifest:
        raise CheckpointError(f"{folder / FILE}: damaged (its checksum does not match)")
    return manifest


def _is_newer(content: dict[str, Any]) -> bool:
    """Whether a newer genhub wrote it, in a format to come: a higher number from this version is damage."""
    try:
        newer = Version(content["genhub"]) > Version(genhub_version())
        return newer and isinstance(content["format"], int) and content["format"] > FORMAT
    except (KeyError, TypeError, InvalidVersion):
        return False


def checkpoints(run_dir: Path) -> Iterator[Path]:
    """A run's checkpoints, newest first; unfinished ones have other names."""
    found = [path for path in (run_dir / "checkpoints").glob("step-*") if path.name[5:].isdecimal()]
    return iter(sorted(found, key=step_of, reverse=True))


def step_of(checkpoint: Path) -> int:
    """How many steps a run had done, from the name of its checkpoint."""
    return int(checkpoint.name[5:])


def newest_whole(run_dir: Path) -> tuple[Path | None, list[str]]:
    """A run's newest whole checkpoint, if it has any, and what is wrong with each newer one.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
        NewerFormat: a newer genhub wrote the newest: going back would lose steps that nothing is wrong with.
    """
    faults: list[str] = []
    for folder in checkpoints(run_dir):
        try:
            manifest = read_manifest(folder)
            manifest.verify(folder)
            if manifest.step != step_of(folder):
                raise CheckpointError(f"{folder}: holds step {manifest.step}")
            return folder, faults
        except NewerFormat:
            raise
        except CheckpointError as error:
            faults.append(str(error))
    if faults:
        raise CheckpointError(f"{run_dir}: no checkpoint is whole: {'; '.join(faults)}")
    return None, []


def find_checkpoint(path: Path) -> Path:
    """The folder to load for a path that a user gave: itself, or a run's newest whole checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"{path}: no such folder (a run, a checkpoint, or a folder that diffusers saved)")
        folder = path if (path / FILE).is_file() or foreign_format(path) else newest_whole(path)[0]
    except OSError as error:
        raise CheckpointError(f"{path!s:.200}: {error.strerror}") from error
    if folder is None:
        raise CheckpointError(f"{path}: neither a run with checkpoints, nor a model folder ({FILE} or model_index.json)")
    return folder


def foreign_format(folder: Path) -> str | None:
    """The registered class name in the JSON of a folder that another library saved."""
    for name in ("model_index.json", "config.json"):
        if (folder / name).is_file():
            content = read_json(folder / name)
            found = content.get("_class_name") if isinstance(content, dict) else None
            if found in plugin_names(FORMATS):
                return str(found)
    return None


def read_model(folder: Path, cls: type[Any] | None = None) -> tuple[type[Any], ModelConfig]:
    """The class and Config of a checkpoint or of a folder that another library saved.

    Args:
        cls: the caller's own class. Without it only registered names count: a checkpoint imports nothing else.
    Raises:
        CheckpointError: damaged, its Config is not valid, or its plugin is not installed.
    """
    if (folder / FILE).is_file():
        manifest = read_manifest(folder)
        cls = cls or _plugin_class(manifest.plugin, f"{folder}: ")
        return cls, read_config(cls, manifest.config, f"{folder / FILE}: config")
    try:
        cls = cls or load_class(FORMATS, foreign_format(folder) or "")
        return cls, cls.config_from_foreign(folder)
    except PluginError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a plugin's reader meets JSON of any shape
        raise CheckpointError(f"{folder}: its config can't be read: {_first_fault(error)}") from error


def _plugin_class(plugin: PluginEntry, where: str) -> Any:
    try:
        return load_class(MODELS, plugin.name)
    except PluginError as error:
        source = f"{plugin.distribution or 'your own code'} {plugin.version}"
        raise CheckpointError(f"{where}this model needs '{plugin.name}' from {source}: {error}") from error


def read_config(cls: type[Any], config: dict[str, Any], where: str) -> ModelConfig:
    """A stored Config, as `cls` types it.

    Raises:
        CheckpointError: it is not valid for this class.
    """
    try:
        typed: ModelConfig = cls.Config.model_validate(config, context=STORED)
        return typed
    except ValidationError as error:
        raise CheckpointError(f"{where}: {_first_fault(error)}") from error


def describe_folder(path: Path) -> dict[str, Any]:
    """What a model folder holds, its files verified."""
    folder = find_checkpoint(path)
    _, config = read_model(folder)
    facts: dict[str, Any] = {"folder": str(folder), "parameters": sum(map(_parameters, folder.rglob("*.safetensors")))}
    if not (folder / FILE).is_file():
        return facts | {"plugin": {"name": config.name}, "config": config.model_dump(mode="json")}
    manifest = read_manifest(folder)
    manifest.verify(folder)
    return facts | manifest.model_dump(mode="json", exclude={"checksum"})


def _parameters(file: Path) -> int:
    """Numbers in a file of weights, from its header alone; the trainer's part is not the model's."""
    if file.parent.name == "trainer":
        return 0
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(min(int.from_bytes(stream.read(8), "little"), MAX_JSON_BYTES)))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from error


def _first_fault(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])) + f": {first['msg']}"


def genhub_version() -> str:
    return version("genhub-framework")
