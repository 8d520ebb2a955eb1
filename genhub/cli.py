"""The verbs, thin: parse, call, print. Nothing here imports torch before a verb needs it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from genhub.errors import GenhubError, InputError

# Plain help and errors: rich's would cost a third of what `genhub --help` takes.
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True}
app = typer.Typer(
    help="Train, sample and share generative models: every family the same way.",
    add_completion=False,
    pretty_exceptions_enable=False,
    **PLAIN,
)
recipes = typer.Typer(help="Look at recipes: check one, show it complete, or write the schema for an editor.", **PLAIN)
plugins = typer.Typer(help="What is installed: models, schedulers, trainers.", **PLAIN)
app.add_typer(recipes, name="recipe")
app.add_typer(plugins, name="plugins", invoke_without_command=True, no_args_is_help=False)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped recipe's name.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key.path=value ...]", help="On top of the recipe.")]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run's folder, a checkpoint, or a folder that diffusers saved.")
]
SET_HELP = "The model's own options: num_inference_steps=20."
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run_dir: Annotated[str | None, typer.Option(help="The run's folder; default runs/RECIPE.")] = None,
    fresh: Annotated[bool, typer.Option(help="Start over; the old run is kept under another name.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Print the complete recipe, parameters and memory; no training.")
    ] = False,
) -> None:
    """Train a recipe. The same command again goes on where the run was stopped."""
    from genhub import run
    from genhub.recipe import read_recipe

    read = read_recipe(recipe, overrides or (), run_dir)
    if not dry_run:
        run.train(read, fresh=fresh)
        return
    prepared = run.prepare(read)
    facts = run.estimate(prepared)
    typer.echo(prepared.recipe.yaml())
    run.describe(prepared)
    for name, size in {**facts["memory"], "in all": facts["memory in all"]}.items():
        typer.echo(f"Memory   {name}: {size / 2**20:,.1f} MiB")


@app.command()
def sample(
    model: ModelArgument,
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 64,
    labels: Annotated[str | None, typer.Option(help="For a conditional model: 0,1,2 (repeated in turn).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Image i depends on the seed and i alone.")] = 0,
    options: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)] = None,
    out: Annotated[str, typer.Option(help="x.png: a grid; x.npz: arrays; a folder: one PNG an image.")] = "samples.png",
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 256,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default the CPU.")] = None,
) -> None:
    """Draw images from a trained model."""
    from genhub import run

    given = {"seed": seed, "labels": _labels(labels), "batch_size": batch_size, "out": out, "device": device}
    run.sample(model, n, **given, **_options(options or [], taken=[*given, "model", "n"]))
    typer.echo(f"{n} images: {out}")


@app.command()
def info(model: ModelArgument, as_json: AsJson = False) -> None:
    """What a model folder holds: plugin, config, data, step, files."""
    from genhub.manifest import FILE, find_checkpoint, read_manifest, read_model, weight_shapes

    folder = find_checkpoint(Path(model))
    if (folder / FILE).is_file():
        manifest = read_manifest(folder)
        manifest.verify(folder)
        facts = manifest.model_dump(mode="json", exclude={"checksum"})
    else:
        _, config = read_model(folder)
        facts = {"plugin": {"name": config.name}, "config": config.model_dump(mode="json")}
    parameters = sum(math.prod(shape) for shape in weight_shapes(folder))
    _print({"folder": str(folder), **facts, "parameters": parameters}, as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Versions against the tested ranges, devices, and plugins that don't load. Exit code 1 if something is wrong."""
    from genhub.doctor import diagnose

    facts = diagnose()
    _print(facts, as_json)
    if facts["problems"]:
        raise typer.Exit(1)


@recipes.command("check")
def recipe_check(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Say everything that is wrong with a recipe, with file, line and key."""
    from genhub.recipe import read_recipe

    read_recipe(recipe, overrides or ())
    typer.echo(f"{recipe}: fine")


@recipes.command("show")
def recipe_show(recipe: RecipeArgument, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print a recipe with every key and its value."""
    from genhub.recipe import read_recipe

    _print(read_recipe(recipe, overrides or ()).dump(), as_json)


@recipes.command("list")
def recipe_list(as_json: AsJson = False) -> None:
    """The recipes that come with genhub."""
    from genhub.recipe import shipped_recipes

    _print_table([{"name": name, "about": _first_comment(file)} for name, file in shipped_recipes().items()], as_json)


@recipes.command("schema")
def recipe_schema() -> None:
    """Print the JSON Schema of recipes, plugins included, for editors."""
    from genhub.schema import recipe_schema

    _print(recipe_schema(), as_json=True)


@plugins.callback()
def plugins_default(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        plugins_list(as_json)


@plugins.command("list")
def plugins_list(as_json: AsJson = False) -> None:
    """Name, kind and distribution of everything installed; nothing is imported."""
    from genhub.registry import plugin_rows

    _print_table(list(plugin_rows()), as_json)


@plugins.command("info")
def plugins_info(name: str, as_json: AsJson = False) -> None:
    """A plugin's options with their types, defaults and meanings."""
    from genhub.schema import plugin_facts

    facts = plugin_facts(name)
    if as_json:
        _print(facts, as_json)
        return
    for plugin in facts:
        typer.echo("{name} ({kind}): {class}, {distribution} {version}\n  {about}".format(**plugin))
        for key, option in plugin["options"].items():
            meaning = f"  # {option['meaning']}" if option["meaning"] else ""
            typer.echo(f"  {key}: {json.dumps(option['default'])}  ({option['type']}){meaning}")


def _labels(text: str | None) -> list[int] | None:
    try:
        return [int(label) for label in text.split(",")] if text is not None else None
    except ValueError:
        raise InputError(f"--labels: numbers with commas between them, such as 0,1,2; not {text!r}") from None


def _options(pairs: list[str], taken: list[str]) -> dict[str, Any]:
    from genhub.recipe import Source, apply_override

    values: dict[str, Any] = {}
    for pair in pairs:
        apply_override(values, pair, Source("--set"), origin="--set")
    for key in values.keys() & set(taken):
        raise InputError(f"--set {key}: has an option of its own; see genhub sample --help")
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
    widths = [max(map(len, column)) for column in zip(*(row.values() for row in rows), strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row.values(), widths, strict=True)).rstrip())


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
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        advice = "lower data.batch_size or raise trainer.gradient_accumulation_steps"
        _fail(GenhubError(f"out of memory: {advice} ({error})"))


def _fail(error: GenhubError) -> NoReturn:
    print(f"genhub: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
