"""`genhub bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import genhub
from genhub.cli.arguments import AsJson, LauncherName, LauncherOptions
from genhub.cli.data import SourceArgument
from genhub.cli.init import ConditionNames, DataKeys, MinutesOption
from genhub.cli.output import print_facts, print_table
from genhub.ground.console import put


def bench(
    source: SourceArgument,
    keys: DataKeys = None,
    models: Annotated[str | None, typer.Option(help="flow,vae,...; default: every family that is installed.")] = None,
    condition: ConditionNames = None,
    minutes: MinutesOption = 5,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each family.")] = 3,
    n: Annotated[int, typer.Option("-n", min=2, help="Rows drawn of each run for its figures.")] = 10_000,
    extractor: Annotated[str, typer.Option(help="As evaluate's; probe,dinov2:FOLDER: the first ranks.")] = "probe",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    launcher: LauncherName = "local",
    launcher_options: LauncherOptions = None,
    num_processes: Annotated[int, typer.Option(min=1, help="Processes of each run.")] = 1,
    held_out: Annotated[
        str | None, typer.Option(help="The split that is not trained on; default: test, or a tenth of the rows.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The bench's folder; default bench/SOURCE.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train every family for one time, and rank them on a page. The same command again goes on. Keys are those of a
    recipe's `data`."""
    from genhub.benches.overview import go_on

    ranking = genhub.bench(
        source, keys or (), models=models.split(",") if models else None, conditions=condition or (), minutes=minutes,
        seeds=seeds, n=n, extractors=extractor.split(","), jobs=jobs, launcher=launcher,
        launcher_options=launcher_options or (), num_processes=num_processes, held_out=held_out, out=out,
    )  # fmt: skip
    if as_json:
        print_facts(ranking.dump(), as_json)
        return
    names, lines = ranking.table()
    print_table([dict(zip(names, line, strict=True)) for line in [names, *lines]], as_json)
    put(f"Page     {ranking.page}", f"Next     {go_on(ranking.folder / ranking.rows[0].recipe)}")
