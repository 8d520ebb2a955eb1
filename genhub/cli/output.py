"""Print for verbs: facts, tables, and what is wrong."""

from __future__ import annotations

import json
import sys
from typing import Any

from genhub.errors import NAME, cut, escaped
from genhub.ground.console import put
from genhub.ground.processes import first_to_say


def print_facts(facts: Any, as_json: bool) -> None:
    """Print facts as JSON or YAML."""
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")  # whole, as a program reads it; JSON has escapes of its own
        return
    from genhub.ground.parsing import to_yaml

    put(*to_yaml(facts).splitlines())


def print_table(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        print_facts(rows, as_json)
        return
    table = [[cut(escaped(cell), NAME) for cell in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        put("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def say_wrong(*lines: str) -> None:
    """Tell on stderr, once however many processes say it."""
    if first_to_say("\n".join(lines)):
        put(f"genhub: {lines[0]}", *lines[1:], stream=sys.stderr)
