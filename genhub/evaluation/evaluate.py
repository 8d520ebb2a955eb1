"""Draw a model's images once, hand them to every metric, and store the figures with their protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genhub.card import package_versions
from genhub.checkpoint import load_model
from genhub.config import DataConfig
from genhub.console import shown
from genhub.data import ImageData, load_data
from genhub.digests import digest_of, hash_of
from genhub.errors import DataError, InputError, did_you_mean
from genhub.evaluation.figures import METRICS
from genhub.evaluation.protocol import Evaluation, evaluations_folder
from genhub.evaluation.subject import Subject
from genhub.hub import open_model
from genhub.ids import split_id
from genhub.interfaces import GenerativeModel
from genhub.launch import check_launcher
from genhub.logs import Progress, main_process
from genhub.manifest import FILE, Manifest, read_manifest
from genhub.recipe import read_data_config
from genhub.sampling import draw_parts, processes, read_options, read_part


def evaluate(
    model: str | Path, n: int = 10_000, *, metrics: Sequence[str] | None = None, extractor: str = "probe", seed: int = 0,
    overrides: Sequence[str] = (), held_out: str = "test", labels: Sequence[int] | None = None,
    batch_size: int | None = None, device: str | None = None, **options: Any,
) -> Evaluation:  # fmt: skip
    """Measure a model by images drawn from it, and store the figures with their protocol beside its run. Of several
    processes that a launcher started, each draws a share and extracts its features.

    Args:
        model: what `genhub.load` takes.
        n: how many images to draw; those that an earlier call drew are not drawn again.
        metrics: names from METRICS; left out: all that apply to the model and the data.
        extractor: a registered name, or NAME:SOURCE (dinov2:path/to/weights).
        overrides: `data.key=value` on top of the recipe's data section, such as data.name=path/to/mnist.
        held_out: the split of the same data that the model was not trained on, for the metrics that need one.
        labels: for a conditional model, the labels to ask for in turn; left out: every class.
        options: the model's own sampler options.
    Raises:
        InputError: an unknown metric or extractor, or one that can't be had here.
        DataError: the real images are not there.
        CheckpointError: the model is not.
    """
    for name in metrics or ():
        if name not in METRICS:
            raise InputError(f"--metrics: no metric is called {shown(name)}; {did_you_mean(name, METRICS)}")
    check_launcher()
    theirs, together = str(model) if split_id(model) else None, processes(device)
    where = together.device if together else device or torch.accelerator.current_accelerator(check_available=True)

    def read(checkpoint: Path) -> tuple[Path, GenerativeModel, Manifest | None, DataConfig]:
        manifest = read_manifest(checkpoint) if (checkpoint / FILE).is_file() else None
        recipe = checkpoint / "recipe.yaml"
        config = read_data_config(recipe if recipe.is_file() else None, overrides, theirs)
        return checkpoint, load_model(checkpoint, device=where), manifest, config  # last, as it fails if anything is gone

    checkpoint, loaded, manifest, config = open_model(model, read, checked=True)
    folder = evaluations_folder(checkpoint)
    checked = read_options(type(loaded), options)
    images = f"images-{hash_of(seed, labels, sorted(checked.items()), digest_of(loaded))[:12]}"

    def draw() -> Tensor:
        progress = Progress(n, unit="image", shown=main_process())
        try:
            parts = draw_parts(
                loaded, n, folder / images, seed=seed, labels=labels, options=checked, batch_size=batch_size,
                accelerator=together, on_progress=lambda drawn: progress.advance(min(drawn, n)),
            )  # fmt: skip
        finally:
            progress.close()
        return torch.cat([read_part(part) for part in parts])[:n]

    real, unseen = load_data(config), held_out_of(config, held_out)
    subject = Subject(loaded, real, unseen, extractor, n, seed, labels, checked, draw, together)
    evaluation = measure(subject, metrics, manifest.step if manifest else 0, manifest)
    if (folder / images).is_dir():
        evaluation = evaluation.model_copy(update={"images": images})
    if main_process():
        evaluation.write(folder)
    if together:
        together.end_training()
    return evaluation


def measure(subject: Subject, names: Sequence[str] | None, step: int, manifest: Manifest | None = None) -> Evaluation:
    """Compute the metrics named, or all that apply and are computed by default.

    Raises:
        InputError: a metric that is named does not apply.
    """
    values: dict[str, float] = {}
    for name in names if names is not None else [name for name, metric in METRICS.items() if metric.by_default]:
        metric = METRICS[name]
        reason = metric.lacking(subject)
        if reason and names is not None:
            raise InputError(f"metric '{name}': {reason}")
        if not reason:
            found = metric.compute(subject)
            values |= {figure: value for figure, value in found.items() if math.isfinite(value)}
            subject.notes += [f"{figure}: {value}, left out" for figure, value in found.items() if not math.isfinite(value)]
            subject.notes += [note] if (note := metric.warning(subject)) else []
    trained_on = manifest.data if manifest else None
    if trained_on is not None and trained_on.fingerprint != subject.reference.spec.fingerprint:
        subject.notes.append("the real images are not those that the model was trained on")
    config = subject.model.config
    return Evaluation(
        model=config.name, step=step, config=config.model_dump(mode="json"), protocol=subject.protocol, values=values,
        notes=tuple(dict.fromkeys(subject.notes)), versions=package_versions(),
    )  # fmt: skip


def held_out_of(config: DataConfig, split: str) -> ImageData | DataError:
    """The split that was not trained on, or why there is none."""
    try:
        return load_data(config.model_copy(update={"split": split}))
    except DataError as error:
        return error
