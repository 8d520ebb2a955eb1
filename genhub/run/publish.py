"""Publish a model or a checkpoint on the Hub."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from genhub.errors import CheckpointError, InputError, without_passwords
from genhub.evaluation.protocol import stored_evaluations, weights_digest
from genhub.ground.console import say, warn
from genhub.ground.ids import nearest_path
from genhub.ground.parsing import TextSource, parse_yaml, read_text, to_yaml
from genhub.hub.benchmarks import benchmark_tasks
from genhub.hub.load import placed
from genhub.hub.push import Pushed, Target, check_id, push
from genhub.hub.repository import ALLOWED
from genhub.interfaces.columns import DataSpec
from genhub.interfaces.model import Model
from genhub.recipe.theirs import without_own
from genhub.run.card_gallery import NOTHING_DRAWN, CardDrawings, draw_for_card
from genhub.store.card import CARD, PICTURE, Card
from genhub.store.card_head import RESULTS, eval_results_file, hub_data
from genhub.store.find import read_newest
from genhub.store.manifest import CODE, FORMAT, MANIFEST, TRAINER_PART, FileEntry, Manifest, read_manifest
from genhub.store.measured import MEASURED, Measured, read_measured
from genhub.store.models import load_folder, save_model
from genhub.store.run_folder import RECIPE
from genhub.store.usage import Usage

Files = dict[str, bytes | Path]
"""Content of each file, by its path in the repository."""


def publication(
    folder: Path, target: Target, *, code: Path | None = None, drawn: CardDrawings = NOTHING_DRAWN
) -> Files:  # fmt: skip
    """Return the files of a checkpoint that are published: those in its genhub.json without the trainer's part, a card for
    this repository, a recipe without what is this machine's own, and a genhub.json that lists just these. That the
    checkpoint is whole is known before.

    What was measured of it goes along as metrics.json, and into the card; for tasks of a benchmark also as .eval_results.
    Of these and of the gallery, which no model needs, genhub.json lists metrics.json alone.

    Args:
        code: the class's source, published as plugin.py.
        drawn: pictures for the card; its samples.png is for a checkpoint that has none.
    Raises:
        CheckpointError: the checkpoint has files that can't be published.
    """
    manifest = read_manifest(folder)
    listed = [name for name in manifest.files if not name.startswith(f"{TRAINER_PART}/")]
    files: Files = {name: _regular(folder, name) for name in listed}
    recipe = _portable(read_text(folder / RECIPE), folder) if RECIPE in files else None
    if recipe is not None:
        files[RECIPE] = recipe.encode()
    if PICTURE in drawn.files and PICTURE not in files:
        files[PICTURE] = drawn.files[PICTURE]
    files.pop(MEASURED, None)
    if measured := _measured(folder) or _measured_before(folder, manifest):
        figures = [figure.model_dump(mode="json", exclude_none=True) for figure in measured]
        files[MEASURED] = (json.dumps(figures, indent=2) + "\n").encode()
    manifest = manifest.model_copy(
        update={"data": _portable_data(manifest.data), "code": FileEntry.of(code) if code is not None else None}
    )
    options = Usage(manifest, target.repo_id).options()
    card = Card(
        manifest, folder, recipe, None, target.repo_id, target.license, PICTURE in files, measured, drawn.gallery, options
    )
    files[CARD] = card.text().encode()
    entries = {
        name: manifest.files[name] if isinstance(content, Path) else FileEntry.of(content)
        for name, content in sorted(files.items())
    }
    files[MANIFEST] = manifest.model_copy(update={"files": entries}).text().encode()
    files |= {one.name: drawn.files[one.name] for one in drawn.gallery}
    if results := _eval_results(measured, target):
        files[RESULTS] = results.encode()
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
        real = evaluation.protocol.reference
        found += [
            Measured(
                name=name, value=value, interval=evaluation.intervals.get(name), floor=evaluation.floor.get(name),
                data=_portable_name(real.name), split=real.split, protocol=protocol,
            )
            for name, value in evaluation.values.items()
        ]  # fmt: skip
    return tuple(found)


def _measured_before(folder: Path, manifest: Manifest) -> tuple[Measured, ...]:
    """Return the figures in a folder's metrics.json that are of its weights: genhub.json vouches for the file, or it counts
    for nothing."""
    stored, listed = read_measured(folder), MEASURED in manifest.files
    weights = weights_digest(folder)
    found = tuple(figure for figure in stored if listed and figure.protocol.get("weights") == weights)
    if len(found) < len(stored):
        warn(
            f"{folder / MEASURED}: figures that are not known to be of these weights are left out: genhub evaluate {folder}"
        )
    return found


def _eval_results(measured: Sequence[Measured], target: Target) -> str | None:
    """Return the figures for leaderboards on the Hub, of data sets there that say so; None: there are none."""
    data_sets = {found for figure in measured if (found := hub_data(figure.data))}
    tasks = {data_set: benchmark_tasks(data_set, target.token) for data_set in sorted(data_sets)}
    if not any(tasks.values()):
        return None
    from huggingface_hub import hf_hub_url

    source = hf_hub_url(target.repo_id, MEASURED, revision=target.revision).replace("/resolve/", "/blob/")
    return eval_results_file(measured, tasks, without_passwords(source))


def push_checkpoint(
    folder: Path, target: Target, *, code: Path | None = None, drawn: CardDrawings = NOTHING_DRAWN
) -> Pushed:  # fmt: skip
    """Publish a checkpoint in one commit. See `publication` and `push.push`."""
    step = read_manifest(folder).step
    files = publication(folder, target, code=code, drawn=drawn)
    message = f"Step {step}" if step else "Push by genhub"
    return push(target, files, message)


def push_model(model: Model | str | Path, target: Target) -> str:
    """Publish a model or a folder, with pictures that it draws, and say where it is; returns the commit. See
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
            name = read_manifest(folder).plugin.name
            code = own_code(name) if target.with_code else None
            drawn = NOTHING_DRAWN
            if isinstance(source, Model):
                drawn = draw_for_card(source)
            elif ":" not in name:  # the class of another one is not at hand
                drawn = draw_for_card(
                    placed(load_folder(folder), torch.accelerator.current_accelerator(check_available=True))
                )
            return push_checkpoint(folder, target, code=code, drawn=drawn)

    pushed = publish(model) if isinstance(model, Model) else read_newest(Path(model), publish, checked=True)
    say(f"{'Pushed' if pushed.changed else 'Nothing has changed'}  {pushed.url}  commit {pushed.commit[:12]}")
    return pushed.commit


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
