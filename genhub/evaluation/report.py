"""A comparison as one HTML file that needs nothing else: table, pictures drawn with the same seeds, curves."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from genhub.evaluation.compare import Comparison, Row, read_metrics
from genhub.evaluation.protocol import Evaluation, evaluations_folder
from genhub.sampling import image_grid

SHOWN = 36
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; white-space: nowrap; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
.models { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1.5rem; }
figure { margin: 0; } img, svg { max-width: 100%; height: auto; } .models img { width: 100%; }
figcaption, .notes { font-size: .9rem; color: #555; overflow-wrap: anywhere; }
dl { font-size: .9rem; } dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; overflow-wrap: anywhere; }
"""


def html(comparison: Comparison) -> str:
    """The page."""
    names, lines = comparison.table()
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>\n" for line in lines)
    notes = [*comparison.notes, *_notes_of(comparison.rows)]
    parts = [
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>',
        '<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>" if notes else "",
        _section("Pictures", '<div class="models">' + "".join(map(_picture, comparison.rows)) + "</div>"),
        _section("Training", '<div class="models">' + "".join(map(_curves, comparison.rows)) + "</div>"),
        _section("Quality against the cost of sampling", _quality(comparison.rows)),
        _section("How it was measured", "".join(map(_protocol, comparison.rows))),
    ]
    title = "Comparison of " + ", ".join(row.name for row in comparison.rows)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}" if content else ""


def _notes_of(rows: Iterable[Row]) -> list[str]:
    return [f"{row.name}: {note}" for row in rows if row.evaluations for note in row.evaluations[-1].notes]


def _picture(row: Row) -> str:
    """The first images of the last evaluation, or else the run's last preview."""
    found = _drawn(row)
    previews = sorted((row.run / "samples").glob("*.png")) if row.run else []
    if found is None and not previews:
        return ""
    caption = escape(row.name)
    if found is not None:
        evaluation = row.evaluations[-1]
        stream = io.BytesIO()
        image_grid(found, columns=round(SHOWN**0.5)).save(stream, "PNG")
        content, caption = stream.getvalue(), f"{caption}: images 0 to {len(found) - 1} of seed {evaluation.protocol.seed}"
    else:
        content, caption = previews[-1].read_bytes(), f"{caption}: the run's last preview"
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return (
        f'<figure><img alt="images drawn by {escape(row.name)}" src="{source}"><figcaption>{caption}</figcaption></figure>'
    )


def _drawn(row: Row) -> torch.Tensor | None:
    if not row.evaluations or row.evaluations[-1].images is None:
        return None
    part = evaluations_folder(row.checkpoint) / str(row.evaluations[-1].images) / "part-000000.npy"
    return torch.from_numpy(np.load(part)[:SHOWN]) if part.is_file() else None


def _curves(row: Row) -> str:
    """The losses of a run's phases over its steps."""
    lines = read_metrics(row.run / "metrics.jsonl") if row.run else []
    names = [name for name in (lines[-1] if lines else {}) if name.endswith("/loss")]
    if len(lines) < 2 or not names:
        return ""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points, strict=True), label=name)
    axes.set(xlabel="step", title=row.name)
    axes.legend()
    return f"<figure>{_svg(figure)}</figure>"


def _quality(rows: Sequence[Row]) -> str:
    """The first metric of models that were evaluated with more than one number of network evaluations."""
    curves = {row.name: _by_cost(row.evaluations) for row in rows}
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if not curves:
        return ""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, points in curves.items():
        evaluations, seconds, distances = zip(*points, strict=True)
        left.plot(evaluations, distances, marker="o", label=name)
        right.plot(seconds, distances, marker="o", label=name)
    left.set(xlabel="network evaluations an image", ylabel="Frechet distance", xscale="log")
    right.set(xlabel="seconds an image", xscale="log")
    left.legend()
    return f"<figure>{_svg(figure)}</figure>"


def _by_cost(evaluations: Sequence[Evaluation]) -> list[tuple[float, float, float]]:
    """(network evaluations, seconds an image, Frechet distance) of those measured in the last one's way."""
    found = {}
    for evaluation in evaluations:
        values = evaluation.values
        measured = {"network_evaluations", "images_per_second", "frechet_distance"} <= values.keys()
        if measured and not evaluation.protocol.differences(evaluations[-1].protocol):
            cost = values["network_evaluations"]
            found[cost] = (cost, 1 / values["images_per_second"], values["frechet_distance"])
    return sorted(found.values())


def _protocol(row: Row) -> str:
    if not row.evaluations:
        return ""
    found = row.evaluations[-1]
    facts: dict[str, Any] = found.protocol.model_dump(mode="json") | {"versions": dict(found.versions)}
    items = "".join(
        f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(_text(value))}</dd>" for key, value in facts.items()
    )
    return f"<details><summary>{escape(row.name)}</summary><dl>{items}</dl></details>"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items() if inner not in (None, [], {})) or "none"
    return "none" if value is None else str(value)


def _svg(figure: Figure) -> str:
    """Inline SVG, the same each time."""
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "genhub", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def write_report(comparison: Comparison, out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html(comparison), encoding="utf-8")
    return out
