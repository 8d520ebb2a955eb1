"""The verbs, thin: parse, call, print. Nothing here imports torch before a verb needs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from genhub.errors import GenhubError, InputError

app = typer.Typer(
    help="Train, sample and share generative models: every family the same way.", no_args_is_help=True,
    add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
recipes = typer.Typer(help="Look at recipes: check one, show it complete, or write the schema for an editor.")
plugins = typer.Typer(help="What is installed: models, schedulers, trainers.", invoke_without_command=True)
app.add_typer(recipes, name="recipe", no_args_is_help=True)
app.add_typer(plugins, name="plugins")

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped recipe's name.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key.path=value ...]", help="On top of the recipe.")]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run's folder, a checkpoint, or a folder that diffusers saved.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run_dir: Annotated[str | None, typer.Option(help="The run's folder; default runs/RECIPE.")] = None,
    fresh: Annotated[bool, typer.Option(help="Start over; the old run is kept under another name.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved recipe, parameters and memory; train nothing.")] = False,
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
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="The model's own options: num_inference_steps=20.")
    ] = None,
    out: Annotated[Path, typer.Option(help="x.png: a grid; x.npz: arrays; a folder: one PNG an image.")] = Path("samples.png"),
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 256,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; default the CPU.")] = None,
) -> None:
    """Draw images from a trained model."""
    from genhub import run

    wanted = _labels(labels)
    run.sample(model, n, seed=seed, labels=wanted, batch_size=batch_size, out=out, device=device, **_options(options or []))
    typer.echo(f"{n} images: {out}")


@app.command()
def info(model: ModelArgument, as_json: AsJson = False) -> None:
    """What a model folder holds: plugin, config, data, step, files."""
    from genhub.manifest import FILE, find_checkpoint, read_manifest, read_model

    folder = find_checkpoint(Path(model))
    if (folder / FILE).is_file():
        manifest = read_manifest(folder)
        manifest.verify(folder)
        facts = manifest.model_dump(mode="json", exclude={"checksum"})
        facts["parameters"] = _parameters(folder)
    else:
        cls, config = read_model(folder)
        facts = {"plugin": {"name": config.name}, "config": config.model_dump(mode="json"), "parameters": _parameters(folder)}
    _print({"folder": str(folder), **facts}, as_json)


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

    read = read_recipe(recipe, overrides or ())
    typer.echo(json.dumps(read.dump(), indent=2) if as_json else read.yaml(), nl=as_json)


@recipes.command("list")
def recipe_list() -> None:
    """The recipes that come with genhub."""
    from genhub.recipe import shipped_recipes

    for name, file in shipped_recipes().items():
        first = file.read_text().splitlines()[1].removeprefix("# ")
        typer.echo(f"{name:20} {first}")


@recipes.command("schema")
def recipe_schema() -> None:
    """Print the JSON Schema of recipes, plugins included, for editors."""
    from genhub.schema import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


@plugins.callback()
def plugins_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        plugins_list()


@plugins.command("list")
def plugins_list(as_json: AsJson = False) -> None:
    """Name, kind and distribution of everything installed; nothing is imported."""
    from genhub.registry import KINDS, plugins

    rows = [{"kind": kind, "name": p.name, "class": p.value, "distribution": p.distribution, "version": p.version}
            for kind, group in KINDS.items() for p in plugins(group)]  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    widths = {key: max(len(row[key]) for row in [dict.fromkeys(rows[0], ""), *rows]) for key in rows[0]}
    for row in rows:
        typer.echo("  ".join(row[key].ljust(widths[key]) for key in row).rstrip())


@plugins.command("info")
def plugins_info(name: str, kind: Annotated[str, typer.Option(help="model, scheduler or trainer.")] = "") -> None:
    """A plugin's options with their types, defaults and meanings."""
    from genhub.schema import plugin_text

    typer.echo(plugin_text(name, kind))


def _labels(text: str | None) -> list[int] | None:
    try:
        return [int(label) for label in text.split(",")] if text is not None else None
    except ValueError:
        raise InputError(f"--labels: numbers with commas between them, such as 0,1,2; not {text!r}") from None


def _options(pairs: list[str]) -> dict[str, Any]:
    from genhub.recipe import Source, apply_override

    values: dict[str, Any] = {}
    for pair in pairs:
        apply_override(values, pair, Source("--set"))
    return values


def _parameters(folder: Path) -> int:
    """Numbers in a model folder's weights, from the files' headers alone."""
    from safetensors import safe_open

    total = 0
    for file in folder.rglob("*.safetensors"):
        if file.parent.name != "trainer":
            with safe_open(file, "np") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a dict
                    size = 1
                    for side in tensors.get_slice(key).get_shape():
                        size *= side
                    total += size
    return total


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    import yaml

    typer.echo(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120), nl=False)


def main() -> None:
    """Run a verb; a GenhubError becomes one readable message and its exit code."""
    try:
        app()
    except GenhubError as error:
        sys.exit(_fail(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(error, torch.OutOfMemoryError):
            sys.exit(_fail(GenhubError(f"out of memory: lower data.batch_size or raise trainer.gradient_accumulation_steps ({error})")))
        raise


def _fail(error: GenhubError) -> int:
    print(f"genhub: {error}", file=sys.stderr)
    return error.exit_code
