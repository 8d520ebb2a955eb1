"""What of a checkpoint is published, and pushing while a run trains."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from genhub.card import CARD, MEASURED, PICTURE, Measured, model_card, read_measured
from genhub.config import DataSpec, HubConfig
from genhub.errors import CheckpointError, GenhubError, InputError, without_passwords
from genhub.evaluation.protocol import stored_evaluations, weights_digest
from genhub.hub import ALLOWED
from genhub.logs import warn
from genhub.manifest import CODE, FILE, TRAINER, FileEntry, Manifest, read_manifest
from genhub.parsing import Source, parse_yaml, read_text, to_yaml
from genhub.push import Pushed, push
from genhub.run_folder import RECIPE
from genhub.theirs import without_own

Files = dict[str, bytes | Path]
"""Path in the repository to content."""

LAST_PUSH = 600.0
"""Seconds that a run which is done waits for its last push."""
STOPPED_PUSH = 5.0
"""Seconds that a run which is stopped waits for a push under way."""


def publication(
    folder: Path, repo_id: str, *, license: str | None = None, code: Path | None = None, picture: bytes | None = None
) -> Files:
    """The files of a checkpoint that are published: what its genhub.json lists without the trainer's part, a card for
    this repository, a recipe without what is this machine's own, and a genhub.json that lists just these.

    What was measured of it goes along as metrics.json, and into the card.

    Args:
        code: the class's source, published as plugin.py.
        picture: samples.png, for a checkpoint that has none.
    Raises:
        CheckpointError: the checkpoint is damaged, or has files that can't be published.
    """
    manifest = read_manifest(folder)
    listed = [name for name in manifest.files if not name.startswith(f"{TRAINER}/")]
    files: Files = {name: _regular(folder, name) for name in listed}
    Manifest.verify_files({name: entry for name, entry in manifest.files.items() if name in files}, folder)
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
    files[CARD] = model_card(
        manifest, folder, recipe=recipe, repo_id=repo_id, license=license, picture=PICTURE in files, measured=measured
    ).encode()
    entries = {name: FileEntry.of(content) for name, content in sorted(files.items())}
    files[FILE] = manifest.model_copy(update={"files": entries}).text().encode()
    if code is not None:
        files[CODE] = code
    return files


def _measured(folder: Path) -> tuple[Measured, ...]:
    """What `genhub evaluate` found out about a checkpoint, each figure with its protocol."""
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


def push_checkpoint(
    folder: Path, repo_id: str, *, private: bool = False, revision: str | None = None, tag: str | None = None,
    token: str | None = None, license: str | None = None, code: Path | None = None, picture: bytes | None = None,
) -> Pushed:  # fmt: skip
    """Publish a checkpoint in one commit. See `publication` and `push.push`."""
    step = read_manifest(folder).step
    files = publication(folder, repo_id, license=license, code=code, picture=picture)
    message = f"Step {step}" if step else "Push by genhub"
    return push(repo_id, files, message=message, private=private, revision=revision, tag=tag, token=token)


def own_code(name: str) -> Path:
    """The file of a `module:Class`, beside which the command is run. Nothing is imported.

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
    content, _ = without_own(parse_yaml(recipe, Source(str(folder / RECIPE))))
    return to_yaml(_with_names(content))


def _with_names(value: Any) -> Any:
    """A recipe's content with `_portable_name` in place of each path."""
    if isinstance(value, dict):
        return {key: _with_names(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_names(inner) for inner in value]
    return _portable_name(value) if isinstance(value, str) else value


def _portable_data(data: DataSpec | None) -> DataSpec | None:
    return data and data.model_copy(update={"name": _portable_name(data.name)})


def _portable_name(name: str) -> str:
    """The name alone of what a path of this machine leads to; also of an extractor's, as in dinov2:/home/me/weights, and of
    several files', as in /data/a.parquet + /data/b.parquet."""
    if " + " in name:
        return " + ".join(Path(part).name for part in name.split(" + "))
    if name.startswith(("/", "~", ".")) or Path(name).is_absolute() or Path(name.partition("/")[0]).is_dir():
        return Path(name).name
    return re.sub(r"(?<=[:(])(?:/(?!/)|~|\.\.)[^()]*", lambda path: Path(path[0]).name, name)


# While a run trains


class Publisher:
    """Pushes a run's checkpoints from a thread of its own. The run never waits for it but at its end, and a push that
    fails is a warning. Checkpoints that come while one is pushed wait, and only the newest of them is pushed."""

    def __init__(self, config: HubConfig, run_dir: Path) -> None:
        self.config = config
        self._stage = run_dir / ".publishing"
        self._last_step: int | None = None
        self._waiting: Path | None = None
        self._closed = False
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="genhub-push", daemon=True)
        shutil.rmtree(self._stage, ignore_errors=True)
        self._thread.start()

    def offer(self, folder: Path, last: bool) -> None:
        """Take note of a new checkpoint; it may be deleted once this returns."""
        step = read_manifest(folder).step
        every = self.config.every
        if not last and every is not None and step // every == (self._last_step or 0) // every:
            return
        self._last_step = step
        try:
            self._stage.mkdir(exist_ok=True)
            staged = Path(tempfile.mkdtemp(dir=self._stage)) / folder.name
            shutil.copytree(folder, staged, copy_function=_link, symlinks=True, ignore=shutil.ignore_patterns(TRAINER))
        except OSError as error:
            warn(f"{self.config.repo_id}: step {step} is not pushed: {error}")
            return
        with self._turn:
            self._waiting = staged
            self._turn.notify()

    def close(self, seconds: float) -> None:
        """Wait for the newest checkpoint's push, but not for ever."""
        with self._turn:
            self._closed = True
            self._turn.notify()
        self._thread.join(seconds)
        if self._thread.is_alive():
            warn(f"{self.config.repo_id}: the last push is not done after {seconds:.0f} s; genhub push finishes it")
        else:
            shutil.rmtree(self._stage, ignore_errors=True)

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._waiting or self._closed)
                staged, self._waiting = self._waiting, None
            if staged is None:
                return
            try:
                config = self.config
                push_checkpoint(
                    staged, config.repo_id, private=config.private, revision=config.revision, license=config.license
                )
            except GenhubError as error:
                warn(f"{error}; the run goes on")
            except Exception as error:  # whatever it is, it is no reason to stop a run
                reason = without_passwords(f"{type(error).__name__}: {error}")
                warn(f"{self.config.repo_id}: {staged.name} is not pushed: {reason}; the run goes on")


def _link(source: str, target: str) -> None:
    """A second name for a file, that stays when the first is deleted; a copy where the disk has no such thing."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
