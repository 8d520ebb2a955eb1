"""The results of a bench, family by family: means over seeds with their intervals, the best first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from genhub.benches.plan import OF_OTHERS, PAGE, Plan, RunResult, Settings
from genhub.evaluation.chosen import directions
from genhub.evaluation.page import cell
from genhub.evaluation.protocol import figure_text
from genhub.ground.brief import line
from genhub.interfaces.section import Section

SHOWN = (
    "frechet_infinity", "precision", "recall", "label_accuracy", "memorised", "parameters",
    "network_evaluations", "rows_per_second",
)  # fmt: skip
"""Figures of the table, in its order; the others are in bench.json."""


class Row(Section):
    """A family's results, one a seed."""

    model: str
    recipe: str
    results: tuple[RunResult, ...]

    def mean(self, figure: str) -> float | None:
        """Return a figure's mean over seeds; None where a run has none."""
        values = [result.values.get(figure) for result in self.results]
        return None if None in values or not values else fmean(value for value in values if value is not None)

    def interval(self, figure: str) -> tuple[float, float] | None:
        """Return the 95% interval of a figure's mean: over seeds, by Student's t; of one seed over its rows."""
        values = [result.values[figure] for result in self.results if figure in result.values]
        if len(values) < 2:
            return self.results[0].intervals.get(figure) if values else None
        from scipy.stats import t

        half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
        return fmean(values) - half, fmean(values) + half

    @property
    def good_for(self) -> str:
        """Abilities of a family besides drawing, in a few words."""
        can = [text for capability, text in GOOD_FOR.items() if capability in self.results[0].capabilities]
        evaluations = self.mean("network_evaluations")
        if evaluations is not None and round(evaluations) == 1:
            can.insert(0, "draws at once")
        return ", ".join(can)


GOOD_FOR = {
    "autoencoder": "turns rows into latents and back",
    "discreteautoencoder": "into codes",
    "denoiser": "shows each step from noise",
    "likelihood": "tells how probable a row is",
    "energy": "tells how low a row lies",
}


class Ranking(Section):
    """All families of a bench, the best first, and those that have no result."""

    folder: Path
    """The bench's folder."""
    settings: Settings
    seeds: int
    rows: tuple[Row, ...]
    left_out: Mapping[str, str]
    """By family or run, why it has no result."""

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures of the table: those that some family has, the one that is ranked by first."""
        there = {figure for row in self.rows for result in row.results for figure in result.values}
        distances = sorted(name for name in there if name.startswith(OF_OTHERS))  # by several extractors and references
        shown = dict.fromkeys((self.settings.ranked_by, *distances, *SHOWN))
        return tuple(figure for figure in shown if figure in there)

    @property
    def floor(self) -> dict[str, float]:
        """Figures of as many real rows, where they are known."""
        return next((result.floor for row in self.rows for result in row.results if result.floor), {})

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return column names, and a row of text a family; the last row is of real rows, where that is known."""
        figures = self.figures
        names = ["", "model", *figures, "steps", "memory MiB", "seeds"]
        lines = []
        for place, row in enumerate(self.rows, 1):
            cells = [figure_text(row.mean(figure), row.interval(figure)) for figure in figures]
            steps = f"{fmean(result.steps for result in row.results):,.0f}"
            memory = f"{max(result.peak_memory for result in row.results) / 2**20:,.0f}"
            lines.append([str(place), row.model, *cells, steps, memory, str(len(row.results))])
        if self.floor:
            cells = [figure_text(self.floor.get(figure)) for figure in figures]
            lines.append(["", "real rows", *cells, "", "", ""])
        return names, lines

    @property
    def page(self) -> Path:
        """The page that `genhub bench` writes."""
        return self.folder / PAGE

    def __repr__(self) -> str:
        by = self.settings.ranked_by
        return line(type(self).__name__, f"by {by}", *(f"{row.model} {figure_text(row.mean(by))}" for row in self.rows))

    def _repr_html_(self) -> str:
        """Return the page as a notebook's cell has it."""
        from genhub.benches.overview import parts

        return cell(parts(self))

    def dump(self) -> dict[str, Any]:
        """Return all of it for bench.json: settings, each family's figures with intervals, and each run's."""
        families = [
            row.model_dump(mode="json")
            | {"figures": {figure: {"mean": row.mean(figure), "interval": row.interval(figure)} for figure in self.figures}}
            for row in self.rows
        ]
        return {"settings": self.settings.model_dump(mode="json"), "seeds": self.seeds, "families": families,
                "floor": self.floor, "left_out": dict(self.left_out)}  # fmt: skip


def ranking_of(plan: Plan, faults: Mapping[str, str]) -> Ranking:
    """Return the ranking of what is done of a plan.

    Args:
        faults: what went wrong, by run.
    """
    figure = plan.settings.ranked_by
    rows, left_out = [], {entry.model: entry.fault for entry in plan.entries if entry.fault}
    for entry in plan.entries:
        found = [result for seed in range(plan.seeds) if (result := plan.result(entry, seed))]
        if found and entry.recipe:
            rows.append(Row(model=entry.model, recipe=entry.recipe, results=tuple(found)))
    sign = -1 if directions().get(figure) == "higher" else 1
    rows.sort(key=lambda row: sign * value if (value := row.mean(figure)) is not None else math.inf)
    return Ranking(
        folder=plan.folder, settings=plan.settings, seeds=plan.seeds, rows=tuple(rows), left_out=left_out | dict(faults)
    )
