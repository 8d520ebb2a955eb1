"""`genhub init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from genhub.cli.data import SourceArgument
from genhub.errors import InputError, shown
from genhub.ground.console import put

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
    from genhub.ground.parsing import read_data_keys
    from genhub.recipe.written import write_beside
    from genhub.run.suited import best_for, changed, task_of, write_recipe

    values, there = read_data_keys(keys or [], "genhub init"), has_accelerator(device)
    task = task_of(source, values, condition or (), minutes, there)
    model = model or best_for(task)
    file = out or Path(f"{task.stem}-{model}.yaml")
    richer = None if there else task_of(source, values, condition or (), minutes, True)
    text = write_recipe(task, model, str(file), richer)
    if file.exists() and file.read_text("utf-8", "replace") != text:  # the same one is what the same command has written
        raise InputError(f"{file}: is there already; move it away, or give another name by --out")
    write_beside(file, text)
    put(f"Data     {task.title}", f"Recipe   {file}")
    if richer and (changes := changed(task, richer, model)):
        put(f"A GPU    would change: {' '.join(changes)}")
    put(f"Next     {shlex.join(['genhub', 'train', str(file)])}")


def has_accelerator(device: str | None) -> bool:
    """Whether a device is no CPU; None: the one that is there."""
    import torch

    if device is None:
        return torch.accelerator.is_available()
    try:
        return torch.device(device).type != "cpu"
    except RuntimeError:
        raise InputError(f"--device: cpu or an accelerator's name, such as cuda or mps; not {shown(device)}") from None
