"""Prepare a run: from a recipe to the objects that it names, and to a run that can start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from genhub.data.batches import TableData
from genhub.data.encoded import with_encoders
from genhub.data.latents import CachedLatents, training_data
from genhub.data.open import open_data
from genhub.data.stream import StreamData
from genhub.errors import CheckpointError, InputError, NewerFormat, RecipeError
from genhub.evaluation.during import Evaluator
from genhub.evaluation.given import given_rows
from genhub.ground.console import say, warn
from genhub.ground.processes import main_process
from genhub.hub.named import NamedModel
from genhub.interfaces.columns import ModelData, count_of
from genhub.interfaces.model import Model
from genhub.interfaces.trainer import Trainer
from genhub.recipe.recipe import Recipe
from genhub.recipe.shipped import check_trained
from genhub.run.claims import check_folder, check_origin, check_recipe, recipe_before
from genhub.run.run import FolderRun
from genhub.sampling.request import Drawing
from genhub.store.classes import read_model
from genhub.store.find import weight_bytes
from genhub.store.manifest import check_resumable, read_manifest
from genhub.store.models import check_size, load_folder, load_weights


@dataclass(frozen=True)
class Prepared:
    """Objects that a recipe names, and the recipe with the shapes that the data filled in."""

    recipe: Recipe
    model: Model
    data: TableData | StreamData


@dataclass(frozen=True)
class Start:
    """A run that can start."""

    prepared: Prepared
    run: FolderRun
    trainer: Trainer
    training: TableData | StreamData | CachedLatents
    """Data for the trainer: the rows, or the latents that a frozen network makes of them."""

    def of_steps(self, steps: int) -> Start:
        """Give the run so many steps, in place of those for a time, and return the start with a trainer for them."""
        recipe, run = self.prepared.recipe, self.run
        run.config = config = recipe.trainer.model_copy(update={"max_steps": steps, "max_time": None})
        if run.evaluator:
            run.evaluator.max_steps = steps
        prepared = replace(self.prepared, recipe=recipe.model_copy(update={"trainer": config}))
        return Start(prepared, run, type(self.trainer)(config, run), self.training)


def prepare_run(recipe: Recipe, fresh: bool = False) -> Start:
    """Prepare everything that a run needs, and print a few lines on it. Whatever would keep it from starting is found out
    here, where nothing is written yet: `train` and `--dry-run` say the same.

    Raises:
        GenhubError: see `train`.
    """
    run_folder = Path(recipe.run_dir)
    run = FolderRun(run_folder, recipe.trainer, recipe.seed)  # its clock starts here
    trainer = recipe.trainer_class()(recipe.trainer, run)
    before = None
    if main_process():
        check_folder(run_folder, fresh)
        before = None if fresh else recipe_before(run_folder)
        check_origin(recipe, before, run_folder)
    stopped_at = None if fresh else run.newest_whole()
    known = _columns_of(stopped_at) if stopped_at else _known(recipe)
    check_recipe(recipe, before, run_folder)
    data = open_data(recipe.data, recipe.model.conditions, known)
    recipe = recipe.filled_from(data.spec)
    data.condition_dropout = recipe.model.condition_dropout
    model = _resumed(recipe, stopped_at) if stopped_at else None
    prepared = Prepared(recipe, model or _build(recipe), data)
    prepared.model.trained_on = data.spec
    data = with_encoders(prepared.model, data) if isinstance(data, TableData) else data
    training = training_data(prepared.model, data)
    trainer.check(prepared.model, training)
    describe(prepared)
    if recipe.evaluate and isinstance(data, TableData):  # never a stream: the recipe has said so
        run.evaluator = Evaluator(recipe.evaluate, prepared.model, data, run.files, recipe.trainer.max_steps)
    splits = [run.evaluator.held_out] if run.evaluator else []
    splits += [data] if isinstance(data, TableData) else []
    drawing, _ = given_rows(Drawing(recipe.trainer.num_samples), prepared.model, splits)
    run.preview_conditions = drawing.conditions
    return Start(prepared, run, trainer, training)


def prepare(recipe: Recipe) -> Prepared:
    """Load the data, shape the model by it, and give it the weights that `model.from` names.

    Raises:
        RecipeError: recipe and data don't fit together.
    """
    data = open_data(recipe.data, recipe.model.conditions, _known(recipe))
    recipe = recipe.filled_from(data.spec)
    model = _build(recipe)
    model.trained_on = data.spec
    training_data(model, data)  # what it can't be is told now; nothing is computed
    return Prepared(recipe, model, data)


def _known(recipe: Recipe) -> ModelData | None:
    """Return the columns by which the data are read: those of the model that training starts from, or that the model
    contains; None: they are learnt.

    Raises:
        RecipeError: the model that it contains is not there, or can't be read.
    """
    if recipe.known or not recipe.model.contains:
        return recipe.known
    key, source = recipe.model.contains
    try:
        check_trained(source)
        return NamedModel(source).read(read_model, weights=False)[1].data
    except InputError as error:
        raise RecipeError(f"model.{key}: {error}") from error


def _build(recipe: Recipe) -> Model:
    if recipe.initial is None:
        return _first(recipe, None)
    return recipe.initial.read(partial(_first, recipe), checked=True)


def _first(recipe: Recipe, source: Path | None) -> Model:
    """Return the model that training starts with, its weights those of the folder `source`, if there is one."""
    if source is not None:  # its own Config, that is, and not what the user makes of it
        own = recipe.model_class() if ":" in recipe.model.name else None  # a registered one may be of another family
        check_size(*read_model(source, own), weight_bytes(source), source)
    torch.manual_seed(recipe.seed)  # the first weights are the seed's, too
    model: Model = recipe.model_class()(recipe.model)
    if source is not None:
        load_weights(model, source)
    return model


def _columns_of(checkpoint: Path) -> ModelData | None:
    """Return the columns as a run's checkpoint has them, by which its data are read again.

    Raises:
        CheckpointError: it is of format 1, from before there were columns.
    """
    check_resumable(checkpoint)
    data = read_manifest(checkpoint).data
    return data.model_data if data else None


def _resumed(recipe: Recipe, checkpoint: Path) -> Model | None:
    """Return the model as a checkpoint of the run has it: what the recipe took from other models is in there.

    Raises:
        CheckpointError: a newer genhub wrote it.
    """
    torch.manual_seed(recipe.seed)
    try:
        return load_folder(checkpoint, recipe.model_class())
    except NewerFormat:
        raise
    except CheckpointError:  # its files are whole, so the code has changed: the trainer says how
        return None


def describe(prepared: Prepared) -> None:
    """Say in a few lines what is about to happen."""
    recipe, spec = prepared.recipe, prepared.data.spec
    if recipe.left_out:
        say(f"Recipe   of {recipe.origin}, without {', '.join(recipe.left_out)}: yours to set")
    shape = "x".join(map(str, spec.modality.shape))
    parameters = sum(p.numel() for p in prepared.model.parameters())
    say(f"Model    {recipe.model.name}, {parameters:,} parameters")
    say(f"Data     {spec.name}, {count_of(spec)} of {spec.target}: {spec.modality.modality} {shape}")
    if facts := [f"{key} {value:g}" for key, value in spec.modality.facts().items() if isinstance(value, int | float)]:
        say(f"         {', '.join(facts)}")
    for name, modality in spec.conditions.items():
        say(f"Given    {name}: {modality.told()}")
    for note in prepared.data.notes:
        warn(f"WARNING: {note}")
    for _, text in prepared.data.skipped[:5]:
        say(f"         left out {text}")
    if len(prepared.data.skipped) > 5:
        say(f"         left out {len(prepared.data.skipped)} rows in all")
    if unused := [name for name in prepared.data.available if name not in spec.columns]:
        them = "it" if len(unused) == 1 else "them"
        say(f"         the data also has {', '.join(unused)}; {recipe.model.name} is not given {them}")
    most = f"for {recipe.trainer.max_time}, steps" if recipe.trainer.max_time else f"{recipe.trainer.max_steps:,} steps"
    say(f"Training {most} of {recipe.data.batch_size} rows, in {recipe.run_dir}")
