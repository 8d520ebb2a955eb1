"""A bench as one HTML file that needs nothing else, and as bench.json."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from genhub.benches.plan import TABLE
from genhub.benches.ranking import Ranking, Row
from genhub.errors import GenhubError
from genhub.evaluation.compare import read_row
from genhub.evaluation.page import arrows, bullets, escape, label, picture, section, svg, table, whole
from genhub.ground.disk import remove_leftovers, saving, write_whole


def write_page(ranking: Ranking) -> None:
    """Write bench.html and bench.json into a bench's folder."""
    with saving(ranking.page):
        remove_leftovers(ranking.folder)
        write_whole(ranking.page, whole(f"Which model for {ranking.settings.title}?", parts(ranking)))
        write_whole(ranking.folder / TABLE, json.dumps(ranking.dump(), indent=2) + "\n")


def parts(ranking: Ranking) -> list[str]:
    """Return the page's parts."""
    return [
        f"<p>{escape(_how(ranking))}</p>",
        table(*ranking.table()),
        section("Pictures", "".join(_picture(row, ranking.folder) for row in ranking.rows)),
        section("Quality against time", _by_time(ranking)),
        section("Quality against the cost of drawing", "".join(_by_cost(ranking))),
        section("What each is good for", _terms({row.model: row.good_for for row in ranking.rows}), grid=False),
        section("Without a result", _terms(ranking.left_out), grid=False),
        section("Notes", bullets(_notes(ranking)), grid=False),
        section("Go on", _next(ranking), grid=False),
    ]


def _how(ranking: Ranking) -> str:
    settings = ranking.settings
    seeds = f"{ranking.seeds} seeds" if ranking.seeds > 1 else "one seed"
    return (
        f"Each family trained for {settings.minutes:g} minutes, {seeds}; {settings.n:,} rows drawn of each run. Ranked by "
        f"{settings.ranked_by.replace('_', ' ')}. A figure is the mean over seeds, and behind it half of its 95% interval "
        "(Student's t over seeds; of one seed, over rows)."
    )


def _picture(row: Row, folder: Path) -> str:
    """Return what a family's first seed drew."""
    run = folder / row.model / f"seed-{row.results[0].seed}"
    try:
        found = read_row(str(run))
    except GenhubError:  # the run was deleted, and its result is still told
        return ""
    drawn = [evaluation for evaluation in found.evaluations if evaluation.drawn]
    most = max(drawn, key=lambda evaluation: evaluation.protocol.n, default=None)
    return picture(found.model_copy(update={"name": row.model}), most)


def _by_time(ranking: Ranking) -> str:
    curves = {row.model: [*row.results[0].by_time] for row in ranking.rows}
    return _plot(ranking, curves, "seconds of training") if any(len(points) > 1 for points in curves.values()) else ""


def _by_cost(ranking: Ranking) -> Iterator[str]:
    found = {row.model: row.results[0].by_evaluations for row in ranking.rows if row.results[0].by_evaluations}
    for column, what in enumerate(("network evaluations a row", "seconds a row")):
        if found:
            yield _plot(ranking, {model: [(at[column], at[2]) for at in points] for model, points in found.items()}, what)


def _plot(ranking: Ranking, curves: dict[str, list[tuple[float, float]]], x: str) -> str:
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    for model, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label(model))
    by = ranking.settings.ranked_by
    axes.set(xlabel=x, ylabel=f"{by.replace('_', ' ')}{arrows().get(by, '')}", yscale="log")
    if x != "seconds of training":
        axes.set_xscale("log")
    figure.legend(loc="outside right upper", fontsize="small")  # ten curves leave no room within
    caption = "By fewer rows than the table: to be read curve beside curve."
    return f"<figure>{svg(figure)}<figcaption>{caption}</figcaption></figure>"


def _terms(meanings: Mapping[str, str]) -> str:
    """Return names with a line on each; nothing where there are none."""
    items = [f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in meanings.items() if text]
    return f"<dl>{''.join(items)}</dl>" if items else ""


def _notes(ranking: Ranking) -> list[str]:
    """Return the notes on figures, each once with the families that it holds for."""
    concerned: dict[str, list[str]] = {}
    for row in ranking.rows:
        for note in dict.fromkeys(note for result in row.results for note in result.notes):
            concerned.setdefault(note, []).append(row.model)
    return [note if len(who) == len(ranking.rows) else f"{', '.join(who)}: {note}" for note, who in concerned.items()]


def _next(ranking: Ranking) -> str:
    lines = [go_on(ranking.folder / row.recipe) for row in ranking.rows]
    return f"<pre>{chr(10).join(map(escape, lines))}</pre>" if lines else ""


def go_on(recipe: Path) -> str:
    """Return the command that trains a family for longer."""
    return shlex.join(["genhub", "train", str(recipe), "trainer.max_time=1h"])
