"""The verbs, thin: parse, call, print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import genhub
from genhub.cli.arguments import (
    PLAIN,
    SET_HELP,
    AsJson,
    Conditions,
    Labels,
    LauncherName,
    LauncherOptions,
    ModelArgument,
    Overrides,
    Processes,
    RecipeArgument,
    read_conditions,
    read_numbers,
    set_options,
)
from genhub.cli.output import print_facts, print_table, say_wrong
from genhub.cli.stops import stopped_with
from genhub.errors import GenhubError, InputError
from genhub.ground.console import put
from genhub.ground.processes import alone, launched

app = typer.Typer(
    help="Train, sample and share generative models: every family the same way.",
    add_completion=False,
    pretty_exceptions_enable=False,
    **PLAIN,
)
OUT_HELP = (
    "x.png: a picture; x.wav: sounds; a folder: a file a row; x.npz, x.parquet, x.csv: rows. Started again, it goes on."
)
BATCH_HELP = "Rows drawn at once.  [default: 256; fewer of large ones on a CPU]"
N_HELP = "How many rows.  [default: as many as the longest --condition names, 64 without any]"
STARTS_OVER = "the same command starts over; to a folder or a file of rows, such as x.npz, it would go on"


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run_dir: Annotated[str | None, typer.Option(help="The run's folder; default runs/RECIPE.")] = None,
    fresh: Annotated[bool, typer.Option(help="Start over; the old run is kept under another name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the whole recipe, parameters and memory.")] = False,
    num_processes: Processes = None,
    gpu: Annotated[str | None, typer.Option(help="With --dry-run: how fast so many h100 would be.")] = None,
) -> None:
    """Train a recipe. The same command again goes on where the run was stopped."""
    from genhub.cli.doctor import installed_versions
    from genhub.data.split import check_split

    read = genhub.read_recipe(recipe, overrides or (), run_dir)
    if gpu and not dry_run:
        raise InputError("--gpu: it is for an estimate, with --dry-run; training takes the GPUs that are there")
    if dry_run:
        check_split(read.data, read.trainer, num_processes or 1)
    else:
        _started_as(num_processes, check=lambda n: check_split(read.data, read.trainer, n))
    for problem in installed_versions()[1]:
        say_wrong(problem)
    if dry_run:
        _dry_run(read, fresh, gpu, num_processes or 1)
    else:
        genhub.train(read, fresh=fresh)


def _dry_run(recipe: genhub.Recipe, fresh: bool, gpu: str | None, processes: int) -> None:
    from genhub.run.dry_run import estimate
    from genhub.run.prepare import prepare_run
    from genhub.run.scale import gpu_called, scaled

    card = gpu_called(gpu, recipe.trainer) if gpu else None
    prepared = prepare_run(recipe, fresh).prepared
    put(*prepared.recipe.yaml().split("\n"))
    facts = estimate(prepared)
    for name, size in {**facts["memory"], "in all": facts["memory in all"]}.items():
        put(f"Memory   {name}: {size / 2**20:,.1f} MiB")
    if card:
        put(*scaled(prepared, card, processes, facts["memory"]))


@app.command()
def sample(
    model: ModelArgument,
    n: Annotated[int | None, typer.Option("-n", min=1, help=N_HELP)] = None,
    conditions: Conditions = None,
    labels: Labels = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Row i depends on the seed and i alone.")] = 0,
    options: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    out: Annotated[str, typer.Option(help=OUT_HELP)] = "samples.png",
    batch_size: Annotated[int | None, typer.Option(min=1, help=BATCH_HELP)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the accelerator, if any.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float16: faster where the device has it.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile first: for many rows.")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the plugin.py of user/name@COMMIT. Read it first.")] = False,
    num_processes: Processes = None,
) -> None:
    """Draw from a trained model."""
    given: dict[str, Any] = {"source": model, "n": n, "seed": seed, "conditions": read_conditions(conditions or [], labels),
                             "out": Path(out), "batch_size": batch_size, "device": device, "dtype": dtype,
                             "compile": compile, "trust_remote_code": trust_remote_code}  # fmt: skip
    values = set_options("sample", options or [], taken=given | {"model": model})
    _started_as(num_processes)
    grid = Path(out).suffix == ".png" and not Path(out).is_dir()
    with stopped_with(STARTS_OVER if grid else "what is drawn is kept, and the same command goes on"):
        from genhub.api import sample_to
        from genhub.ground.console import say

        drawn = sample_to(**given, **values)
    say(f"{drawn} drawn: {out}")


@app.command()
def evaluate(
    model: ModelArgument,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key.path=value ...]", help="Other real rows: data.name=path/to/mnist.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=2, help="How many rows to draw; those drawn before are kept.")] = 10_000,
    metrics: Annotated[str | None, typer.Option(help="frechet_distance,cost; default: all that apply.")] = None,
    extractor: Annotated[
        str, typer.Option(help="A registered one, NAME:SOURCE, or several: probe,dinov2:FOLDER.")
    ] = "probe",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Row i depends on the seed and i alone.")] = 0,
    held_out: Annotated[str, typer.Option(help="The split that was not trained on.")] = "test",
    conditions: Conditions = None,
    labels: Labels = None,
    options: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help=BATCH_HELP)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the accelerator, if any.")] = None,
    num_processes: Processes = None,
    as_json: AsJson = False,
) -> None:
    """Measure a trained model, and store the figures."""
    _started_as(num_processes)
    named, (first, *others) = metrics.split(",") if metrics else None, extractor.split(",")
    if others and not alone():
        raise InputError(f"--extractor {extractor}: several are measured by one process; name one at a time")
    given: dict[str, Any] = {
        "model": model, "n": n, "metrics": named, "extractor": first, "seed": seed, "overrides": overrides or (),
        "held_out": held_out, "conditions": read_conditions(conditions or [], labels), "batch_size": batch_size,
        "device": device,
    }  # fmt: skip
    own = set_options("evaluate", options or [], taken=given)
    with stopped_with("what is drawn so far is kept, and the same command goes on"):
        from genhub.evaluation.chosen import that_compare_features
        from genhub.ground.processes import main_process

        found = [genhub.evaluate(**given, **own)]
        for other in others:  # of the rows that were drawn
            found.append(genhub.evaluate(**given | {"extractor": other, "metrics": that_compare_features(named)}, **own))
    if not main_process():
        return
    if as_json:
        facts = [one.model_dump(mode="json") for one in found]
        print_facts(facts if others else facts[0], as_json)
        return
    for number, one in enumerate(found):
        put(*[""] * (number > 0))
        _put_figures(one)


def _put_figures(found: Any) -> None:
    """Print a line a figure, then what they are of."""
    width = 2 + max(map(len, found.values), default=0)
    for name, value in found.values.items():
        interval = f"  [{', '.join(f'{end:,.4g}' for end in found.intervals[name])}]" if name in found.intervals else ""
        floor = f"  real rows {found.floor[name]:,.4g}" if name in found.floor else ""
        put(f"{name:{width}}{f'{value:,.6g}':12}{interval:22}{floor}".rstrip())
    if found.intervals:
        floor = "; real rows: as many in their place" if found.floor else ""
        put(f"[...]: 95% of what other rows of the model would give{floor}")
    protocol = found.protocol
    put(f"of {protocol.n} rows, seed {protocol.seed}, beside {protocol.reference_rows} of {protocol.reference.name}")
    put(f"by {protocol.extractor}, {protocol.extractor_hash[:12]}")
    if found.probe_accuracy is not None:
        put(f"the probe is right on {found.probe_accuracy:.1%} of real rows it was not trained on")
    for note in found.notes:
        put(f"note: {note}")


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL ...", help="Runs, checkpoints.")],
    out: Annotated[str | None, typer.Option(help="x.html: pictures, curves and table in one file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put what is stored of models side by side."""
    _compare(genhub.compare(models), out, as_json)


def _compare(comparison: Any, out: str | None, as_json: bool) -> None:
    if out is not None:
        from genhub.evaluation.page import write_report

        write_report(comparison, Path(out))
    if as_json:
        print_facts(comparison.model_dump(mode="json"), as_json)
        return
    names, lines = comparison.table()
    print_table([dict(zip(names, line, strict=True)) for line in [names, *lines]], as_json)
    for note in [*comparison.notes, *comparison.figure_notes()]:
        put(note)


@app.command()
def sweep(
    recipe: RecipeArgument,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUES", help="key.path=1e-4,3e-4, seed=0..4; with --trials also lr=1e-4..1e-2."),
    ],
    run_dir: Annotated[str | None, typer.Option(help="Where the runs go; default runs/RECIPE-sweep.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    trials: Annotated[int | None, typer.Option(min=1, help="Let Optuna choose values, so many times.")] = None,
    by: Annotated[str | None, typer.Option(help="Figure that says which run is best; the recipe measures it.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Who chooses: tpe, gp or random.  [default: tpe]")] = None,
    pruner: Annotated[
        str | None, typer.Option(help="Who stops bad ones: median, hyperband, none.  [default: median]")
    ] = None,
    launcher: LauncherName = "local",
    launcher_options: LauncherOptions = None,
    out: Annotated[str | None, typer.Option(help="x.html: pictures, curves and table in one file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a grid of settings, or search for the best; then compare."""
    from genhub.sweeps.search import search
    from genhub.sweeps.sweep import sweep as train_all

    given: dict[str, Any] = {"folder": run_dir, "jobs": jobs, "by": by, "launcher": launcher,
                             "launcher_options": launcher_options or ()}  # fmt: skip
    chosen: dict[str, Any] = {name: value for name, value in (("sampler", sampler), ("pruner", pruner)) if value is not None}
    if trials is None and chosen:
        raise InputError(f"--{next(iter(chosen))}: is for a search; add --trials N")
    swept = train_all(recipe, settings, **given) if trials is None else search(recipe, settings, trials, **given, **chosen)
    if swept.done:
        _compare(genhub.compare(swept.done), out, as_json)
    if not as_json:
        for line in swept.best:
            put(line)
    if swept.faults:
        raise GenhubError(*swept.faults)


class ShowCommand(TyperCommand):
    """The verb `show`, whose help lists the views that are installed: they are looked up only then."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from genhub.interfaces.registry import VIEWS, plugin_names

        with formatter.section("Views"):
            formatter.write_text(", ".join(plugin_names(VIEWS)))


@app.command(cls=ShowCommand)
def show(
    view: Annotated[str, typer.Argument(metavar="VIEW", help="One of those below.")],
    model: Annotated[str, typer.Argument(metavar="MODEL|RECIPE", help="As sample's; forward takes a recipe, too.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key.path=value ...]", help="Other rows: data.split=test.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="x.png, or x.gif for what moves; default: VIEW.png.")] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many rows (latent: points a side).")] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps to show: columns, or frames of a GIF.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the choice of rows and of the noise; default 0.")] = None,
    conditions: Conditions = None,
    labels: Labels = None,
    scales: Annotated[str | None, typer.Option(help="For guidance: 0,1,2,5.")] = None,
    between: Annotated[str | None, typer.Option(help="For interpolate: images or seeds.")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="The view's own options, and the model's: num_inference_steps=20."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the accelerator, if any.")] = None,
) -> None:
    """Draw a picture that shows how a model works."""
    own = {"n": n, "steps": steps, "seed": seed, "conditions": read_conditions(conditions or [], labels),
           "scales": read_numbers("--scales", scales, float), "between": between}  # fmt: skip
    fixed: dict[str, Any] = {"view": view, "model": model, "overrides": overrides or (), "device": device,
                             "out": out or f"{view}.png"}  # fmt: skip
    given: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    drawn = set_options("show", options or [], taken=fixed | own)
    with stopped_with("the same command starts over"):
        genhub.show(**fixed, **given, **drawn)
    put(f"{view}: {fixed['out']}")


@app.command()
def info(model: ModelArgument, as_json: AsJson = False) -> None:
    """Print what a model holds: plugin, config, data, step, files."""
    from genhub.ground.ids import split_id
    from genhub.hub.named import describe_repository
    from genhub.store.classes import describe_folder
    from genhub.store.find import read_newest

    facts = read_newest(Path(model), describe_folder) if split_id(model) is None else describe_repository(model)
    print_facts(facts, as_json)


@app.command()
def push(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run's folder, a checkpoint, or one that diffusers saved.")
    ],
    repo_id: Annotated[str, typer.Argument(metavar="user/name", help="The repository; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make it private.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch; default main.")] = None,
    tag: Annotated[str | None, typer.Option(help="A name for the commit.")] = None,
    license: Annotated[str | None, typer.Option(help="For the card: mit, cc-by-4.0, ...")] = None,
    with_code: Annotated[bool, typer.Option("--with-code", help="Publish the model's own class too, as plugin.py.")] = False,
) -> None:
    """Publish a model on the Hub: one commit, with a card. Run again, it goes on."""
    genhub.push_to_hub(model, repo_id, private=private, revision=revision, tag=tag, license=license, with_code=with_code)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check versions, devices and plugins. Exit code 1 if something is wrong."""
    from genhub.cli.doctor import diagnose

    facts = diagnose()
    print_facts(facts, as_json)
    if facts["problems"]:
        raise typer.Exit(1)


def _started_as(num_processes: int | None, check: Callable[[int], object] = lambda n: None) -> None:
    """Go on if this process is one of `num_processes`; else start them, and exit as they did."""
    there = launched()
    if there is not None and num_processes not in (None, there):
        raise InputError(f"--num-processes {num_processes}: a launcher has started {there}; leave it out")
    if there is None and (num_processes or 1) > 1:
        assert num_processes
        from genhub.cli.launch import launch

        check(num_processes)
        sys.exit(launch(num_processes))
