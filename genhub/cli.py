"""The verbs, thin: parse, call, print. Nothing here imports torch before a verb needs it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

import genhub
from genhub import registry
from genhub.errors import GenhubError, InputError, PluginError
from genhub.launch import first_to_say, launch, launched

if TYPE_CHECKING:
    from genhub.testing import Result

# Plain help and errors: rich's would cost a third of what `genhub --help` takes.
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True}
app = typer.Typer(
    help="Train, sample and share generative models: every family the same way.",
    add_completion=False,
    pretty_exceptions_enable=False,
    **PLAIN,
)
recipes = typer.Typer(help="Check, show and list recipes; print their schema.", **PLAIN)
plugins = typer.Typer(help="List, describe and check models, schedulers, trainers.", **PLAIN)
app.add_typer(recipes, name="recipe")
app.add_typer(plugins, name="plugins", invoke_without_command=True, no_args_is_help=False)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, a shipped recipe's name, or user/name on the Hub.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key.path=value ...]", help="On top of the recipe.")]
ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A run's folder, a checkpoint, one that diffusers saved, or user/name[@revision]."),
]
OUT_HELP = "x.png: a grid; a folder: one PNG an image; x.npz; x.parquet. Started again, it goes on."
SET_HELP = "The model's own options: num_inference_steps=20."
# Of genhub.views, which imports torch.
VIEWS = ("forward", "reverse", "reconstruct", "interpolate", "latent", "classes", "guidance", "losses", "neighbours")
N = TypeVar("N", int, float)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Processes = Annotated[int | None, typer.Option("--num-processes", min=1, help="On this machine, a GPU each if it has them.")]


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run_dir: Annotated[str | None, typer.Option(help="The run's folder; default runs/RECIPE.")] = None,
    fresh: Annotated[bool, typer.Option(help="Start over; the old run is kept under another name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the whole recipe, parameters and memory.")] = False,
    num_processes: Processes = None,
) -> None:
    """Train a recipe. The same command again goes on where the run was stopped."""
    from genhub.config import check_split
    from genhub.doctor import installed_versions

    read = genhub.read_recipe(recipe, overrides or (), run_dir)
    if not dry_run:
        _started_as(num_processes, check=lambda n: check_split(read.data, read.trainer, n))
    for problem in installed_versions()[1]:
        _say_wrong(problem)
    if dry_run:
        _dry_run(read)
    else:
        genhub.train(read, fresh=fresh)


def _dry_run(recipe: genhub.Recipe) -> None:
    from genhub.dry_run import estimate, time_in_bf16
    from genhub.run import describe, prepare

    prepared = prepare(recipe)
    typer.echo(prepared.recipe.yaml())
    describe(prepared)
    facts = estimate(prepared)
    for name, size in {**facts["memory"], "in all": facts["memory in all"]}.items():
        typer.echo(f"Memory   {name}: {size / 2**20:,.1f} MiB")
    times = time_in_bf16(prepared)
    if times:
        gain = f"{times[1] / times[0]:.2f} times the step's time ({1000 * times[0]:.0f} ms without it), and other numbers"
        advice = "worth a try" if times[1] < 0.85 * times[0] else "not worth it"
        typer.echo(f"Speed    trainer.mixed_precision=bf16: {gain}: {advice}")


@app.command()
def sample(
    model: ModelArgument,
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 64,
    labels: Annotated[str | None, typer.Option(help="For a conditional model: 0,1,2 (repeated in turn).")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Image i depends on the seed and i alone.")] = 0,
    options: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    out: Annotated[str, typer.Option(help=OUT_HELP)] = "samples.png",
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 256,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the accelerator, if any.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the plugin.py of user/name@COMMIT. Read it first.")] = False,
    num_processes: Processes = None,
) -> None:
    """Draw images from a trained model."""
    given: dict[str, Any] = {"source": model, "n": n, "labels": _numbers("--labels", labels, int), "seed": seed,
                             "out": Path(out), "batch_size": batch_size, "device": device,
                             "trust_remote_code": trust_remote_code}  # fmt: skip
    values = _options("sample", options or [], taken=given | {"model": model})
    _started_as(num_processes)
    from genhub.logs import say
    from genhub.run import sample_to

    sample_to(**given, **values)
    say(f"{n} images: {out}")


@app.command()
def evaluate(
    model: ModelArgument,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key.path=value ...]", help="Other real images: data.name=path/to/mnist.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=2, help="How many images to draw; those drawn before are kept.")] = 10_000,
    metrics: Annotated[str | None, typer.Option(help="frechet_distance,cost; default: all that apply.")] = None,
    extractor: Annotated[str, typer.Option(help="A registered one, or NAME:SOURCE, such as dinov2:FOLDER.")] = "probe",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Image i depends on the seed and i alone.")] = 0,
    held_out: Annotated[str, typer.Option(help="The split that was not trained on.")] = "test",
    labels: Annotated[str | None, typer.Option(help="For a conditional model; default: every class in turn.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 256,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the accelerator, if any.")] = None,
    num_processes: Processes = None,
    as_json: AsJson = False,
) -> None:
    """Measure a trained model, and store the figures."""
    _started_as(num_processes)
    named = metrics.split(",") if metrics else None
    given: dict[str, Any] = {
        "model": model, "n": n, "metrics": named, "extractor": extractor, "seed": seed, "overrides": overrides or (),
        "held_out": held_out, "labels": _numbers("--labels", labels, int), "batch_size": batch_size, "device": device,
    }  # fmt: skip
    from genhub.logs import main_process

    found = genhub.evaluate(**given, **_options("evaluate", options or [], taken=given))
    if not main_process():
        return
    if as_json:
        _print(found.model_dump(mode="json"), as_json)
        return
    for name, value in found.values.items():
        typer.echo(f"{name:24}{value:,.6g}")
    protocol = found.protocol
    typer.echo(
        f"of {protocol.n} images, seed {protocol.seed}, beside {protocol.reference_images} of {protocol.reference.name}"
    )
    typer.echo(f"by {protocol.extractor}, {protocol.extractor_hash[:12]}")
    for note in found.notes:
        typer.echo(f"note: {note}")


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL ...", help="Runs, checkpoints.")],
    out: Annotated[str | None, typer.Option(help="x.html: pictures, curves and table in one file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put what is stored of models side by side."""
    from genhub.evaluation.compare import compare as gather

    _compare(gather(models), out, as_json)


def _compare(comparison: Any, out: str | None, as_json: bool) -> None:
    if out is not None:
        from genhub.evaluation.report import write_report

        write_report(comparison, Path(out))
    if as_json:
        _print(comparison.model_dump(mode="json"), as_json)
        return
    names, lines = comparison.table()
    _print_table([dict(zip(names, line, strict=True)) for line in [names, *lines]], as_json)
    for note in comparison.notes:
        typer.echo(note)


@app.command()
def sweep(
    recipe: RecipeArgument,
    settings: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUES", help="key.path=1e-4,3e-4 or seed=0..4")],
    run_dir: Annotated[str | None, typer.Option(help="Where the runs go; default runs/RECIPE-sweep.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    out: Annotated[str | None, typer.Option(help="x.html: pictures, curves and table in one file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train every combination of settings, then compare."""
    from genhub.evaluation.compare import compare as gather
    from genhub.evaluation.sweep import sweep as train_all

    done, faults = train_all(recipe, settings, folder=run_dir, jobs=jobs)
    if done:
        _compare(gather(done), out, as_json)
    if faults:
        raise GenhubError("\n".join(faults))


@app.command()
def show(
    view: Annotated[str, typer.Argument(metavar="VIEW", help="One of: " + ", ".join(VIEWS))],
    model: Annotated[str, typer.Argument(metavar="MODEL|RECIPE", help="As sample's; forward takes a recipe, too.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key.path=value ...]", help="Other images: data.split=test.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="x.png, or x.gif for what moves; default: VIEW.png.")] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many images (latent: points a side).")] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps to show: columns, or frames of a GIF.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the choice of images and of the noise; default 0.")] = None,
    labels: Annotated[str | None, typer.Option(help="For a conditional model: 0,1,2.")] = None,
    scales: Annotated[str | None, typer.Option(help="For guidance: 0,1,2,5.")] = None,
    between: Annotated[str | None, typer.Option(help="For interpolate: images or seeds.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default: the accelerator, if any.")] = None,
) -> None:
    """Draw a picture that shows how a model works."""
    own = {"n": n, "steps": steps, "seed": seed, "labels": _numbers("--labels", labels, int),
           "scales": _numbers("--scales", scales, float), "between": between}  # fmt: skip
    fixed: dict[str, Any] = {"view": view, "model": model, "overrides": overrides or (), "device": device,
                             "out": out or f"{view}.png"}  # fmt: skip
    given: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    genhub.show(**fixed, **given, **_options("show", options or [], taken=fixed | own))
    typer.echo(f"{view}: {fixed['out']}")


@app.command()
def info(model: ModelArgument, as_json: AsJson = False) -> None:
    """Print what a model holds: plugin, config, data, step, files."""
    from genhub.hub import describe_repository, split_id
    from genhub.manifest import describe_folder

    _print(describe_folder(Path(model)) if split_id(model) is None else describe_repository(model), as_json)


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
    from genhub.doctor import diagnose

    facts = diagnose()
    _print(facts, as_json)
    if facts["problems"]:
        raise typer.Exit(1)


@recipes.command("check")
def recipe_check(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Say everything that is wrong with a recipe, with file, line and key."""
    genhub.read_recipe(recipe, overrides or ())
    typer.echo(f"{recipe}: fine")


@recipes.command("show")
def recipe_show(recipe: RecipeArgument, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print a recipe with every key and its value."""
    _print(genhub.read_recipe(recipe, overrides or ()).dump(), as_json)


@recipes.command("list")
def recipe_list(as_json: AsJson = False) -> None:
    """List the recipes that come with genhub."""
    from genhub.recipe import shipped_recipes

    _print_table([{"name": name, "about": _first_comment(file)} for name, file in shipped_recipes().items()], as_json)


@recipes.command("schema")
def recipe_schema() -> None:
    """Print the JSON Schema of recipes, plugins included, for editors."""
    from genhub.schema import recipe_schema

    _print(recipe_schema(), as_json=True)


Load = Annotated[bool, typer.Option("--load", help="Import each, to tell which are broken and what they can do.")]


@plugins.callback()
def plugins_default(context: typer.Context, load: Load = False, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        plugins_list(load, as_json)


@plugins.command("list")
def plugins_list(load: Load = False, as_json: AsJson = False) -> None:
    """List what is installed and who brought it."""
    claims = Counter((plugin.group, plugin.name) for plugin in registry.all_plugins()[0])
    rows = []
    for group in registry.KINDS.values():
        for plugin in registry.plugins(group):
            row = {"kind": plugin.kind, "name": plugin.name, "class": plugin.value, "distribution": plugin.distribution,
                   "version": plugin.version, "state": "installed"}  # fmt: skip
            if load:
                row |= _state(plugin)
            if claims[group, plugin.name] > 1:
                row["state"] = "claimed twice: uninstall one"
            rows.append(row)
    _print_table(rows, as_json)
    for fault in registry.all_plugins()[1]:
        print(f"genhub: {fault}", file=sys.stderr)


@plugins.command("info")
def plugins_info(name: str, as_json: AsJson = False) -> None:
    """Print what a plugin can do, its options, and a recipe."""
    from genhub.schema import describe_plugin

    described = describe_plugin(name)
    if as_json:
        _print(described, as_json)
        return
    for facts in described:
        typer.echo("{name} ({kind}): {class}, {distribution} {version}\n  {about}".format(**facts))
        if facts["capabilities"]:
            typer.echo(f"Capabilities: {', '.join(facts['capabilities'])}")
        typer.echo("Options:")
        for key, option in facts["options"].items():
            meaning = f"  # {' '.join(option['meaning'].split())}" if option["meaning"] else ""
            default = "required" if "example" in option else json.dumps(option["default"])
            typer.echo(f"  {key}: {default}  ({option['type']}){meaning}")
        if facts["recipe"]:
            typer.echo("A recipe:")
            _print(facts["recipe"], as_json)


@plugins.command("new")
def plugins_new(
    name: Annotated[str, typer.Argument(help="Of the folder, the distribution and the plugin: my-model.")],
    kind: Annotated[str, typer.Option(help="model, scheduler or trainer.")] = "model",
) -> None:
    """Write a plugin of your own that works at once."""
    from genhub.scaffold import new_plugin

    folder = new_plugin(name, kind)
    typer.echo(f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    typer.echo(f"Next: pip install -e {folder} && genhub train {folder}/recipe.yaml && pytest {folder}")


def _state(plugin: registry.Plugin) -> dict[str, str]:
    from genhub.schema import capabilities

    try:
        return {"state": "fine", "capabilities": ", ".join(capabilities(plugin.load()))}
    except PluginError as error:
        return {"state": f"broken: {error.__cause__!r}", "capabilities": ""}


@plugins.command("check")
def plugins_check(
    name: Annotated[str, typer.Argument(help="A registered name, or module:Class.")],
    keys: Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="Its Config's keys.")] = None,
    kind: Annotated[str | None, typer.Option(help="model, scheduler or trainer, where a name is used by several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold a plugin to the contract of its kind. Exit code 1 if it breaks it."""
    from genhub.testing import suites_of

    values, reports, failed = _pairs(keys or [], "key=value"), [], False
    for plugin, suite in suites_of(name, values, kind):
        if not as_json:
            typer.echo(f"{plugin}: {plugin.value}")
        with suite:
            report = suite.report(shown=(lambda result: None) if as_json else _show_check)
        failed = failed or bool(report.failures)
        reports.append({"plugin": str(plugin), **report.dump()})
        if not as_json:
            typer.echo(report.summary)
    if as_json:
        _print(reports, as_json)
    if failed:
        raise typer.Exit(1)


def _started_as(num_processes: int | None, check: Callable[[int], object] = lambda n: None) -> None:
    """Go on if this process is one of `num_processes`; else start them, and exit as they did."""
    there = launched()
    if there is not None and num_processes not in (None, there):
        raise InputError(f"--num-processes {num_processes}: a launcher has started {there}; leave it out")
    if there is None and (num_processes or 1) > 1:
        assert num_processes
        check(num_processes)
        sys.exit(launch(num_processes))


def _show_check(result: Result) -> None:
    mark = {"passed": "ok", "failed": "FAIL", "skipped": "skip"}[result.outcome]
    typer.echo(f"  {mark:<5} {result.name:<11} {result.message if result.outcome == 'skipped' else result.contract}")
    if result.outcome == "failed":
        for line in filter(None, (result.message, result.where)):
            typer.echo(f"        {line}")


def _numbers(option: str, text: str | None, kind: type[N]) -> list[N] | None:
    try:
        return [kind(number) for number in text.split(",")] if text is not None else None
    except ValueError:
        raise InputError(f"{option}: numbers with commas between them, such as 0,1,2; not {text!r}") from None


def _options(verb: str, pairs: list[str], taken: dict[str, Any]) -> dict[str, Any]:
    values = _pairs(pairs, "--set")
    for key in values.keys() & taken.keys():
        raise InputError(f"--set {key}: has an option of its own; see genhub {verb} --help")
    return values


def _pairs(pairs: list[str], origin: str) -> dict[str, Any]:
    """key.path=value pairs as nested dictionaries."""
    from genhub.recipe import Source, apply_override

    values: dict[str, Any] = {}
    for pair in pairs:
        apply_override(values, pair, Source(origin), origin=origin)
    return values


def _first_comment(file: Path) -> str:
    comments = [line.removeprefix("#").strip() for line in file.read_text().splitlines() if line.startswith("#")]
    return next((line for line in comments if not line.startswith("yaml-language-server")), "")


def _print(facts: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    from genhub.recipe import to_yaml

    typer.echo(to_yaml(facts), nl=False)


def _print_table(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        _print(rows, as_json)
        return
    widths = {key: max(len(row[key]) for row in rows) for key in (rows[0] if rows else ())}
    for row in rows:
        typer.echo("  ".join(row[key].ljust(width) for key, width in widths.items()).rstrip())


def main() -> None:
    """Run a verb; a GenhubError becomes one readable message and its exit code."""
    try:
        app()
    except GenhubError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        torch = sys.modules.get("torch")
        if torch and isinstance(error, torch.OutOfMemoryError):
            _fail(GenhubError(f"out of memory: lower --batch-size, the images drawn at once ({error})"))
        if launched() and torch and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            _fail(GenhubError("stopped: another process of this run has ended"))
        if not first_to_say(repr(error)):
            sys.exit(1)
        raise


def _fail(error: GenhubError) -> NoReturn:
    _say_wrong(str(error))
    torch = sys.modules.get("torch")
    if torch and torch.distributed.is_initialized():  # gloo's threads wait for the others, and would abort an orderly end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.exit_code)
    sys.exit(error.exit_code)


def _say_wrong(text: str) -> None:
    if first_to_say(text):
        sys.stderr.write(f"genhub: {text}\n")  # at once, as other processes write there, too
