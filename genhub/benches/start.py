"""`genhub.bench`: from the name of data to a ranking of families."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from genhub.benches.plan import LAID_ASIDE, TRAINED_ON, make_plan, settings_of
from genhub.benches.ranking import Ranking
from genhub.benches.runs import run_all
from genhub.data.objects import stored_name
from genhub.errors import GenhubError
from genhub.ground.parsing import read_data_keys
from genhub.jobs.launchers import launcher_named
from genhub.run.suited import task_of


def bench(
    source: Any, keys: Sequence[str] = (), *, models: Sequence[str] | None = None, conditions: Sequence[str] = (),
    minutes: float = 5, seeds: int = 3, n: int = 10_000, extractors: Sequence[str] = ("probe",), jobs: int = 1,
    launcher: str = "local", launcher_options: Sequence[str] = (), num_processes: int = 1, held_out: str | None = None,
    out: str | Path | None = None,
) -> Ranking:  # fmt: skip
    """Train every family that fits the data for one time, measure all alike, and rank them. The same call again goes on.

    Args:
        source: digits, wine, moons, ..., a folder, a file, a glob, user/name on the Hub, or a Python object as
            `genhub.load_data` takes it.
        keys: `key=value` of a recipe's `data`.
        models: families by name; left out: all that are installed.
        conditions: columns that the models are given.
        minutes: how long each run trains.
        seeds: runs of each family.
        n: rows drawn of each run for its figures.
        extractors: as `genhub evaluate` takes them; the first ranks.
        jobs: runs at a time.
        launcher: where they run: local, slurm or ray.
        launcher_options: `key=value` of the launcher.
        num_processes: processes of each run.
        held_out: the split that is not trained on; left out: test, or a tenth of the rows.
        out: the bench's folder; left out: bench/SOURCE.
    Returns:
        The ranking, which a notebook shows as the page `bench.html` in the folder.
    Raises:
        InputError: an unknown family, key or extractor, or a folder with another bench.
        GenhubError: no family has a result.
        Interrupted: a signal came; the runs have saved.
    """
    source = str(source) if isinstance(source, str | Path) else stored_name(source)
    values, accelerator = read_data_keys(keys, "genhub bench"), torch.accelerator.is_available()
    task = task_of(source, values, conditions, minutes, accelerator)
    if held_out is None and "split" not in values and len(task.splits) == 1 and not task.data.streaming:
        values["split"], held_out = TRAINED_ON, LAID_ASIDE
        task = task_of(source, values, conditions, minutes, accelerator)
    folder = Path(out) if out else Path("bench") / task.stem
    place = launcher_named(launcher, launcher_options, folder=folder, at_once=jobs)
    given = {"source": source, "keys": tuple(keys), "conditions": tuple(conditions), "minutes": minutes,
             "n": n, "extractors": tuple(extractors), "held_out": held_out or "test",
             "accelerator": accelerator}  # fmt: skip
    settings = settings_of(task, given)
    plan = make_plan(folder, settings, task, models, seeds)
    ranking = run_all(plan, place, jobs, num_processes)
    if not ranking.rows:
        raise GenhubError("no family has a result", *(f"{name}: {why}" for name, why in ranking.left_out.items()))
    return ranking
