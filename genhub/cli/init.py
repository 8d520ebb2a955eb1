"""`genhub init`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genhub.cli.arguments import read_pairs
from genhub.cli.data import SourceArgument
from genhub.errors import InputError
from genhub.ground.console import put

if TYPE_CHECKING:
    from genhub.run.suited import Subject

DataKeys = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value ...]", help="Keys of `data`: target=photo columns.price=number split=train."),
]
ConditionNames = Annotated[
    list[str] | None, typer.Option("--condition", metavar="COLUMN", help="A column that the model is given. Again for more.")
]
MinutesOption = Annotated[float, typer.Option(min=0.1, max=100_000, help="How long it may train.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, or the accelerator's: cuda; default: what is there.")]


def init(
    source: SourceArgument,
    keys: DataKeys = None,
    model: Annotated[str | None, typer.Option(help="A family; default: the best one for such data.")] = None,
    condition: ConditionNames = None,
    minutes: MinutesOption = 10,
    device: DeviceOption = None,
    out: Annotated[Path | None, typer.Option(help="The recipe's file; default SOURCE-MODEL.yaml.")] = None,
) -> None:
    """Write a recipe that suits data and this machine. Keys are those of a recipe's `data`."""
    from genhub.run.suited import best_for, changed, write_recipe

    subject, richer = subjects(source, keys, condition, minutes, device)
    model = model or best_for(subject)
    file = out or Path(f"{file_stem(subject.spec.name)}-{model}.yaml")
    if file.exists():
        raise InputError(f"{file}: is there already; move it away, or give another name by --out")
    write_beside(file, write_recipe(subject, model, str(file), richer))
    put(f"Data     {subject.title}", f"Recipe   {file}")
    if richer and (changes := changed(subject, richer, model)):
        put(f"A GPU    would change: {' '.join(changes)}")
    put(f"Next     genhub train {file}")


def subjects(
    source: str, keys: list[str] | None, conditions: list[str] | None, minutes: float, device: str | None
) -> tuple[Subject, Subject | None]:
    """Return the data with what there is to train with on this machine; and, where that is a CPU, with a GPU."""
    import torch

    from genhub.run.suited import subject_of

    values = read_pairs(keys or [], "genhub init")
    there = torch.accelerator.is_available() if device is None else device != "cpu"
    with_means = partial(subject_of, source, values.get("data", values), conditions or (), minutes)
    return with_means(there), None if there else with_means(True)


def file_stem(name: str) -> str:
    """Return a name for files from a data set's: of a path its last part."""
    return re.sub(r"[^\w.-]+", "-", Path(name).stem or "data").strip("-.") or "data"


def write_beside(file: Path, text: str) -> None:
    """Write a recipe, and the schema that its first line names where it isn't there."""
    import json

    from genhub.ground.disk import saving, write_whole
    from genhub.recipe.schema import recipe_schema
    from genhub.recipe.written import SCHEMA

    schema = file.with_name(SCHEMA)
    with saving(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not schema.exists():
            write_whole(schema, json.dumps(recipe_schema(), indent=2) + "\n")
        write_whole(file, text)  # last: where it is there, all is
