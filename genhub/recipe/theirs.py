"""Check a recipe from the Hub: it may name what is installed or on the Hub, and nothing of this machine.

All text in it is checked here, before anything of it is used. What the command line says on top is the user's own.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from genhub.errors import did_you_mean, shown
from genhub.ground.ids import DATASETS, HUB, check_revision, data_id, parse_id
from genhub.ground.parsing import COMMAND_LINE, KeyPath, TextSource
from genhub.interfaces.columns import BUILT_IN
from genhub.interfaces.registry import EXTRACTORS, MODALITIES, load_all, plugin_names
from genhub.interfaces.section import ModelPath

SECTIONS = ("model", "data", "trainer", "evaluate", "seed", "run_dir")
"""Sections that such a recipe may have; run_dir is dropped, as OWN says."""
OWN = (("run_dir",), ("hub",), ("trainer", "trackers"))
"""Keys that only whoever trains may set, as they say where to write and to whom to send."""
FREE_TEXT = {("data", "split"), ("data", "target"), ("evaluate", "held_out")}
"""Keys whose text may have any character: names of what is in the data. None of them is ever a path."""
REMEDY = "read its recipe, and train it as a file of your own, or set the key on the command line"


def without_own(content: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a recipe's content without the keys of OWN, and which of them it had."""
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    left_out = []
    for *sections, key in OWN:
        at: Any = kept
        for section in sections:
            at = at.get(section)
        if isinstance(at, dict) and key in at:
            del at[key]
            left_out.append(".".join([*sections, key]))
    return kept, left_out


def check_theirs(content: dict[str, Any], where: TextSource) -> dict[str, Any]:
    """Return the content with Hub ids spelled hf://..., so that no folder of this machine is ever meant; what may not be
    said becomes a fault."""
    for key in content:
        if key not in SECTIONS and where.origin((key,)) != COMMAND_LINE:
            where.fault((key,), f"unknown key; {did_you_mean(key, SECTIONS)}")
    checked: dict[str, Any] = _checked(content, (), where)
    return checked


def _checked(value: Any, path: KeyPath, where: TextSource) -> Any:
    if isinstance(value, dict):
        return {key: _checked(inner, (*path, key), where) for key, inner in value.items()}
    if isinstance(value, list):
        return [_checked(inner, (*path, index), where) for index, inner in enumerate(value)]
    if not isinstance(value, str) or path == ("run_dir",) or where.origin(path) == COMMAND_LINE:
        return value
    try:
        return _text(value, path)
    except ValueError as error:
        where.fault(path, f"{error}; {REMEDY}")
        return value


def _text(text: str, path: KeyPath) -> str:
    """Return a stranger's text at a key in the form in which it is used.

    Raises:
        ValueError: it may not be said at this key.
    """
    match path:
        case ("data", "name"):
            if text in BUILT_IN or data_id(text):
                return text
            if data_id(DATASETS + text) is None:
                raise ValueError(
                    "a recipe from the Hub can name digits, moons and the like or a data set on the Hub, user/name, not "
                    f"{shown(text)}"
                )
            return DATASETS + text
        case ("data", "name", _):
            raise ValueError(f"a recipe from the Hub can't name files, such as {shown(text)}")
        case ("data", "columns", _) | ("data", "columns", _, "modality"):
            if text not in plugin_names(MODALITIES):
                raise ValueError(f"a recipe from the Hub can name a registered modality alone, not {shown(text)}")
            return text
        case ("data", "columns", _, key) if key in _keys_of_networks():
            if not parse_id(text):
                raise ValueError(f"a recipe from the Hub can name a model on the Hub, user/name, not {shown(text)}")
            return text if text.startswith(HUB) else HUB + text
        case ("data", "columns", *_) | ("model", "conditions", *_):  # names of what is in the data, and never a path
            return text
        case ("data", "revision"):
            return check_revision(text)
        case ("evaluate", "extractor"):
            if text not in plugin_names(EXTRACTORS):
                raise ValueError(f"a recipe from the Hub can name a registered extractor alone, not {shown(text)}")
            return text
        case _ if path in FREE_TEXT:
            return text
        case ("model", *_) if parse_id(text):
            return text if text.startswith(HUB) else HUB + text
        case ("model", "from"):
            raise ValueError(f"a recipe from the Hub can name a model on the Hub, user/name, not {shown(text)}")
    if text and not re.fullmatch(r"[-+]?\w[\w.+-]*", text):
        raise ValueError(f"a recipe from the Hub can name nothing of this machine, and {shown(text)} might")
    return text


def _keys_of_networks() -> set[str]:
    """Return the keys of columns by which a recipe names a network: those of type `ModelPath`, of any modality."""
    _, *marks = get_args(ModelPath)
    fields = [its for cls in load_all(MODALITIES)[0].values() for its in cls.Options.model_fields.items()]
    return {key for key, field in fields if ModelPath in get_args(field.annotation) or marks[-1] in field.metadata}
