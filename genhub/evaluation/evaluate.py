"""Draw from a model once, hand it to every metric, and store the figures with their protocol."""

from __future__ import annotations

import atexit
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import Any

import torch
from torch import Tensor

from genhub.data.batches import TableData
from genhub.errors import DataError, GenhubError, InputError, NotFinite, RecipeError
from genhub.evaluation.chosen import Chosen, MetricFailed, about, all_metrics, check_names, metric_named
from genhub.evaluation.given import data_for, given_rows, recipe_of, told
from genhub.evaluation.in_place import floor_of
from genhub.evaluation.intervals import Computed, Interval, values_of
from genhub.evaluation.measurement import Measurement
from genhub.evaluation.protocol import Evaluation, evaluation_folders, weights_digest
from genhub.ground.console import Progress, warn
from genhub.ground.digests import hash_of
from genhub.ground.finite import check_weights
from genhub.ground.ids import split_id
from genhub.ground.processes import check_launcher, main_process, meet
from genhub.hub.load import placed
from genhub.hub.named import NamedModel
from genhub.interfaces.columns import DataConfig, DataSpec
from genhub.interfaces.model import Model
from genhub.recipe.recipe import read_data_config
from genhub.sampling.draw import draw_parts, read_part
from genhub.sampling.request import Drawing
from genhub.store.card import package_versions
from genhub.store.manifest import FORMAT, MANIFEST, Manifest, read_manifest
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
    conditions: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    **options: Any,
) -> Evaluation:
    """Measure a model by what is drawn from it, and store the figures with their protocol beside its run. Of several
    processes that a launcher started, each draws a share and extracts its features.

    Args:
        model: what `genhub.load` takes.
        n: how many rows to draw; those that an earlier call drew are not drawn again.
        metrics: registered names; left out: all that apply to the model and the data.
        extractor: a registered name, or NAME:SOURCE (dinov2:path/to/weights).
        overrides: `data.key=value` on top of the recipe's data section, such as data.name=path/to/mnist.
        held_out: the split of the same data that the model was not trained on, for the metrics that need one.
        conditions: what to ask a conditional model for, as `genhub.sample` takes it; left out: of a model that is given a
            class alone every class in turn, of another one the conditions of rows of the held-out split, else of the real
            ones.
        options: the model's own sampler options.
    Raises:
        InputError: an unknown metric or extractor, or one that can't be had here.
        DataError: the real data are not there.
        CheckpointError: the model is not.
    """
    check_names(metrics or ())
    if n < 2:
        raise InputError(f"-n: a figure needs 2 rows or more, not {n}")
    check_launcher()
    theirs, together = str(model) if split_id(model) else None, meet(device)
    where = together.device if together else device or torch.accelerator.current_accelerator(check_available=True)
    opened = NamedModel(model).read(partial(_open, overrides, theirs, where), checked=True)
    loaded, manifest, config = opened.model, opened.manifest, opened.config
    drawing = Drawing.of(loaded, n, options, seed=seed, conditions=conditions, batch_size=batch_size)
    real, unseen = data_for(loaded, config), held_out_of(loaded, config, held_out)
    drawing, rows_of = given_rows(drawing, loaded, [unseen, real])
    folders = evaluation_folders(opened.checkpoint, opened.weights)
    given = sorted(told(drawing, loaded).items()) if drawing.conditions else None
    drawn = f"drawn-{hash_of(drawing.seed, given, sorted(drawing.options.items()), opened.weights)[:12]}"

    @cache
    def folder() -> Path:
        """Return the folder for what is drawn and for figures, which the main process chooses for all."""
        found = _first_writable(folders) if main_process() else Path()
        return together.broadcast(found) if together else found

    def draw() -> Tensor:
        progress, place = Progress(n, unit="row", shown=main_process()), folder() / drawn
        try:
            parts = draw_parts(
                loaded, drawing, place, together=together, on_progress=lambda done: progress.advance(min(done, n))
            )
        finally:
            progress.close()
        return torch.cat([read_part(part) for part in parts])[:n]

    spec = manifest.data if manifest and manifest.format == FORMAT else None  # older fingerprints are not comparable
    recipe = opened.checkpoint / RECIPE
    subject = Measurement(
        loaded,
        real,
        unseen,
        extractor,
        drawing,
        draw,
        together,
        training=lambda: _trained_on(loaded, real, spec, recipe, theirs),
        rows_of=rows_of,
    )
    evaluation = measure(subject, metrics, manifest.step if manifest else 0, spec)
    evaluation = evaluation.model_copy(update={"weights": opened.weights})
    kept = folder() in folders
    if kept and (folder() / drawn).is_dir():
        evaluation = evaluation.model_copy(update={"drawn": drawn})
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
    recipe = recipe_of(checkpoint)
    named = any(override.startswith("data.name=") for override in overrides)
    if recipe is None and (checkpoint / RECIPE).is_file() and not named:
        raise InputError(f"{checkpoint}: its recipe is an older genhub's; say which real data to compare with: data.name=")
    config = read_data_config(recipe, overrides, theirs)
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
            warn(f"{faults[0]}; figures and drawn rows are kept in {folder}")
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


def measure(subject: Measurement, names: Sequence[str] | None, step: int, trained_on: DataSpec | None = None) -> Evaluation:
    """Compute the metrics named, or all that apply and are computed by default.

    Args:
        trained_on: spec of the data that the model was trained on, where it is known.
    Raises:
        InputError: a metric that is named does not apply.
        NotFinite: a weight, a drawn number or a feature is NaN or infinite, or every figure is.
        MetricFailed: the only metric raised something, or all did; of several, a note says which.
    """
    check_weights(subject.model)
    chosen, notes = ([metric_named(name) for name in names], []) if names is not None else _by_default()
    if names is not None:
        _check_all_apply(chosen, subject)
    values, intervals, floor, left_out = dict[str, float](), dict[str, Interval](), dict[str, float](), list[str]()
    for metric in chosen:
        try:
            found = _figures(metric, subject)
        except MetricFailed as error:
            if len(chosen) == 1:
                raise
            notes.append(f"{error}; left out")
            continue
        finite = {figure: value for figure, value in values_of(found).items() if math.isfinite(value)}
        left_out += [f"{figure}: {value}, left out" for figure, value in values_of(found).items() if figure not in finite]
        values |= finite
        if finite:
            try:
                intervals |= metric.intervals(subject, found)
                floor |= floor_of(metric, subject)
            except GenhubError as error:  # what is known is kept
                notes.append(f"{metric.name}: no interval or no real rows beside it: {error}")
    subject.notes += [*notes, *left_out, *about(subject, chosen)]
    if not values and (left_out or notes):
        fault = NotFinite if left_out else MetricFailed
        raise fault(f"nothing could be measured: {'; '.join([*left_out, *notes])}")
    if trained_on is not None and not _same_target(trained_on, subject.reference.spec):
        subject.notes.append("the real rows are not those that the model was trained on")
    reader = subject.probe.fingerprint if "probabilities" in subject.__dict__ else None
    config, protocol = subject.model.config, subject.protocol.model_copy(update={"reader": reader})
    return Evaluation(
        model=config.name,
        step=step,
        config=config.model_dump(mode="json"),
        protocol=protocol,
        values=values,
        intervals={figure: ends for figure, ends in intervals.items() if figure in values},
        floor={figure: value for figure, value in floor.items() if figure in values},
        probe_accuracy=subject.probe.accuracy if "probe" in subject.__dict__ else None,
        notes=tuple(dict.fromkeys(subject.notes)),
        versions=package_versions(),
    )


def _by_default() -> tuple[list[Chosen], list[str]]:
    """Return the metrics that are computed where nobody names any, and what is wrong with those that can't be used."""
    found, faults = all_metrics()
    return [chosen for chosen in found if chosen.metric.by_default], faults


def _check_all_apply(chosen: Sequence[Chosen], subject: Measurement) -> None:
    """
    Raises:
        InputError: a metric that was named does not apply; nothing has been drawn then.
    """
    for metric in chosen:
        with suppress(MetricFailed):  # which is told when it is computed
            if reason := metric.missing(subject):
                raise InputError(f"metric '{metric.name}': {reason}")


def _figures(chosen: Chosen, subject: Measurement) -> Computed:
    """Return a metric's figures, as it gives them, with what a reader must know of them in the subject's notes; none where
    it does not apply.

    Raises:
        MetricFailed: it fails.
    """
    if few := chosen.too_few(subject):
        subject.notes.append(f"{chosen.name}: {few}")
    if chosen.missing(subject):
        return {}
    found = chosen.rows(subject)
    subject.notes += [note] if (note := chosen.warning(subject)) else []
    return found


def _same_target(one: DataSpec, other: DataSpec) -> bool:
    """Whether two data sets have the same targets in the same order, whatever else they have."""
    return one.fingerprints[one.target] == other.fingerprints[other.target]


def _trained_on(model: Model, real: TableData, spec: DataSpec | None, recipe: Path, theirs: str | None) -> TableData:
    """Return the data that a model was trained on; where they can't be had, the real ones that it is compared with."""
    if spec and not _same_target(spec, real.spec) and recipe.is_file():
        with suppress(DataError, RecipeError):
            own = data_for(model, read_data_config(recipe, (), theirs))
            if _same_target(spec, own.spec):
                return own
    return real


def held_out_of(model: Model, config: DataConfig, split: str) -> TableData | DataError:
    """Return the split that was not trained on, read as the model knows its columns, or why there is none."""
    try:
        return data_for(model, config.model_copy(update={"split": split}))
    except DataError as error:
        return error
