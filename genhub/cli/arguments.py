"""Arguments that several verbs take, and their parsing."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import typer

from genhub.errors import InputError, shown
from genhub.ground.console import aside

N = TypeVar("N", int, float)
# Plain help and errors: rich's would cost a third of what `genhub --help` takes.
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True}

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, a shipped recipe's name, or user/name on the Hub.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key.path=value ...]", help="On top of the recipe.")]
ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A run's folder, a checkpoint, one that diffusers saved, or user/name[@revision]."),
]
SET_HELP = "The model's own options: num_inference_steps=20."


def _alone_on_stdout(context: typer.Context, as_json: bool) -> bool:
    if as_json:
        context.with_resource(aside())
    return as_json


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.", callback=_alone_on_stdout)]
Processes = Annotated[int | None, typer.Option("--num-processes", min=1, help="On this machine, a GPU each if it has them.")]


LauncherName = Annotated[str, typer.Option(help="Where the runs run: local, slurm or ray.")]
LauncherOptions = Annotated[
    list[str] | None,
    typer.Option("--launcher-option", metavar="KEY=VALUE", help="What a run needs there: timeout_min=60, num_gpus=1."),
]
Conditions = Annotated[
    list[str] | None,
    typer.Option("--condition", metavar="NAME=VALUES", help="What rows are given, in turn: label=cat,dog. Again for more."),
]
Labels = Annotated[str | None, typer.Option(hidden=True)]
"""An option of before there were other conditions: see `read_conditions`."""


def read_conditions(pairs: list[str], labels: str | None) -> dict[str, Any] | None:
    """Return the values of `--condition`, by column; None without any."""
    from genhub.sampling.typed import Typed

    if labels is not None:
        raise InputError(f"--labels: is --condition now: --condition label={labels}, by the name of the column")
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise InputError(f"--condition: NAME=VALUES, such as label=3,7 or source=photo.png; not {shown(pair)}")
        values[name] = Typed([*values.get(name, ()), text])
    return values or None


def read_numbers(option: str, text: str | None, kind: type[N]) -> list[N] | None:
    """Return the numbers in a text such as 0,1,2."""
    try:
        return [kind(number) for number in text.split(",")] if text is not None else None
    except ValueError:
        raise InputError(f"{option}: numbers with commas between them, such as 0,1,2; not {shown(text)}") from None


def set_options(verb: str, pairs: list[str], taken: dict[str, Any]) -> dict[str, Any]:
    """Return the values of `--set`, which must not be those that the verb has options for."""
    from genhub.ground.parsing import read_pairs

    values = read_pairs(pairs, "--set")
    for key in values.keys() & taken.keys():
        raise InputError(f"--set {key}: has an option of its own; see genhub {verb} --help")
    return values
