"""A comparison as one HTML file that needs nothing else: table, pictures drawn with the same seeds, curves."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from html import escape as markup
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from genhub.errors import one_line
from genhub.evaluation.chosen import directions
from genhub.evaluation.compare import REAL, Comparison, ModelRow
from genhub.evaluation.protocol import PREFIX, Evaluation, evaluation_folders, figure_text
from genhub.ground.disk import remove_leftovers, saving, write_whole
from genhub.ground.embedded import data_uri
from genhub.ground.run_log import read_metrics
from genhub.ground.weights import is_sealed
from genhub.interfaces.columns import DataSpec
from genhub.sampling.draw import PART, part_file, read_part
from genhub.sampling.pictures import png_of

SHOWN = 36
PNG, MOST_BYTES = b"\x89PNG\r\n\x1a\n", 2**25
"""First bytes of a picture that the page takes in, and the most bytes that it may have."""
BODY = "body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }"
STYLE = """
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; white-space: nowrap; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
.models { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1.5rem; }
figure { margin: 0; } img, svg { max-width: 100%; height: auto; } .models img { width: 100%; }
figcaption, .notes { font-size: .9rem; opacity: .75; overflow-wrap: anywhere; } pre { overflow-x: auto; }
dl { font-size: .9rem; } dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; overflow-wrap: anywhere; }
"""


def escape(text: str) -> str:
    """Return text from anywhere as one line of HTML."""
    return markup(one_line(text))


def arrows() -> dict[str, str]:
    """Return an arrow for each figure that is better one way: up or down."""
    return {figure: " ↓" if better == "lower" else " ↑" for figure, better in directions().items()}


def html(comparison: Comparison) -> str:
    """Return the page."""
    return whole("Comparison of " + ", ".join(row.name for row in comparison.rows), parts(comparison))


def parts(comparison: Comparison) -> list[str]:
    """Return the page's parts."""
    rows, shown = comparison.rows, comparison.shown()
    return [
        table(*comparison.table()),
        bullets([*comparison.notes, *comparison.figure_notes()]),
        section("Pictures", "".join(map(picture, rows, shown))),
        section("Losses", "".join(map(_losses, rows))),
        section("Quality while training", "".join(_progress(rows))),
        section("Quality against the cost of sampling", _quality(rows, shown)),
        section("How it was measured", "".join(map(_protocol, rows, shown)), grid=False),
    ]


def cell(parts: Sequence[str]) -> str:
    """Return a page's parts as the output of a notebook's cell, whose other cells keep their looks."""
    return f'<div class="genhub"><style>.genhub {{{STYLE}}}</style>\n' + "\n".join(filter(None, parts)) + "\n</div>"


def whole(title: str, parts: Sequence[str]) -> str:
    """Return a page of a title and parts, the empty ones left out, that needs nothing else."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{BODY}{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table of figures, an arrow behind the name of one that is better one way."""
    way = arrows()
    head = "".join(f"<th>{escape(name.replace('_', ' '))}{way.get(name, '')}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>\n" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def figures(found: Evaluation) -> str:
    """Return a table of one model's figures."""
    drawn = [figure_text(value, found.intervals.get(name)) for name, value in found.values.items()]
    real = [figure_text(found.floor.get(name)) for name in found.values]
    lines = [["drawn rows", *drawn], *([[REAL, *real]] if found.floor else [])]
    return table(["", *found.values], lines)


def bullets(notes: Sequence[str]) -> str:
    """Return a list of notes; nothing where there are none."""
    return '<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>" if notes else ""


def section(title: str, content: str, grid: bool = True) -> str:
    content = f'<div class="models">{content}</div>' if grid and content else content
    return f"<h2>{title}</h2>\n{content}" if content else ""


def picture(row: ModelRow, evaluation: Evaluation | None) -> str:
    """Return the first rows that were measured, or else the run's last preview."""
    folders = evaluation_folders(row.checkpoint, evaluation.weights) if evaluation and evaluation.drawn else ()
    parts = [part_file(folder / str(evaluation and evaluation.drawn), 0) for folder in folders]
    part = next(filter(is_sealed, parts), None)
    pictures = row.run.previews() if row.run else []
    if evaluation and part:
        modality = evaluation.protocol.reference.modality
        most = SHOWN if len(modality.shape) > 1 else PART  # points share one picture
        drawn = read_part(part)[: min(most, evaluation.protocol.n)]
        content, what = png_of(modality.picture(drawn)), f"rows 0 to {len(drawn) - 1} of seed {evaluation.protocol.seed}"
    elif pictures:
        content, what = pictures[-1].read_bytes(), "the run's last preview"
    else:
        return ""
    if not content.startswith(PNG) or len(content) > MOST_BYTES:
        return ""
    name, source = escape(row.name), data_uri(content, "image/png")
    return f'<figure><img alt="drawn by {name}" src="{source}"><figcaption>{name}: {what}</figcaption></figure>'


def _losses(row: ModelRow) -> str:
    """Return a plot of the losses of a run's phases over its steps."""
    curves = _curves(row, lambda name: name.endswith("/loss"))
    if not any(len(points) > 1 for points in curves.values()):
        return ""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=label(name))
    axes.set_xlabel("step")
    axes.legend()
    return f"<figure>{svg(figure)}<figcaption>{escape(row.name)}</figcaption></figure>"


def _progress(rows: Sequence[ModelRow]) -> Iterator[str]:
    """Yield a plot of each figure that was measured while the runs trained, over their steps."""
    way = arrows()
    found = {row.name: _curves(row, lambda name: name.startswith(PREFIX) and name[len(PREFIX) :] in way) for row in rows}
    for key in dict.fromkeys(key for curves in found.values() for key in curves):
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, curves in found.items():
            if key in curves:
                axes.plot(*zip(*curves[key], strict=True), marker="o", markersize=4, label=_short(name))
        own = key.removeprefix(PREFIX)
        axes.set(xlabel="step", ylabel=f"{own.replace('_', ' ')}{way[own]}")
        axes.legend()
        yield f"<figure>{svg(figure)}</figure>"


def _curves(row: ModelRow, wanted: Callable[[str], bool]) -> dict[str, list[tuple[float, float]]]:
    """Return the (step, value) of those metrics of a run whose names are `wanted`."""
    curves: dict[str, list[tuple[float, float]]] = {}
    lines, _ = read_metrics(row.run.metrics) if row.run else ([], None)  # `read_row` says what is damaged
    for line in lines:
        for name in (name for name in filter(wanted, line) if math.isfinite(line[name])):
            curves.setdefault(name, []).append((line["step"], line[name]))
    return curves


def _quality(rows: Sequence[ModelRow], shown: Sequence[Evaluation | None]) -> str:
    """Return a plot of the Frechet distance of models that were measured with several numbers of network evaluations."""
    found = [_by_cost(row, base) for row, base in zip(rows, shown, strict=True) if base]
    curves = [(name, points) for each in found for name, points in each.items() if len(points) > 1]
    if not curves:
        return ""
    figures = []
    for column, cost in enumerate(("network evaluations a row", "seconds a row")):
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, points in curves:
            axes.plot([point[column] for point in points], [point[2] for point in points], marker="o", label=name)
        axes.set(xlabel=cost, ylabel="Frechet distance ↓", xscale="log")
        if column == 0:
            evaluations = sorted({point[0] for _, points in curves for point in points})
            axes.set_xticks(evaluations, [f"{number:g}" for number in evaluations])
            axes.minorticks_off()
        axes.legend()
        figures.append(f"<figure>{svg(figure)}</figure>")
    return "".join(figures)


def _by_cost(row: ModelRow, base: Evaluation) -> dict[str, list[tuple[float, float, float]]]:
    """Return (network evaluations, seconds a row, Frechet distance), measured as `base` was, for each sampler."""
    found: dict[str, dict[float, tuple[float, float, float]]] = {}
    for evaluation in row.evaluations:
        values, options = evaluation.values, dict(evaluation.protocol.options)
        measured = {"network_evaluations", "rows_per_second", "frechet_distance"} <= values.keys()
        if measured and not evaluation.protocol.differences(base.protocol):
            options.pop("num_inference_steps", None)
            name = ", ".join([_short(row.name), *(label(f"{key}={value}") for key, value in options.items())])
            cost = values["network_evaluations"]
            found.setdefault(name, {})[cost] = (cost, 1 / values["rows_per_second"], values["frechet_distance"])
    return {name: sorted(points.values()) for name, points in found.items()}


def _short(name: str) -> str:
    """Return a run's name without its folder: a legend has little room."""
    return label(Path(name).name)


def label(text: str) -> str:
    """Return text from anywhere for a figure, with `$` escaped: matplotlib would read mathematics."""
    return one_line(text).replace("$", r"\$")


def _protocol(row: ModelRow, found: Evaluation | None) -> str:
    if found is None:
        return ""
    protocol, data = found.protocol, {"reference": found.protocol.reference, "held_out": found.protocol.held_out}
    facts: dict[str, Any] = protocol.model_dump(mode="json") | {"versions": dict(found.versions)}
    facts |= {key: spec and _facts(spec) for key, spec in data.items()}
    items = "".join(
        f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(_text(value))}</dd>" for key, value in facts.items()
    )
    return f"<details><summary>{escape(row.name)}</summary><dl>{items}</dl></details>"


def _facts(spec: DataSpec) -> dict[str, Any]:
    """Return a data set's facts in a few words: what its columns are, without all that was learnt of them."""
    columns = {name: " ".join([its.modality, "x".join(map(str, its.shape))]).strip() for name, its in spec.columns.items()}
    return {"name": spec.name, "split": spec.split, "rows": spec.num_rows} | columns | {"fingerprint": spec.fingerprint}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items() if inner not in (None, [], {})) or "none"
    return "none" if value is None else str(value)


def svg(figure: Figure) -> str:
    """Return a figure as inline SVG, the same each time."""
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "genhub", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def write_report(comparison: Comparison, out: Path) -> Path:
    """Write a comparison as an HTML file, and return its path.

    Raises:
        GenhubError: it can't be written.
    """
    content = html(comparison)
    with saving(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out.parent)
        write_whole(out, content)
    return out
