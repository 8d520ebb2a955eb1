"""`genhub.json`, which lists a model folder's content, so that it can be checked before anything is built. No torch here.

A folder is one of: a checkpoint (has genhub.json), a run (has checkpoints/), or one that another library saved and a
plugin reads (its JSON has a `_class_name` registered under `genhub.formats`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, Field, ValidationError

from genhub.errors import CheckpointError, GenhubError, NewerFormat, first_fault, shown
from genhub.interfaces.columns import DataSpec, ModelData, columns_of_format_1
from genhub.interfaces.registry import KINDS, plugin_names
from genhub.interfaces.section import STORED, NonNegativeInt, Section

FORMAT = 2
"""Number of the format that genhub writes; 1, which had images and labels alone, is read, too."""
MANIFEST = "genhub.json"
TRAINER_PART = "trainer"
"""The part of a checkpoint that only resuming needs, and that is never published."""
CODE = "plugin.py"
"""A class's source, in a repository that was pushed with it. Not among the files: it is fetched only to be run."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_JSON_BYTES = 16 * 2**20
MAX_FILES = 1000


def inside(name: str) -> str:
    """Return a file's name, checked: it lies inside its folder.

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
    """Plugin that can build the model. Its fields are bounded, as messages repeat them and a stranger may have written
    them."""

    name: Annotated[str, Field(pattern=r"^[\w.:<>-]{1,200}$")]
    distribution: Annotated[str, Field(pattern=r"^[\w.-]{0,100}$")]
    version: Word


class PartEntry(PluginEntry):
    """Part that the model is made of."""

    kind: Annotated[str, Field(pattern=r"^[\w.-]{1,100}$")]
    """One of model, network, modality, scheduler, ..."""


Versions = Annotated[dict[Word, Word], Field(max_length=100)]
"""Versions of packages, by name."""


class _Parts(Section):
    parts: Annotated[tuple[PartEntry, ...], Field(max_length=1000)] = ()


class Manifest(Section):
    """The content of genhub.json."""

    format: int = FORMAT
    genhub: Word = ""
    """Version that wrote the folder."""
    plugin: PluginEntry
    parts: Annotated[tuple[PartEntry, ...], Field(max_length=1000)] = ()
    """Every part that it is made of: the model, its networks, modalities and noise schedule."""
    config: dict[str, Any]
    """The model's Config; of format 1, as it was: `classes.read_model` converts it."""
    data: DataSpec | None = None
    """Spec of the data that the model was trained on."""
    step: NonNegativeInt = 0
    versions: Versions = {}  # noqa: RUF012
    """Versions of the packages that it was trained or saved with."""
    files: dict[Annotated[str, AfterValidator(inside)], FileEntry] = Field(default={}, max_length=MAX_FILES)
    """Size and hash of every other file, by its path in the folder."""
    code: FileEntry | None = None
    """The source of its class, plugin.py, if that was published with it."""
    checksum: str = ""
    """SHA-256 of this manifest without the checksum."""

    @property
    def columns(self) -> ModelData | None:
        """The columns that the model draws and is given; None where they are not said: in format 1, of no known data.

        Raises:
            CheckpointError: they are not valid.
        """
        if "data" not in self.config:
            return self.data.model_data if self.data else None
        try:
            return ModelData.model_validate(self.config["data"], context=STORED)
        except ValidationError as error:
            raise CheckpointError(f"{MANIFEST}: config.data: {first_fault(error)}") from error

    def sealed(self) -> Manifest:
        return self.model_copy(update={"checksum": checksum_of(self.model_dump(mode="json"))})

    def text(self) -> str:
        """Return the text of genhub.json, with its checksum."""
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
                raise CheckpointError(f"{file}: damaged (its SHA-256 is not the one in {MANIFEST})")


def checksum_of(content: dict[str, Any]) -> str:
    text = json.dumps({key: value for key, value in content.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Return an entry for every file below a folder, but for the manifest."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / MANIFEST)
    return {file.relative_to(folder).as_posix(): FileEntry.of(file) for file in files}


def read_json(file: Path) -> Any:
    """Return the content of a JSON file of bounded size.

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
    """Return the manifest of a checkpoint, its own checksum verified; the other files are not looked at.

    Raises:
        CheckpointError: missing or damaged.
        NewerFormat: written by a newer genhub.
    """
    content = read_json(folder / MANIFEST)
    if isinstance(content, dict) and _is_newer(content):
        needed = content["genhub"]
        raise NewerFormat(f"{folder / MANIFEST}: format {content['format']} needs genhub >= {needed}")
    file = folder / MANIFEST
    try:
        _check_parts(content, file)
        manifest = Manifest.model_validate(_converted(content), context=STORED)
    except ValidationError as error:
        unknown = all(fault["type"] == "extra_forbidden" for fault in error.errors())
        if unknown and isinstance(content, dict) and checksum_of(content) == content.get("checksum"):  # as it was written
            raise NewerFormat(f"{folder / MANIFEST}: {written_by(content)}: {first_fault(error)}") from error
        raise CheckpointError(f"{folder / MANIFEST}: damaged: {first_fault(error)}") from error
    if checksum_of(content) != manifest.checksum:
        raise CheckpointError(f"{folder / MANIFEST}: damaged (its checksum does not match)")
    return manifest


def _check_parts(content: Any, file: Path) -> None:
    """
    Raises:
        CheckpointError: a part that the model is made of is not installed.
    """
    for part in _Parts.model_validate({"parts": content.get("parts", ()) if isinstance(content, dict) else ()}).parts:
        own, known = ":" in part.name, plugin_names(KINDS[part.kind]) if part.kind in KINDS else []
        if part.kind == "model" or part.name in known or (own and part.name.partition(":")[0] in sys.modules):
            continue
        where = f"{part.distribution} {part.version}: pip install {part.distribution}" if part.distribution else (
            f"its author's own code; import {part.name.partition(':')[0]} first")  # fmt: skip
        raise CheckpointError(f"{file}: this model needs {part.kind} '{part.name}' from {where}")


def _converted(content: Any) -> Any:
    """Return the content of a genhub.json of format 1 as that of this format, but for its Config, which its class knows."""
    if not isinstance(content, dict) or content.get("format") != 1:
        return content
    conditional = "labels" in (content.get("conditions") or ())
    now = {key: value for key, value in content.items() if key != "conditions"}
    return now | {"data": _data_of_format_1(content.get("data"), conditional)}


def _data_of_format_1(data: Any, conditional: bool) -> Any:
    """Return the facts of data as this format has them: images are the column `image`, classes the column `label`."""
    if not isinstance(data, dict) or "shape" not in data:
        return data
    classes = data.get("num_classes") if conditional else None
    columns = columns_of_format_1(data["shape"], data.get("value_range"), classes, data.get("class_names", ()))
    kept = {key: data[key] for key in ("name", "split") if key in data}
    rows = {"num_rows": data.get("num_images"), "fingerprints": dict.fromkeys(columns, data.get("fingerprint"))}
    return kept | rows | {"target": "image", "columns": columns}


def check_resumable(folder: Path) -> None:
    """
    Raises:
        CheckpointError: a checkpoint is of an older format: it can be drawn from, but its training not gone on with.
    """
    found = read_manifest(folder).format
    if found < FORMAT:
        raise CheckpointError(
            f"{folder}: a run of format {found}, of before there were columns, can't be gone on with; start anew with "
            f"--fresh, or take its weights by model.from={folder}"
        )


def _is_newer(content: dict[str, Any]) -> bool:
    """Whether a newer genhub wrote it, in a format to come: a higher number from this version is damage."""
    higher = isinstance(content.get("format"), int) and content["format"] > FORMAT
    return higher and newer_version(content.get("genhub"))


def newer_version(version: object) -> bool:
    """Whether a version is higher than this genhub's."""
    try:
        return Version(str(version)) > Version(genhub_version())
    except InvalidVersion:
        return False


def written_by(content: Mapping[str, Any]) -> str:
    """Return what to do about a manifest that is whole, but of a genhub that this one can't read."""
    if newer_version(content.get("genhub")):
        return f"needs genhub >= {content['genhub']:.50}, this is {genhub_version()}"
    return "whole, but of another genhub than this one, as it has keys that this one doesn't know; update genhub"


def genhub_version() -> str:
    return version("genhub-framework")
