"""`genhub.json`: what a model folder holds, so that it can be checked before anything is built. No torch here.

A folder is one of: a checkpoint (has genhub.json), a run (has checkpoints/), or one that another library saved and a
plugin reads (its JSON has a `_class_name` registered under `genhub.formats`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Self

from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, Field, ValidationError

from genhub.config import STORED, DataSpec, ModelConfig, NonNegativeInt, Section
from genhub.console import NAME, cut, shown
from genhub.disk import RUN, check_files
from genhub.errors import CheckpointError, GenhubError, NewerFormat, PluginError, first_fault
from genhub.ids import HUB, nearest_path, parse_id
from genhub.registry import FORMATS, MODELS, load_class, plugin_names, plugin_of

if TYPE_CHECKING:
    from genhub.interfaces import GenerativeModel

FORMAT = 1
FILE = "genhub.json"
TRAINER = "trainer"
"""The part of a checkpoint that only resuming needs, and that is never published."""
CODE = "plugin.py"
"""A class's source, in a repository that was pushed with it. Not among the files: it is fetched only to be run."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_JSON_BYTES = 16 * 2**20
MAX_FILES = 1000


def inside(name: str) -> str:
    """
    Raises:
        ValueError: not a plain relative path, so that it could lead out of the folder.
    """
    path = PurePosixPath(name)
    plain = name.isprintable() and not set(name) & set("\\:") and name == str(path)
    if not plain or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{shown(name)} is no path inside the folder")
    return name


class FileEntry(Section):
    size: NonNegativeInt
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @classmethod
    def of(cls, content: bytes | Path) -> FileEntry:
        if isinstance(content, Path):
            return cls(size=content.stat().st_size, sha256=file_digest(content))
        return cls(size=len(content), sha256=hashlib.sha256(content).hexdigest())


Word = Annotated[str, Field(pattern=r"^[\w.+!-]{0,100}$")]
"""Name or version that cards and messages repeat."""


class PluginEntry(Section):
    """Who can build the model. What a message repeats of it is bounded: a stranger may have written it."""

    name: Annotated[str, Field(pattern=r"^[\w.:<>-]{1,200}$")]
    distribution: Annotated[str, Field(pattern=r"^[\w.-]{0,100}$")]
    version: Word


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


Versions = Annotated[dict[Word, Word], Field(max_length=100)]
"""Versions of packages, by name."""


class Manifest(Section):
    """The content of genhub.json."""

    format: int = FORMAT
    genhub: Word = ""
    """Version that wrote the folder."""
    plugin: PluginEntry
    config: dict[str, Any]
    """The model's Config."""
    data: DataSpec | None = None
    """What the model was trained on."""
    step: NonNegativeInt = 0
    conditions: Annotated[tuple[Word, ...], Field(max_length=100)] = ()
    """What its `sample` has to be given: labels, for a conditional model."""
    versions: Versions = {}  # noqa: RUF012
    """The packages it was trained or saved with."""
    files: dict[Annotated[str, AfterValidator(inside)], FileEntry] = Field(default={}, max_length=MAX_FILES)
    """Every file beside this one, by its path in the folder."""
    code: FileEntry | None = None
    """Its class's source, plugin.py, if it was published with it."""
    checksum: str = ""
    """SHA-256 of this manifest without the checksum."""

    def sealed(self) -> Manifest:
        return self.model_copy(update={"checksum": _checksum(self.model_dump(mode="json"))})

    def text(self) -> str:
        """genhub.json, sealed."""
        return json.dumps(self.sealed().model_dump(mode="json"), indent=2) + "\n"

    def verify(self, folder: Path) -> None:
        """Compare every file with its size and hash.

        Raises:
            CheckpointError: the first file that is missing or differs.
        """
        self.verify_files(self.files, folder)

    @staticmethod
    def verify_files(files: Mapping[str, FileEntry], folder: Path) -> None:
        for name, entry in files.items():
            file = folder / name
            if not file.is_file():
                raise CheckpointError(f"{file}: missing; the checkpoint is incomplete")
            if file.stat().st_size != entry.size or file_digest(file) != entry.sha256:
                raise CheckpointError(f"{file}: damaged (its SHA-256 is not the one in {FILE})")


def _checksum(content: dict[str, Any]) -> str:
    text = json.dumps({key: value for key, value in content.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """An entry for every file below a folder, but for the manifest."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / FILE)
    return {file.relative_to(folder).as_posix(): FileEntry.of(file) for file in files}


def read_json(file: Path) -> Any:
    """A JSON file of bounded size.

    Raises:
        CheckpointError: missing, too large, or not JSON.
        GenhubError: it can't be read now, which says nothing of what it holds: no reason to pass it over.
    """
    try:
        if not file.is_file() and file.exists():
            raise CheckpointError(f"{file}: is no file")
        if file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{file}: larger than {MAX_JSON_BYTES} bytes; refused")
        return json.loads(file.read_bytes())
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise (CheckpointError if missing else GenhubError)(f"{file}: {error.strerror}") from error
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
        unknown = all(fault["type"] == "extra_forbidden" for fault in error.errors())
        if unknown and isinstance(content, dict) and _checksum(content) == content.get("checksum"):  # as it was written
            raise NewerFormat(f"{folder / FILE}: {_written_by(content)}: {first_fault(error)}") from error
        raise CheckpointError(f"{folder / FILE}: damaged: {first_fault(error)}") from error
    if _checksum(content) != manifest.checksum:
        raise CheckpointError(f"{folder / FILE}: damaged (its checksum does not match)")
    return manifest


def _is_newer(content: dict[str, Any]) -> bool:
    """Whether a newer genhub wrote it, in a format to come: a higher number from this version is damage."""
    higher = isinstance(content.get("format"), int) and content["format"] > FORMAT
    return higher and _newer_version(content.get("genhub"))


def _newer_version(version: object) -> bool:
    """Whether a version is higher than this genhub's."""
    try:
        return Version(str(version)) > Version(genhub_version())
    except InvalidVersion:
        return False


def _written_by(content: Mapping[str, Any]) -> str:
    """Return what to do about a manifest that is whole, but of a genhub that this one can't read."""
    if _newer_version(content.get("genhub")):
        return f"needs genhub >= {content['genhub']:.50}, this is {genhub_version()}"
    return "whole, but of another genhub than this one, as it has keys that this one doesn't know; update genhub"


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
            check_files(folder)
            manifest = read_manifest(folder)
            manifest.verify(folder)
            if manifest.step != step_of(folder):
                raise CheckpointError(f"{folder}: holds step {manifest.step}")
            return folder, faults
        except NewerFormat:
            raise
        except (CheckpointError, OSError) as error:
            if not folder.is_dir():  # deleted meanwhile, by a run that has made a newer one
                return newest_whole(run_dir)
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise  # it can't be read now, which says nothing of what it holds
            faults.append(str(error))
    if faults:
        raise CheckpointError(f"{run_dir}: no checkpoint is whole: {'; '.join(faults)}")
    return None, []


def find_checkpoint(path: Path) -> Path:
    """The folder to load for a path that a user gave: itself, or a run's newest whole checkpoint. What lies there, and in
    its run, may be opened: see `check_files`.

    Raises:
        CheckpointError: there is none, or it holds what is not opened.
    """
    try:
        if not path.exists():
            known = "a run, a checkpoint, or one that diffusers saved"
            other = f"; a model on the Hub would be {HUB}{path}" if parse_id(str(path)) else ", and no Hub id, user/name"
            raise CheckpointError(f"{path}: no such folder ({known}){other}{nearest_path(path)}")
        if (path / FILE).is_file() or foreign_format(path):
            folder: Path | None = path
            check_files(path)
        else:
            check_files(path, *RUN)
            folder, faults = newest_whole(path)
            if faults:
                from genhub.logs import warn  # imports torch

                for fault in faults:
                    warn(f"{fault}; taking an earlier checkpoint")
        if folder is None:
            raise no_model(path)
        if folder.parent.name == "checkpoints":
            check_files(folder.parent.parent, *RUN)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    return folder


def foreign_format(folder: Path) -> str | None:
    """The registered class name in the JSON of a folder that another library saved."""
    return next((name for name in _foreign_classes(folder) if name in plugin_names(FORMATS)), None)


def _foreign_classes(folder: Path) -> list[str]:
    files = [folder / name for name in ("model_index.json", "config.json") if (folder / name).is_file()]
    found = [content.get("_class_name") for file in files if isinstance(content := read_json(file), dict)]
    return [name for name in found if isinstance(name, str)]


def no_model(folder: Path) -> CheckpointError:
    """Why a folder is not one that can be loaded."""
    if classes := _foreign_classes(folder):
        known = ", ".join(plugin_names(FORMATS))
        return CheckpointError(
            f"{folder}: holds a {cut(classes[0], NAME)}, which no plugin reads; of others' formats: {known}"
        )
    return CheckpointError(f"{folder}: neither a run with checkpoints, nor a model folder ({FILE} or model_index.json)")


def weight_bytes(folder: Path) -> int:
    """How much a folder's weights take, the trainer's part left out.

    Raises:
        CheckpointError: there are none, but a pickle.
    """
    files = [file for file in folder.rglob("*") if TRAINER not in file.relative_to(folder).parts]
    weights = [file for file in files if file.suffix == ".safetensors"]
    pickles = [file for file in files if file.suffix in PICKLES]
    if pickles and not weights:
        raise CheckpointError(f"{folder}: {pickle_advice(pickles[0].name, str(folder))}")
    return sum(file.stat().st_size for file in weights)


def pickle_advice(file: str, source: str) -> str:
    """Why a pickle of weights is not opened, and how to get safetensors of it where `source` is trusted."""
    return (
        f"its weights are a pickle ({cut(file, NAME)}), which can run code when opened; genhub reads safetensors only. If "
        "you trust it, let diffusers convert it, and give FOLDER: "
        f"DDPMPipeline.from_pretrained('{source}').save_pretrained('FOLDER')"
    )


def read_model(folder: Path, cls: type[Any] | None = None) -> tuple[type[Any], ModelConfig]:
    """The class and Config of a checkpoint or of a folder that another library saved.

    Args:
        cls: the caller's own class. Without it only registered names count: a checkpoint imports nothing else.
    Raises:
        CheckpointError: damaged, its Config is not valid, or its plugin is not installed.
    """
    if (folder / FILE).is_file():
        manifest = read_manifest(folder)
        cls = cls or _plugin_class(manifest.plugin, f"{folder}: ", manifest.code)
        try:
            return cls, read_config(cls, manifest.config, f"{folder / FILE}: config")
        except CheckpointError as error:
            if _newer_version(manifest.genhub):  # a Config may have learned a key, in a manifest as it was
                raise NewerFormat(f"{error}; it {_written_by(manifest.model_dump())}") from error
            raise
    try:
        cls = cls or load_class(FORMATS, foreign_format(folder) or "")
        return cls, cls.config_from_foreign(folder)
    except PluginError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a plugin's reader meets JSON of any shape
        reason = first_fault(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{folder}: its config can't be read: {reason}") from error


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
    """A stored Config, as `cls` types it.

    Raises:
        CheckpointError: it is not valid for this class.
    """
    try:
        typed: ModelConfig = cls.Config.model_validate(config, context=STORED)
        return typed
    except ValidationError as error:
        raise CheckpointError(f"{where}: {first_fault(error)}") from error


def genhub_version() -> str:
    return version("genhub-framework")
