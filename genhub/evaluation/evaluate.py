"""Draw a model's images once, hand them to every metric, and store the figures with their protocol."""

from __future__ import annotations

import atexit
import math
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import Any

import torch
from torch import Tensor

from genhub.data.batches import ImageData
from genhub.data.open import load_data
from genhub.errors import DataError, GenhubError, InputError, NotFinite, RecipeError, did_you_mean, shown
from genhub.evaluation.figures import METRICS, about
from genhub.evaluation.measurement import Measurement
from genhub.evaluation.protocol import Evaluation, evaluation_folders, weights_digest
from genhub.ground.console import Progress, warn
from genhub.ground.digests import hash_of
from genhub.ground.finite import check_weights
from genhub.ground.ids import split_id
from genhub.ground.processes import check_launcher, main_process, meet
from genhub.hub.load import placed
from genhub.hub.named import NamedModel
from genhub.interfaces.config import DataConfig, DataSpec
from genhub.interfaces.model import Model
from genhub.recipe.recipe import read_data_config
from genhub.sampling.draw import draw_parts, read_part
from genhub.sampling.labels import Labels
from genhub.sampling.request import Drawing
from genhub.store.card import package_versions
from genhub.store.manifest import MANIFEST, Manifest, read_manifest
from genhub.store.models import load_folder
from genhub.store.run_folder import RECIPE


def evaluate(
    model: str | Path,
    n: int = 10_000,
    *,
    metrics: Sequence[str] | None = None,
    extractor: str = "probe",
    seed: int = 0,
    overrides: Sequence[str] = (),
    held_out: str = "test",
    labels: Labels = None,
    batch_size: int | None = None,
    device: str | None = None,
    **options: Any,
) -> Evaluation:
    """Measure a model by images drawn from it, and store the figures with their protocol beside its run. Of several
    processes that a launcher started, each draws a share and extracts its features.

    Args:
        model: what `genhub.load` takes.
        n: how many images to draw; those that an earlier call drew are not drawn again.
        metrics: names from METRICS; left out: all that apply to the model and the data.
        extractor: a registered name, or NAME:SOURCE (dinov2:path/to/weights).
        overrides: `data.key=value` on top of the recipe's data section, such as data.name=path/to/mnist.
        held_out: the split of the same data that the model was not trained on, for the metrics that need one.
        labels: for a conditional model, the labels to ask for in turn, as `genhub.sample` takes them; left out: every class.
        options: the model's own sampler options.
    Raises:
        InputError: an unknown metric or extractor, or one that can't be had here.
        DataError: the real images are not there.
        CheckpointError: the model is not.
    """
    for name in metrics or ():
        if name not in METRICS:
            raise InputError(f"--metrics: no metric is called {shown(name)}; {did_you_mean(name, METRICS)}")
    if n < 2:
        raise InputError(f"-n: a figure needs 2 images or more, not {n}")
    check_launcher()
    theirs, together = str(model) if split_id(model) else None, meet(device)
    where = together.device if together else device or torch.accelerator.current_accelerator(check_available=True)
    opened = NamedModel(model).read(partial(_open, overrides, theirs, where), checked=True)
    loaded, manifest, config = opened.model, opened.manifest, opened.config
    drawing = Drawing.of(loaded, n, options, seed=seed, labels=labels, batch_size=batch_size)
    folders = evaluation_folders(opened.checkpoint, opened.weights)
    drawn = hash_of(drawing.seed, drawing.labels, sorted(drawing.options.items()), opened.weights)
    images = f"images-{drawn[:12]}"

    @cache
    def folder() -> Path:
        """Return the folder for images and figures, which the main process chooses for all."""
        found = _first_writable(folders) if main_process() else Path()
        return together.broadcast(found) if together else found

    def draw() -> Tensor:
        progress, place = Progress(n, unit="image", shown=main_process()), folder() / images
        try:
            parts = draw_parts(
                loaded, drawing, place, together=together, on_progress=lambda done: progress.advance(min(done, n))
            )
        finally:
            progress.close()
        return torch.cat([read_part(part) for part in parts])[:n]

    known = loaded.trained_on
    real, unseen = load_data(config, known=known), held_out_of(config, held_out, known)
    subject = Measurement(
        loaded,
        real,
        unseen,
        extractor,
        drawing,
        draw,
        together,
        training=lambda: _trained_on(real, manifest.data if manifest else None, opened.checkpoint / RECIPE, theirs),
    )
    evaluation = measure(subject, metrics, manifest.step if manifest else 0, manifest)
    evaluation = evaluation.model_copy(update={"weights": opened.weights})
    kept = folder() in folders
    if kept and (folder() / images).is_dir():
        evaluation = evaluation.model_copy(update={"images": images})
    if main_process() and kept:
        _keep(evaluation, folder())
    if together:
        together.end()
    return evaluation


@dataclass(frozen=True)
class _Opened:
    """A checkpoint to be measured."""

    checkpoint: Path
    manifest: Manifest | None
    config: DataConfig
    """The data to compare with."""
    weights: str
    """Digest of its weights, by `weights_digest`."""
    model: Model


def _open(overrides: Sequence[str], theirs: str | None, device: Any, checkpoint: Path) -> _Opened:
    manifest = read_manifest(checkpoint) if (checkpoint / MANIFEST).is_file() else None
    recipe = checkpoint / RECIPE
    config = read_data_config(recipe if recipe.is_file() else None, overrides, theirs)
    weights = weights_digest(checkpoint)
    model = placed(load_folder(checkpoint), device)  # last, as it fails if anything is gone
    return _Opened(checkpoint, manifest, config, weights, model)


def _first_writable(folders: Sequence[Path]) -> Path:
    """Return the first of the folders that can be written to, else a new one that goes with this process. Where it is not
    the first, a line says so."""
    faults = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            faults.append(f"{folder}: {error.strerror}")
            continue
        if faults:
            warn(f"{faults[0]}; figures and images are kept in {folder}")
        return folder
    warn(f"{faults[0]}; the figures are shown, but not kept")
    folder = Path(mkdtemp(prefix="genhub-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _keep(evaluation: Evaluation, folder: Path) -> None:
    """Store figures; where that fails, as on a full disk, warn, and have them shown all the same."""
    try:
        evaluation.write(folder)
    except GenhubError as error:
        warn(f"{error}; the figures are shown, but not kept")


def measure(subject: Measurement, names: Sequence[str] | None, step: int, manifest: Manifest | None = None) -> Evaluation:
    """Compute the metrics named, or all that apply and are computed by default.

    Raises:
        InputError: a metric that is named does not apply.
        NotFinite: a weight, an image or a feature is NaN or infinite, or every figure is.
    """
    check_weights(subject.model)
    values, left_out, reader = dict[str, float](), list[str](), None
    wanted = names if names is not None else [name for name, metric in METRICS.items() if metric.by_default]
    for metric in map(METRICS.__getitem__, wanted):
        reason = metric.missing(subject)
        if reason and names is not None:
            raise InputError(f"metric '{metric.name}': {reason}")
        if few := metric.too_few(subject):
            subject.notes.append(f"{metric.name}: {few}")
        if not reason:
            found = metric.compute(subject)
            reader = subject.probe.fingerprint if metric.by_labels else reader
            values |= {figure: value for figure, value in found.items() if math.isfinite(value)}
            left_out += [f"{figure}: {value}, left out" for figure, value in found.items() if not math.isfinite(value)]
            subject.notes += [note] if (note := metric.warning(subject)) else []
    subject.notes += [*left_out, *about(subject, wanted)]
    if left_out and not values:
        raise NotFinite(f"nothing could be measured: {'; '.join(left_out)}")
    trained_on = manifest.data if manifest else None
    if trained_on is not None and trained_on.fingerprint != subject.reference.spec.fingerprint:
        subject.notes.append("the real images are not those that the model was trained on")
    config, protocol = subject.model.config, subject.protocol.model_copy(update={"reader": reader})
    return Evaluation(
        model=config.name,
        step=step,
        config=config.model_dump(mode="json"),
        protocol=protocol,
        values=values,
        notes=tuple(dict.fromkeys(subject.notes)),
        versions=package_versions(),
    )


def _trained_on(real: ImageData, spec: DataSpec | None, recipe: Path, theirs: str | None) -> ImageData:
    """Return the images that a model was trained on; where they can't be had, the real ones that it is compared with."""
    if spec and spec.fingerprint != real.spec.fingerprint and recipe.is_file():
        with suppress(DataError, RecipeError):
            own = load_data(read_data_config(recipe, (), theirs), known=spec)
            if own.spec.fingerprint == spec.fingerprint:
                return own
    return real


def held_out_of(config: DataConfig, split: str, known: DataSpec | None) -> ImageData | DataError:
    """Return the split that was not trained on, its labels numbered as in the trained one, or why there is none."""
    try:
        return load_data(config.model_copy(update={"split": split}), known=known)
    except DataError as error:
        return error
