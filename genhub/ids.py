"""What names a repository on the Hub, and what a path of this machine. No torch, and nobody is asked."""

from __future__ import annotations

import re
from difflib import get_close_matches
from itertools import islice
from os import scandir
from pathlib import Path

HUB, DATASETS = "hf://", "hf://datasets/"
"""Before a model's or a data set's id: it is the Hub's, whatever folders there are here."""
MOST_NAMES = 2000
"""Of a folder, names that are looked at for the nearest."""

Id = tuple[str, str | None]
"""`user/name`, and a revision."""


def parse_id(text: str) -> Id | None:
    """`user/name`, `user/name@revision`, either with hf:// before it, as (id, revision); None for what can't be an id.

    >>> parse_id("hf://alice/digits@v1")
    ('alice/digits', 'v1')
    """
    found = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]{1,200}))?", text.removeprefix(HUB), re.ASCII)
    if not found or re.search(r"\.\.|--|[.-](/|$)|(^|/)-|\.(git|ya?ml)$", found[1]) or len(found[1]) > 96:
        return None
    return found[1], found[2]


def split_id(source: str | Path) -> Id | None:
    """The id of what a user named; None for a path: one that lies in a folder of here, or can't be an id."""
    text = str(source)
    found = parse_id(text)
    if found and not text.startswith(HUB) and Path(text.partition("/")[0]).is_dir():
        return None
    return found


def data_id(name: str) -> str | None:
    """The data set on the Hub that a name can only mean: hf://datasets/user/name."""
    found = parse_id(name.removeprefix(DATASETS)) if name.startswith(DATASETS) else None
    return found[0] if found and found[1] is None else None


def check_revision(revision: str) -> str:
    """
    Raises:
        ValueError: it can't be a branch, tag or commit.
    """
    if not re.fullmatch(r"[\w./-]{1,200}", revision, re.ASCII) or ".." in revision or revision[0] in "./-":
        raise ValueError(f"{revision!r:.100} can't be a branch, tag or commit")
    return revision


def nearest_path(path: Path, cutoff: float = 0.6) -> str:
    """The tail of a "no such file" message: the existing path whose names are nearest, or nothing."""
    found, replaced = Path(path.anchor), False
    for part in path.relative_to(path.anchor).parts:
        if (found / part).exists():
            found /= part
            continue
        try:
            with scandir(found) as entries:
                names = [entry.name for entry in islice(entries, MOST_NAMES)]
        except OSError:
            break
        close = get_close_matches(part, names, n=1, cutoff=cutoff)
        if not close:
            break
        found, replaced = found / close[0], True
    return f"; did you mean '{found}'?" if replaced else ""
