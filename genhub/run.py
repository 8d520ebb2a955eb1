"""From a recipe to a trained model, and from a folder to pictures: what the verbs and the Python API call."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genhub.card import PICTURE
from genhub.checkpoint import check_same_data, check_size, load_model, save_model
from genhub.claims import check_folder, check_origin, check_recipe, claimed, recipe_before, write_recipe
from genhub.config import count_of
from genhub.data import ImageData
from genhub.digests import digest_of
from genhub.errors import CheckpointError, InputError, NewerFormat
from genhub.evaluation.during import Evaluator
from genhub.files import draw_to, save_images
from genhub.hub import open_model
from genhub.ids import nearest_path
from genhub.interfaces import GenerativeModel
from genhub.latents import CachedLatents, training_data
from genhub.launch import check_launcher, launched
from genhub.logs import Progress, main_process, say, warn
from genhub.manifest import FILE, checkpoints, newest_whole, read_manifest, read_model, weight_bytes
from genhub.options import read_options
from genhub.publish import LAST_PUSH, STOPPED_PUSH, Publisher, own_code, push_checkpoint
from genhub.push import Pushed, check_id
from genhub.recipe import Recipe, RecipeLike, read_recipe, shipped_recipes
from genhub.run_folder import previews, read_newest
from genhub.sampling import Labels, called, classes_of, labels_for, processes, sample_images
from genhub.stream import ImageStream, open_data
from genhub.training import Trainer
from genhub.workers import deaths_explained


@dataclass(frozen=True)
class Prepared:
    """The objects a recipe names; its recipe has the shapes that the data filled in."""

    recipe: Recipe
    model: GenerativeModel
    data: ImageData | ImageStream


def load(
    source: str | Path, *, revision: str | None = None, device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None, token: str | None = None, local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> GenerativeModel:  # fmt: skip
    """The model in a run's folder (its newest whole checkpoint), a checkpoint, a folder that diffusers saved, or a
    repository on the Hub, `user/name`. An existing path goes first.

    Args:
        revision: of a repository: branch, tag or commit; left out: main. `user/name@revision` says the same.
        dtype: float32, bfloat16, float16 or float64, for weights and buffers; left out: float32.
        token: left out: that of `hf auth login` or HF_TOKEN.
        local_files_only: take what was fetched before, and ask nobody.
        trust_remote_code: run a repository's own plugin.py, at a commit that `revision` names in full: exactly the bytes
            whose hash is said. Without both, nothing of a repository is run.
    Returns:
        The model with its averaged weights, in eval mode, on `device` (the CPU if left out).
    Raises:
        CheckpointError: no model is there, it is damaged, or its plugin is not installed.
        HubError: the repository is not there, not for this login, or not what it says.
        HubUnavailable: the Hub can't be reached, and the model was not fetched before.
    """
    path = Path(source)
    if path.parent == Path("runs") and path.name in shipped_recipes() and not path.exists():
        raise CheckpointError(f"{path}: not trained yet: genhub train {path.name}")
    return load_model(source, device=device, dtype=dtype, revision=revision, token=token,
                      local_files_only=local_files_only, trust_remote_code=trust_remote_code)  # fmt: skip


def train(recipe: RecipeLike, overrides: Sequence[str] = (), *, run_dir: str | None = None, fresh: bool = False) -> Path:
    """Train what a recipe says, going on where a stopped run was.

    Args:
        recipe: a file, a shipped recipe's name, a mapping, or a Recipe.
        overrides: `key.path=value`, on top of the recipe.
        fresh: start over; the old run's folder is kept under another name.
    Returns:
        The last checkpoint's folder.
    Raises:
        GenhubError: see genhub.errors; bad input is told before step 0.
    """
    check_launcher()
    start = prepare_run(read_recipe(recipe, overrides, run_dir), fresh)
    recipe, trainer, run_folder = start.prepared.recipe, start.trainer, start.trainer.run_dir
    with ExitStack() as stack:
        if main_process():  # the others meet it in `fit`
            stack.enter_context(claimed(run_folder, fresh))
            write_recipe(recipe, run_folder)
        stack.enter_context(_publishing(recipe, run_folder, trainer))
        stack.enter_context(deaths_explained())
        folder: Path = trainer.fit(start.prepared.model, start.training)
    if pictures := previews(run_folder):
        say(f"Picture  {pictures[-1]}")
    say(f"Model    {folder}")
    if trainer.evaluator:
        trainer.evaluator.conclude()
    say(f"Next     genhub sample {run_folder} -n 64 --out samples.png")
    return folder


@dataclass(frozen=True)
class Start:
    """A run that can start."""

    prepared: Prepared
    trainer: Trainer
    training: ImageData | ImageStream | CachedLatents
    """Data for the trainer: the images, or the latents that a frozen network makes of them."""


def prepare_run(recipe: Recipe, fresh: bool = False) -> Start:
    """Prepare everything that a run needs, and print a few lines on it. Whatever would keep it from starting is found out
    here, where nothing is written yet: `train` and `--dry-run` say the same.

    Raises:
        GenhubError: see `train`.
    """
    run_folder = Path(recipe.run_dir)
    trainer = recipe.trainer_class()(recipe.trainer, run_dir=run_folder, seed=recipe.seed)  # its clock starts here
    before = None
    if main_process():
        check_folder(run_folder, fresh)
        before = None if fresh else recipe_before(run_folder)
        check_origin(recipe, before, run_folder)
    data = open_data(recipe.data, meanwhile=partial(_import_early, recipe.model_class()))
    recipe = recipe.filled_from(data.spec)
    check_recipe(recipe, before, run_folder)
    model = None if fresh else _resumed(recipe, run_folder, data)
    prepared = Prepared(recipe, model or _build(recipe), data)
    prepared.model.trained_on = data.spec
    training = training_data(prepared.model, data)
    trainer.check(prepared.model, training)
    describe(prepared)
    if recipe.evaluate and isinstance(data, ImageData):  # never a stream: the recipe has said so
        trainer.evaluator = Evaluator(recipe.evaluate, prepared.model, data, run_folder, recipe.trainer.max_steps)
    return Start(prepared, trainer, training)


def prepare(recipe: Recipe) -> Prepared:
    """Load the data, shape the model by it, and give it the weights that `model.from` names.

    Raises:
        RecipeError: recipe and data don't fit together.
    """
    data = open_data(recipe.data)
    recipe = recipe.filled_from(data.spec)
    model = _build(recipe)
    model.trained_on = data.spec
    training_data(model, data)  # what it can't be is told now; nothing is computed
    return Prepared(recipe, model, data)


def _import_early(model_class: type[GenerativeModel]) -> None:
    """Import what building a model of this class and its optimizers will."""
    with suppress(Exception):  # told where it is needed
        for name in model_class.imports:
            import_module(name)
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # the first optimizer imports torch._dynamo


def _build(recipe: Recipe) -> GenerativeModel:
    if recipe.init_from is None:
        return _first(recipe, None)
    return open_model(recipe.init_from, partial(_first, recipe), checked=True)


def _first(recipe: Recipe, source: Path | None) -> GenerativeModel:
    """Return the model that training starts with, its weights those of the folder `source`, if there is one."""
    if source is not None:  # its own Config, that is, and not what the user makes of it
        check_size(*read_model(source, recipe.model_class()), weight_bytes(source), source)
    torch.manual_seed(recipe.seed)  # the first weights are the seed's, too
    model: GenerativeModel = recipe.model_class()(recipe.model)
    if source is not None:
        model.load_networks(source)
    return model


def _resumed(recipe: Recipe, run_folder: Path, data: ImageData | ImageStream) -> GenerativeModel | None:
    """Return the model as the run's newest whole checkpoint has it: what the recipe took from other models is in there.

    Raises:
        CheckpointError: there are checkpoints, and none is whole; or a newer genhub wrote the newest.
        RecipeError: the images are not those that the run was trained on.
    """
    torch.manual_seed(recipe.seed)
    for folder in checkpoints(run_folder):
        try:
            model = load_model(folder, recipe.model_class())
        except NewerFormat:
            raise
        except CheckpointError:  # the trainer says what is wrong with it
            continue
        check_same_data(folder, data)
        return model
    newest_whole(run_folder)
    return None


def describe(prepared: Prepared) -> None:
    """Say in a few lines what is about to happen."""
    recipe, spec = prepared.recipe, prepared.data.spec
    if recipe.left_out:
        say(f"Recipe   of {recipe.origin}, without {', '.join(recipe.left_out)}: yours to set")
    shape = "x".join(map(str, spec.shape))
    classes = f", {spec.num_classes} classes" if spec.num_classes else ""
    parameters = sum(p.numel() for p in prepared.model.parameters())
    say(f"Model    {recipe.model.name}, {parameters:,} parameters")
    say(f"Data     {spec.name}, {count_of(spec)} of {shape}{classes}")
    if spec.value_range:
        say("         {:g} is black and {:g} is white".format(*spec.value_range))
    for note in prepared.data.notes:
        warn(f"WARNING: {note}")
    for _, text in prepared.data.skipped[:5]:
        say(f"         left out {text}")
    if len(prepared.data.skipped) > 5:
        say(f"         left out {len(prepared.data.skipped)} images in all")
    unused = [c for c in prepared.data.columns if c != "images" and c not in prepared.model.conditions]
    if unused:
        say(f"         the data has {', '.join(unused)}; {recipe.model.name} does not use them")
    say(f"Training {recipe.trainer.max_steps:,} steps of {recipe.data.batch_size} images, in {recipe.run_dir}")


# Sampling


def sample(
    model: GenerativeModel | str | Path, n: int = 64, *, seed: int = 0, labels: Labels = None,
    batch_size: int | None = None, out: str | Path | None = None, device: str | None = None, dtype: str | None = None,
    compile: bool = False, trust_remote_code: bool = False, **options: Any,
) -> Tensor:  # fmt: skip
    """Draw n images and, with `out`, write them (x.png: a grid; x.npz: arrays; x.parquet: a data set; a folder: one PNG an
    image).

    Args:
        model: a model, or what `load` takes.
        labels: for a conditional model, repeated in turn: classes by name, such as "cat" or 7, and by number only where they
            have no names; also a text, "cat,dog". Left out: every class.
        device: where to load it; left out: the accelerator, if there is one.
        dtype: the precision to load it in: see `load`.
        compile: torch.compile the networks first, a minute or so that many images make up for; they stay compiled.
        trust_remote_code: see `load`; the model is `user/name@commit`.
        options: the model's own, such as num_inference_steps.
    Returns:
        (n, c, h, w) uint8; image i depends on the seed and i alone, up to the rounding of a precision or of `compile`.
    Raises:
        InputError: an unknown option, label or ending.
        CheckpointError: see `load`.
    """
    if not isinstance(model, GenerativeModel):
        model = load(model, device=device or torch.accelerator.current_accelerator(check_available=True), dtype=dtype,
                     trust_remote_code=trust_remote_code)  # fmt: skip
    if compile:
        _compile(model)
    options, classes = read_options(model, options), classes_of(model, labels)
    with _drawing(model, n) as on_progress:
        images = sample_images(model, n, seed=seed, labels=classes, batch_size=batch_size, options=options,
                               on_progress=on_progress)  # fmt: skip
    if out is not None:
        wanted = labels_for(model, n, classes)
        save_images(images, Path(out), None if wanted is None else wanted.tolist(), of=model.trained_on)
    return images


def sample_to(
    source: str | Path, n: int, out: Path, *, seed: int = 0, labels: Labels = None,
    batch_size: int | None = None, device: str | None = None, dtype: str | None = None, compile: bool = False,
    trust_remote_code: bool = False, **options: Any,
) -> None:  # fmt: skip
    """`sample` to a file or folder for any number of images: on all processes that a launcher started, in little memory,
    and going on where an earlier call was stopped. The arguments are those of `sample`.

    Raises:
        InputError: see `sample`; or `out` is a folder that holds something else.
        CheckpointError: see `load`.
    """
    check_launcher()
    if out.suffix == ".png" and not out.is_dir():  # a grid has all images at once
        if launched():
            raise InputError(f"--out {out}: a grid is drawn by one process; give x.npz, x.parquet or a folder")
        sample(source, n, seed=seed, labels=labels, batch_size=batch_size, out=out, device=device, dtype=dtype,
               compile=compile, trust_remote_code=trust_remote_code, **options)  # fmt: skip
        return
    together = processes(device)
    where = together.device if together else device or torch.accelerator.current_accelerator(check_available=True)
    model = load(source, device=where, dtype=dtype, trust_remote_code=trust_remote_code)
    if compile:
        _compile(model)
    options, classes = read_options(model, options), classes_of(model, labels)
    in_turn = classes if "labels" not in model.conditions else classes or range(model.config.num_classes or 0)
    names = None if in_turn is None else called(model, in_turn)
    identity = {"model": digest_of(model), "seed": seed, "labels": names, "options": options}
    with _drawing(model, n) as on_progress:
        draw_to(model, n, out, identity=json.loads(json.dumps(identity)), seed=seed, labels=classes, batch_size=batch_size,
                options=options, accelerator=together, on_progress=on_progress)  # fmt: skip
    if together:
        together.end_training()


def _compile(model: GenerativeModel) -> None:
    for network in model.children():
        network.compile()


@contextmanager
def _drawing(model: GenerativeModel, n: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; and an option's value that the model refuses is the user's mistake."""
    progress = Progress(n, unit="image", shown=main_process())
    try:
        yield lambda drawn: progress.advance(min(drawn, n))
    except ValueError as error:
        raise InputError(f"{type(model).__name__}: {error}") from error
    finally:
        progress.close()


# Sharing


def push_to_hub(
    model: GenerativeModel | str | Path, repo_id: str, *, private: bool = False, revision: str | None = None,
    tag: str | None = None, token: str | None = None, license: str | None = None, with_code: bool = False,
) -> str:  # fmt: skip
    """Publish a model in one commit: its files, a card, a picture of samples, and its recipe if it has one. Run again,
    it changes what has changed, and nothing else.

    Args:
        model: a run's folder, a checkpoint, a folder that diffusers saved, or a model.
        repo_id: user/name; made if it is not there.
        private: make it private.
        revision: the branch, made if it is not there; left out: main.
        tag: a name for the commit.
        license: for the card: an id as the Hub has them, such as mit or cc-by-4.0.
        with_code: publish the file with the model's own class, too; whoever loads it must say `trust_remote_code`.
    Returns:
        The commit.
    Raises:
        CheckpointError: no model is there, or it is damaged.
        HubError: no access, or the repository moved on meanwhile.
    """
    check_id(repo_id)
    if not isinstance(model, GenerativeModel) and not Path(model).exists():
        known = "what is pushed is a run, a checkpoint or a model folder of this machine"
        raise CheckpointError(f"{model}: no such folder; {known}{nearest_path(Path(model))}")

    def publish(source: GenerativeModel | Path) -> Pushed:
        with tempfile.TemporaryDirectory(prefix="genhub-") as temporary:
            folder = Path(temporary) if isinstance(source, GenerativeModel) else source
            if isinstance(source, GenerativeModel):
                save_model(source, folder)
            elif not (folder / FILE).is_file():  # another library's: it gets a genhub.json
                save_model(load_model(folder), folder := Path(temporary))
            manifest = read_manifest(folder)
            code = own_code(manifest.plugin.name) if with_code else None
            drawable = isinstance(source, GenerativeModel) or ":" not in manifest.plugin.name
            picture = None
            if PICTURE not in manifest.files and drawable:
                say("Drawing the card's picture")
                sample(source if isinstance(source, GenerativeModel) else folder, 16, out=Path(temporary) / PICTURE)
                picture = (Path(temporary) / PICTURE).read_bytes()
            return push_checkpoint(folder, repo_id, private=private, revision=revision, tag=tag, token=token,
                                   license=license, code=code, picture=picture)  # fmt: skip

    pushed = publish(model) if isinstance(model, GenerativeModel) else read_newest(Path(model), publish, checked=True)
    say(f"{'Pushed' if pushed.changed else 'Nothing has changed'}  {pushed.url}  commit {pushed.commit[:12]}")
    return pushed.commit


@contextmanager
def _publishing(recipe: Recipe, run_folder: Path, trainer: Trainer) -> Iterator[None]:
    """Push the checkpoints that `trainer` makes meanwhile, if the recipe says so."""
    if recipe.hub is None or not main_process():
        yield
        return
    publisher = Publisher(recipe.hub, run_folder)
    trainer.listeners.append(publisher.offer)
    wait = STOPPED_PUSH
    try:
        yield
        wait = LAST_PUSH
    finally:
        publisher.close(wait)
