"""`genhub data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genhub.cli.arguments import AsJson, Overrides
from genhub.cli.output import print_facts, print_table
from genhub.errors import cut
from genhub.ground.console import put

SourceArgument = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="digits, wine, moons, ..., a folder, a file, a glob, or user/name on the Hub."),
]
NOT_SHOWN = ("modality", "can_be_target", "missing", "shape", "notes", "fault", "rows_of_each")
"""Facts of a column that have a place of their own, or are for programs."""


def data(
    source: SourceArgument,
    keys: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Write a picture of some rows: data.png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what is in data: its columns, and what each is. Keys are those of a recipe's `data`:
    split=test columns.price=number."""
    from genhub.data.describe import describe
    from genhub.data.open import config_of
    from genhub.ground.disk import saving
    from genhub.ground.parsing import read_data_keys
    from genhub.sampling.pictures import write_picture

    described = describe(config_of(source, read_data_keys(keys or [], "genhub data")))
    if as_json:
        print_facts(described.facts, as_json)
    else:
        _print(described.facts)
    if out is not None:
        with saving(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        write_picture(described.picture(), out)
        if not as_json:
            put(f"Picture  {out}")
    elif not as_json:
        put("Next     --out data.png writes a picture of some rows")


def _print(facts: dict[str, Any]) -> None:
    rows = "rows that nobody has counted" if facts["rows"] is None else f"{facts['rows']:,} rows"
    put(f"Data     {facts['name']}, {rows} of split {facts['split']}; it has {', '.join(facts['splits'])}")
    could = [name for name, column in facts["columns"].items() if column["can_be_target"]]
    one_of = f"has to be said, data.target=..., one of: {', '.join(could)}" if could else "none of the columns can be drawn"
    put(f"Target   {facts['target'] or one_of}")
    table = [_row(name, column) for name, column in facts["columns"].items()]
    if table:
        print_table([dict.fromkeys(table[0], "") | dict(zip(table[0], table[0], strict=True)), *table], as_json=False)
    for note in facts.get("notes", []):
        put(f"         {note}")
    for name, column in facts["columns"].items():
        for note in [*column.get("notes", []), *filter(None, [column.get("fault")])]:
            put(f"         {name}: {note}")
    if facts.get("unrecognised"):
        names = ", ".join(facts["unrecognised"])
        put(f"         genhub can't see what {names} {'is' if len(facts['unrecognised']) == 1 else 'are'}: "
            "say columns.NAME.modality=...")  # fmt: skip


def _row(name: str, column: dict[str, Any]) -> dict[str, str]:
    counts = column.get("rows_of_each") or {}
    told = {
        key: value for key, value in column.items() if key not in NOT_SHOWN and not (counts and key in ("classes", "names"))
    }
    more = [f"{key} {_short(value)}" for key, value in told.items()]
    more += [", ".join(f"{of}: {count:,}" for of, count in counts.items())] if counts else []
    return {"column": name, "modality": column["modality"], "shape": "x".join(map(str, column.get("shape", []))) or "-",
            "missing": f"{column['missing']:,}", "about": cut("; ".join(more), 160)}  # fmt: skip


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value[:5])) + (f" and {len(value) - 5} more" if len(value) > 5 else "")
    return str(value)
