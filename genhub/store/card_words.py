"""Markdown of what strangers may have written: words, code and tables, without a picture, a link or HTML in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from genhub.errors import one_line

ACTIVE = re.compile(r"[\\<>\[\]`|*_~$&]|(?<=:)/(?=/)|(?<=www)\.|^[-+#=]|(?<=^\d)[.)]", re.IGNORECASE)
"""Characters that Markdown, HTML, formulas and links by themselves are made of; at a beginning also those of a list, a rule
or a heading."""


def words(text: str) -> str:
    """Return text for one line of a card with Markdown and HTML made harmless: no picture, link, tag or end of a field."""
    return ACTIVE.sub(r"\\\g<0>", one_line(text))


def code(text: str) -> str:
    """Return text as code within a line."""
    return f"`{one_line(text).replace('`', chr(39)) or ' '}`"


def block(language: str, text: str) -> str:
    """Return a block of code with a fence longer than any in `text`."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already; a column without any cell that says something is left out."""
    lines = [heads, *rows]
    kept = [at for at in range(len(heads)) if any(line[at] for line in lines[1:])]
    written = [" | ".join(re.sub(r"(?<!\\)\|", r"\\|", line[at]) for at in kept) for line in lines]
    written.insert(1, " | ".join("---" for _ in kept))
    return "\n".join(f"| {line} |" for line in written)
