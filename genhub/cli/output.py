"""What verbs print: facts, tables, and what is wrong."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

from genhub.launch import first_to_say


def print_facts(facts: Any, as_json: bool) -> None:
    """As JSON or YAML."""
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    from genhub.parsing import to_yaml

    typer.echo(to_yaml(facts), nl=False)


def print_table(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        print_facts(rows, as_json)
        return
    widths = {key: max(len(row[key]) for row in rows) for key in (rows[0] if rows else ())}
    for row in rows:
        typer.echo("  ".join(row[key].ljust(width) for key, width in widths.items()).rstrip())


def say_wrong(text: str) -> None:
    """Tell on stderr, once however many processes say it."""
    if first_to_say(text):
        sys.stderr.write(f"genhub: {text}\n")  # at once, as other processes write there, too
