"""Tell ids of the Hub from paths of this machine by their spelling, and find the nearest path. No torch here."""

from __future__ import annotations

import re
from difflib import get_close_matches
from itertools import islice
from os import scandir
from pathlib import Path

from genhub.errors import shown

HUB, DATASETS = "hf://", "hf://datasets/"
"""Prefixes by which a model's and a data set's id is the Hub's, whatever folders there are here."""
MOST_NAMES = 2000
"""Most names in a folder that are compared for the nearest."""

Id = tuple[str, str | None]
"""Repository `user/name`, and a revision."""


def parse_id(text: str) -> Id | None:
    """Split `user/name` or `user/name@revision`, with or without hf://, into (id, revision); None for what can't be an id.

    >>> parse_id("hf://alice/digits@v1")
    ('alice/digits', 'v1')
    """
    found = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]{1,200}))?", text.removeprefix(HUB), re.ASCII)
    if not found or re.search(r"\.\.|--|[.-](/|$)|(^|/)-|\.(git|ya?ml)$", found[1]) or len(found[1]) > 96:
        return None
    return found[1], found[2]


def split_id(source: str | Path) -> Id | None:
    """Return the id that a user named; None for a path: one in a folder of here, or one that can't be an id."""
    text = str(source)
    found = parse_id(text)
    if found and not text.startswith(HUB) and Path(text.partition("/")[0]).is_dir():
        return None
    return found


def data_id(name: str) -> str | None:
    """Return the data set's id in hf://datasets/user/name; None for any other name."""
    found = parse_id(name.removeprefix(DATASETS)) if name.startswith(DATASETS) else None
    return found[0] if found and found[1] is None else None


def check_revision(revision: str) -> str:
    """Return the revision, checked.

    Raises:
        ValueError: it can't be a branch, tag or commit.
    """
    if not re.fullmatch(r"[\w./-]{1,200}", revision, re.ASCII) or ".." in revision or revision[0] in "./-":
        raise ValueError(f"{shown(revision)} can't be a branch, tag or commit")
    return revision


def nearest_path(path: Path, cutoff: float = 0.6) -> str:
    """Return the tail of a "no such file" message: the existing path whose names are nearest, or nothing."""
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
