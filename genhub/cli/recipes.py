"""`genhub recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import genhub
from genhub.cli.arguments import PLAIN, AsJson, Overrides, RecipeArgument
from genhub.cli.output import print_facts, print_table
from genhub.errors import InputError, RecipeError
from genhub.ground.console import put

app = typer.Typer(help="Check, show and list recipes; print their schema.", **PLAIN)


@app.command("check")
def recipe_check(
    recipe: RecipeArgument,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE ...] [key.path=value ...]", help="More recipes; on top of each.")
    ] = None,
) -> None:
    """Say everything that is wrong with recipes, with file, line and key."""
    overrides = [word for word in more or () if "=" in word and not Path(word).is_file()]
    faults = []
    for name in [recipe, *(word for word in more or () if word not in overrides)]:
        try:
            read = genhub.read_recipe(name, overrides)
            left_out = f", without {', '.join(read.left_out)}: yours to set" if read.left_out else ""
            put(f"{name}: fine{left_out}")
        except InputError as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise RecipeError(*(line for fault in faults for line in fault.args))


@app.command("show")
def recipe_show(recipe: RecipeArgument, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print a recipe with every key and its value."""
    print_facts(genhub.read_recipe(recipe, overrides or ()).dump(), as_json)


@app.command("list")
def recipe_list(as_json: AsJson = False) -> None:
    """List the recipes that come with genhub."""
    from genhub.recipe.shipped import shipped_recipes

    print_table([{"name": name, "about": _first_comment(file)} for name, file in shipped_recipes().items()], as_json)


@app.command("schema")
def recipe_schema() -> None:
    """Print the JSON Schema of recipes, plugins included, for editors."""
    from genhub.recipe.schema import recipe_schema

    print_facts(recipe_schema(), as_json=True)


def _first_comment(file: Path) -> str:
    comments = [line.removeprefix("#").strip() for line in file.read_text().splitlines() if line.startswith("#")]
    return next((line for line in comments if not line.startswith("yaml-language-server")), "")
