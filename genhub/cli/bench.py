"""`genhub bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genhub.cli.arguments import AsJson, LauncherName, LauncherOptions, read_data_keys
from genhub.cli.data import SourceArgument
from genhub.cli.init import ConditionNames, DataKeys, MinutesOption, file_stem, has_accelerator, task_here
from genhub.cli.output import print_facts, print_table
from genhub.errors import GenhubError
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
    from genhub.bench.overview import go_on
    from genhub.bench.plan import LAID_ASIDE, PAGE, TRAINED_ON, make_plan, settings_of
    from genhub.bench.runs import bench as run_all
    from genhub.jobs.launchers import launcher_named

    values, accelerator = read_data_keys(keys or [], "genhub bench"), has_accelerator()
    task = task_here(source, values, condition, minutes, accelerator)
    if held_out is None and "split" not in values and len(task.splits) == 1 and not task.data.streaming:
        values["split"], held_out = TRAINED_ON, LAID_ASIDE
        task = task_here(source, values, condition, minutes, accelerator)
    folder = out or Path("bench") / file_stem(task.spec.name)
    place = launcher_named(launcher, launcher_options or (), folder=folder, at_once=jobs)
    given = {"source": source, "keys": tuple(keys or ()), "conditions": tuple(condition or ()), "minutes": minutes,
             "n": n, "extractors": tuple(extractor.split(",")), "held_out": held_out or "test",
             "accelerator": accelerator}  # fmt: skip
    settings = settings_of(task, given)
    plan = make_plan(folder, settings, task, models.split(",") if models else None, seeds)
    ranking = run_all(plan, place, jobs, num_processes)
    if as_json:
        print_facts(ranking.dump(), as_json)
    elif ranking.rows:
        names, lines = ranking.table()
        print_table([dict(zip(names, line, strict=True)) for line in [names, *lines]], as_json)
        put(f"Page     {folder / PAGE}", f"Next     {go_on(folder / ranking.rows[0].recipe)}")
    if not ranking.rows:
        raise GenhubError("no family has a result", *(f"{name}: {why}" for name, why in ranking.left_out.items()))
