"""`genhub.json`: what a model folder holds, so that it can be checked before anything is built. No torch here.

A folder is one of: a checkpoint (has genhub.json), a run (has checkpoints/), or one that another library saved and a
plugin reads (its JSON has a `_class_name` registered under `genhub.formats`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from genhub.config import DataSpec, ModelConfig, NonNegativeInt, Section
from genhub.errors import CheckpointError, PluginError
from genhub.registry import FORMATS, MODELS, load_class, plugin_names

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
    files: dict[str, FileEntry] = {}
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
        file.relative_to(folder).as_posix(): FileEntry(size=file.stat().st_size, sha256=file_digest(file))
        for file in files
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
        CheckpointError: missing, damaged, or written by a newer genhub.
    """
    content = read_json(folder / FILE)
    if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > FORMAT:
        needed = content.get("genhub", "a newer version")
        raise CheckpointError(f"{folder / FILE}: format {content['format']} needs genhub >= {needed}")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{folder / FILE}: damaged: {_first_fault(error)}") from error
    if manifest.sealed() != manifest:
        raise CheckpointError(f"{folder / FILE}: damaged (its checksum does not match)")
    return manifest


def checkpoints(run_dir: Path) -> Iterator[Path]:
    """A run's checkpoints, newest first; unfinished ones have other names."""
    found = {int(path.name[5:]): path for path in (run_dir / "checkpoints").glob("step-*") if path.name[5:].isdecimal()}
    return (found[step] for step in sorted(found, reverse=True))


def newest_whole(run_dir: Path) -> tuple[Path | None, list[str]]:
    """A run's newest whole checkpoint, if it has any, and what is wrong with each newer one.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """
    faults = []
    for folder in checkpoints(run_dir):
        try:
            read_manifest(folder).verify(folder)
            return folder, faults
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
        if (path / FILE).is_file() or foreign_format(path):
            return path
        folder, _ = newest_whole(path)
    except OSError as error:
        raise CheckpointError(f"{str(path):.200}: {error.strerror}") from error
    if folder is None:
        raise CheckpointError(
            f"{path}: neither a run with checkpoints, nor a model folder ({FILE} or model_index.json)"
        )
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
    if not (folder / FILE).is_file():
        return _read_foreign(folder, cls)
    manifest = read_manifest(folder)
    plugin = manifest.plugin
    if cls is None and ":" in plugin.name:
        raise CheckpointError(f"{folder}: holds a {plugin.name}, which is not registered: use its own from_pretrained")
    try:
        cls = cls or load_class(MODELS, plugin.name)
    except PluginError as error:
        origin = f"'{plugin.name}' from {plugin.distribution} {plugin.version}"
        raise CheckpointError(f"{folder}: this model needs {origin}: {error}") from error
    return cls, read_config(cls, manifest, folder)


def read_config(cls: type[Any], manifest: Manifest, folder: Path) -> ModelConfig:
    """The manifest's Config, as `cls` types it.

    Raises:
        CheckpointError: it is not valid for this class.
    """
    try:
        config: ModelConfig = cls.Config.model_validate(manifest.config)
        return config
    except ValidationError as error:
        raise CheckpointError(f"{folder / FILE}: config.{_first_fault(error)}") from error


def _read_foreign(folder: Path, cls: type[Any] | None) -> tuple[type[Any], ModelConfig]:
    try:
        cls = cls or load_class(FORMATS, foreign_format(folder) or "")
        return cls, cls.config_from_foreign(folder)
    except PluginError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON of any shape meets the plugin's reader
        reason = _first_fault(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{folder}: its config can't be read: {reason}") from error


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    return ": ".join([*filter(None, [".".join(map(str, first["loc"]))]), first["msg"]])


def weight_shapes(folder: Path) -> Iterator[tuple[int, ...]]:
    """The shapes of a model folder's tensors, from the files' headers alone.

    Raises:
        CheckpointError: a file is not safetensors.
    """
    for file in sorted(folder.rglob("*.safetensors")):
        if file.parent.name == "trainer":
            continue
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(min(int.from_bytes(stream.read(8), "little"), MAX_JSON_BYTES)))
            yield from (tuple(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file}: damaged: {error}") from error


def genhub_version() -> str:
    return version("genhub-framework")
