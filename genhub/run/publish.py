"""Publish a model or a checkpoint on the Hub."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from genhub.errors import CheckpointError, InputError
from genhub.evaluation.protocol import stored_evaluations, weights_digest
from genhub.ground.console import say, warn
from genhub.ground.ids import nearest_path
from genhub.ground.parsing import TextSource, parse_yaml, read_text, to_yaml
from genhub.hub.load import placed
from genhub.hub.push import Pushed, Target, check_id, push
from genhub.hub.repository import ALLOWED
from genhub.interfaces.columns import DataSpec
from genhub.interfaces.model import Model
from genhub.recipe.theirs import without_own
from genhub.sampling.draw import sample_elements
from genhub.sampling.files import save_elements
from genhub.sampling.request import Drawing
from genhub.store.card import CARD, MEASURED, PICTURE, Card, Measured, read_measured
from genhub.store.find import read_newest
from genhub.store.manifest import CODE, FORMAT, MANIFEST, TRAINER_PART, FileEntry, read_manifest
from genhub.store.models import load_folder, save_model
from genhub.store.run_folder import RECIPE

Files = dict[str, bytes | Path]
"""Content of each file, by its path in the repository."""


def publication(folder: Path, target: Target, *, code: Path | None = None, picture: bytes | None = None) -> Files:
    """Return the files of a checkpoint that are published: those in its genhub.json without the trainer's part, a card for
    this repository, a recipe without what is this machine's own, and a genhub.json that lists just these. That the
    checkpoint is whole is known before.

    What was measured of it goes along as metrics.json, and into the card.

    Args:
        code: the class's source, published as plugin.py.
        picture: samples.png, for a checkpoint that has none.
    Raises:
        CheckpointError: the checkpoint has files that can't be published.
    """
    manifest = read_manifest(folder)
    listed = [name for name in manifest.files if not name.startswith(f"{TRAINER_PART}/")]
    files: Files = {name: _regular(folder, name) for name in listed}
    recipe = _portable(read_text(folder / RECIPE), folder) if RECIPE in files else None
    if recipe is not None:
        files[RECIPE] = recipe.encode()
    if picture is not None:
        files[PICTURE] = picture
    if measured := _measured(folder) or _measured_before(folder):
        figures = [figure.model_dump(mode="json") for figure in measured]
        files[MEASURED] = (json.dumps(figures, indent=2) + "\n").encode()
    manifest = manifest.model_copy(
        update={"data": _portable_data(manifest.data), "code": FileEntry.of(code) if code is not None else None}
    )
    repo_id, license = target.repo_id, target.license
    card = Card(manifest, folder, recipe, None, repo_id, license, PICTURE in files, measured)
    files[CARD] = card.text().encode()
    entries = {
        name: manifest.files[name] if isinstance(content, Path) else FileEntry.of(content)
        for name, content in sorted(files.items())
    }
    files[MANIFEST] = manifest.model_copy(update={"files": entries}).text().encode()
    if code is not None:
        files[CODE] = code
    return files


def _measured(folder: Path) -> tuple[Measured, ...]:
    """Return the figures that `genhub evaluate` measured of a checkpoint, each with its protocol."""
    found: list[Measured] = []
    for evaluation in stored_evaluations(folder):
        protocol = evaluation.protocol.model_dump(mode="json", exclude_none=True)
        for key in ("reference", "held_out"):
            if spec := getattr(evaluation.protocol, key):
                protocol[key] = f"{_portable_name(spec.name)} {spec.split}, fingerprint {spec.fingerprint}"
        protocol["extractor"] = _portable_name(evaluation.protocol.extractor)
        protocol |= {"versions": dict(evaluation.versions), "weights": evaluation.weights, "notes": list(evaluation.notes)}
        found += [Measured(name=name, value=value, protocol=protocol) for name, value in evaluation.values.items()]
    return tuple(found)


def _measured_before(folder: Path) -> tuple[Measured, ...]:
    """Return the figures in a folder's metrics.json that are of its weights."""
    stored = read_measured(folder)
    weights = weights_digest(folder)
    found = tuple(figure for figure in stored if figure.protocol.get("weights") == weights)
    if len(found) < len(stored):
        warn(
            f"{folder / MEASURED}: figures that are not known to be of these weights are left out: genhub evaluate {folder}"
        )
    return found


def push_checkpoint(folder: Path, target: Target, *, code: Path | None = None, picture: bytes | None = None) -> Pushed:
    """Publish a checkpoint in one commit. See `publication` and `push.push`."""
    step = read_manifest(folder).step
    files = publication(folder, target, code=code, picture=picture)
    message = f"Step {step}" if step else "Push by genhub"
    return push(target, files, message)


def push_model(model: Model | str | Path, target: Target) -> str:
    """Publish a model or a folder, with a picture of samples, and say where it is; returns the commit. See
    `genhub.push_to_hub`."""
    check_id(target.repo_id)
    if not isinstance(model, Model) and not Path(model).exists():
        known = "what is pushed is a run, a checkpoint or a model folder of this machine"
        raise CheckpointError(f"{model}: no such folder; {known}{nearest_path(Path(model))}")

    def publish(source: Model | Path) -> Pushed:
        with tempfile.TemporaryDirectory(prefix="genhub-") as temporary:
            folder = Path(temporary) if isinstance(source, Model) else source
            if isinstance(source, Model):
                save_model(source, folder)
            elif not (folder / MANIFEST).is_file() or read_manifest(folder).format < FORMAT:
                # another library's, or an older genhub's: it gets today's genhub.json
                save_model(load_folder(folder), folder := Path(temporary))
            manifest = read_manifest(folder)
            code = own_code(manifest.plugin.name) if target.with_code else None
            drawable = isinstance(source, Model) or ":" not in manifest.plugin.name
            picture = None
            if PICTURE not in manifest.files and drawable:
                picture = _picture(source if isinstance(source, Model) else folder)
            return push_checkpoint(folder, target, code=code, picture=picture)

    pushed = publish(model) if isinstance(model, Model) else read_newest(Path(model), publish, checked=True)
    say(f"{'Pushed' if pushed.changed else 'Nothing has changed'}  {pushed.url}  commit {pushed.commit[:12]}")
    return pushed.commit


def _picture(source: Model | Path) -> bytes:
    """Draw the card's picture of samples, a PNG."""
    say("Drawing the card's picture")
    where = torch.accelerator.current_accelerator(check_available=True)
    model = source if isinstance(source, Model) else placed(load_folder(source), where)
    with tempfile.TemporaryDirectory(prefix="genhub-") as temporary:
        drawing = Drawing(16)
        save_elements(sample_elements(model, drawing), Path(temporary) / PICTURE, model, drawing)
        return (Path(temporary) / PICTURE).read_bytes()


def own_code(name: str) -> Path:
    """Return the file of a `module:Class`, beside which the command is run. Nothing is imported.

    Raises:
        InputError: it is not the user's own class, or its module is not one file.
    """
    module, colon, _ = name.partition(":")
    if not colon:
        raise InputError(f"--with-code: '{name}' is an installed plugin; whoever loads it installs that with pip")
    file = Path(f"{module}.py")
    if not file.is_file():
        raise InputError(
            f"--with-code: {file} is not in this folder: run the command beside it. A class inside a package is shared by "
            "publishing that as a distribution"
        )
    return file


def _regular(folder: Path, name: str) -> Path:
    file = folder / name
    if any(path.is_symlink() for path in (file, *file.parents) if path.is_relative_to(folder) and path != folder):
        raise CheckpointError(f"{file}: is a link; what it points to is not published")
    if not name.endswith(ALLOWED):
        raise CheckpointError(f"{file}: only {' '.join(ALLOWED)} are published; let save_networks write one of these")
    return file


def _portable(recipe: str, folder: Path) -> str:
    """Return the recipe without what belongs to this machine: the run's folder, where it is pushed to and logged, paths."""
    content, _ = without_own(parse_yaml(recipe, TextSource(str(folder / RECIPE))))
    return to_yaml(_with_names(content))


def _with_names(value: Any) -> Any:
    """Return a recipe's content with `_portable_name` in place of each path."""
    if isinstance(value, dict):
        return {key: _with_names(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_names(inner) for inner in value]
    return _portable_name(value) if isinstance(value, str) else value


def _portable_data(data: DataSpec | None) -> DataSpec | None:
    return data and data.model_copy(update={"name": _portable_name(data.name)})


def _portable_name(name: str) -> str:
    """Return the last name alone of a path of this machine; also of an extractor's, as in dinov2:/home/me/weights, and of
    several files', as in /data/a.parquet + /data/b.parquet."""
    if " + " in name:
        return " + ".join(Path(part).name for part in name.split(" + "))
    if name.startswith(("/", "~", ".")) or Path(name).is_absolute() or Path(name.partition("/")[0]).is_dir():
        return Path(name).name
    return re.sub(r"(?<=[:(])(?:/(?!/)|~|\.\.)[^()]*", lambda path: Path(path[0]).name, name)
