"""Read a recipe's text: plain YAML and `key.path=value`, with the origin of each key for messages to name."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from genhub.errors import VALUE, InputError, RecipeError, cut, shown

MAX_BYTES = 2**17
MAX_DEPTH = 32
MAX_DIGITS = 40
SHELLS = (Path("/dev/fd"), Path("/proc/self/fd"))
"""Folders in which a shell puts what `<(...)` stands for."""
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}
MOST_FAULTS = 20
"""Most faults in one message."""
KeyPath = tuple[str | int, ...]
COMMAND_LINE = "command line"
"""Origin of an override, in place of file and line."""
Message = str | Callable[[], str]
"""Text of a fault; or a function that makes it, where that takes a while and it may not be shown."""
DATA_NAME = ("data", "name")
TAKES = "; a recipe has text, numbers, true, false, null, lists and sections"


@dataclass
class TextSource:
    """Origins of keys, and the faults found in them: a message names file, line and key path."""

    name: str
    theirs: bool = False
    """Whether the recipe is somebody else's, from the Hub: see theirs.py."""
    origins: dict[KeyPath, str] = field(default_factory=dict)
    """Key path to `file:line` or `command line`, in the order of reading."""
    faults: list[tuple[KeyPath | None, str, KeyPath, Message]] = field(default_factory=list)
    """Faults: the deepest key on its path that was given, the origin of that key, the fault's own path, and its message."""

    def _known(self, path: KeyPath) -> KeyPath | None:
        return next((path[:end] for end in range(len(path), 0, -1) if path[:end] in self.origins), None)

    def origin(self, path: KeyPath) -> str:
        """Return `file:line` or `command line` of the key at `path`, or of the section around it."""
        known = self._known(path)
        return self.origins[known] if known else self.name

    def fault(self, path: KeyPath, message: Message) -> None:
        self.faults.append((self._known(path), self.origin(path), path, message))

    def raise_faults(self) -> None:
        """
        Raises:
            RecipeError: there are faults: the first in the order of reading, a line each.
        """
        if not self.faults:
            return
        place = {path: number for number, path in enumerate(self.origins)}
        found = sorted(self.faults, key=lambda fault: -1 if fault[0] is None else place.get(fault[0], -1))
        lines = (located(at, path, text if isinstance(text, str) else text()) for _, at, path, text in found[:MOST_FAULTS])
        more = len(found) - MOST_FAULTS
        raise RecipeError(*dict.fromkeys(lines), *([f"{self.name}: and {more:,} more"] if more > 0 else []))

    @contextmanager
    def blaming(self, *path: str | int) -> Iterator[None]:
        """Record what is raised inside as a fault of the key at `path`; `raise_faults` must follow."""
        try:
            yield
        except InputError as error:
            self.fault(path, str(error))


def located(where: str, path: KeyPath, message: str) -> str:
    """Return `where: key.path: message`."""
    keys = f": {'.'.join(cut(str(key), VALUE) or repr(key) for key in path)}" if path else ""
    return f"{where}{keys}: {message}"


def read_text(file: Path) -> str:
    """Return the content of a text file of bounded size."""
    try:
        theirs = file.parent not in SHELLS  # <(...) is the user's own, and its other end is at work
        if theirs and not file.is_file() and not file.is_dir() and file.exists():  # a pipe would be waited for
            raise RecipeError(f"{file}: is no file; a recipe is a text file")
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(f"{file}: larger than {MAX_BYTES} bytes; is it a recipe?")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{file}: {error.strerror}; a recipe is a text file") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: not a text file (byte {error.start} is not UTF-8)") from error


def parse_yaml(text: str, where: TextSource) -> dict[str, Any]:
    """Return the mapping in a YAML text; the keys' lines go into `where`."""
    content = _parse(text, where)
    if content is None:
        raise RecipeError(f"{where.name}: is empty; a recipe has at least a section `model`")
    if not isinstance(content, dict):
        raise RecipeError(f"{where.name}: must be a mapping of sections (model, data, trainer), not {shown(content)}")
    return content


def _parse(text: str, where: TextSource) -> Any:
    try:
        loader = _Loader(text, where)
        node = loader.get_single_node()
        content = None if node is None else loader.value(node, ())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        context = f"{error.context}, " if str(error.problem).startswith("but") else ""
        hint = " (indent with spaces)" if "'\\t'" in str(error.problem) else ""
        raise RecipeError(f"{where.name}:{line}: not valid YAML: {context}{error.problem}{hint}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(f"{where.name}:{line}: not a text: it has the character {error.character:#x}") from error
    except RecursionError as error:
        raise RecipeError(f"{where.name}: nested deeper than {MAX_DEPTH} levels") from error
    where.raise_faults()
    return content


class _Loader(yaml.SafeLoader):
    """Loader of plain YAML alone: no aliases (they can grow without bound), no tags, no duplicate keys."""

    def __init__(self, text: str, where: TextSource) -> None:
        super().__init__(text)
        self.where = where

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise RecipeError(
                f"{self._at(event)}: '*{cut(str(event.anchor), VALUE)}': aliases are not allowed; write the value out"
            )
        if tag := event.tag:
            short = tag.replace("tag:yaml.org,2002:", "!!")
            raise RecipeError(f"{self._at(event)}: '{short}': tags are not allowed; write the value alone")
        return super().compose_node(parent, index)

    def value(self, node: Any, path: KeyPath) -> Any:
        self.where.origins.setdefault(path, self._at(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        # YAML 1.1 has dates, octal numbers and 1:30 for 90, all of them surprises here
        odd = re.match(r"[-+]?0\w|.*:", node.value) or len(node.value) > MAX_DIGITS
        if node.tag not in PLAIN_TAGS or (odd and node.tag.endswith((":int", ":float"))):
            hint = f"write numbers in at most {MAX_DIGITS} decimal digits, and text in quotes"
            return self.where.fault(path, f"can't be {shown(node.value)}; {hint}")
        return self.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{self._at(key_node)}: a key must be a word")
            here = (*path, key_node.value)
            first, self.where.origins[here] = self.where.origins.get(here), self._at(key_node)
            if first is not None:
                self.where.fault(here, f"given twice (first at {first})")
            values[key_node.value] = self.value(value_node, here)
        return values

    def _at(self, node: Any) -> str:
        return f"{self.where.name}:{node.start_mark.line + 1}"


def apply_override(content: dict[str, Any], override: str, where: TextSource, origin: str = COMMAND_LINE) -> None:
    """Set `key.path=value` in a recipe's content; the value is read as YAML."""
    dotted, equals, text = override.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not equals or not all(keys):
        raise RecipeError(f"{origin}: {shown(override)} must look like key.path=value")
    target = content
    for depth, key in enumerate(keys[:-1], start=1):
        if target.get(key) is None:
            target[key] = {}
        target = target[key]
        if not isinstance(target, dict):
            raise RecipeError(located(origin, keys, f"{'.'.join(keys[:depth])} is a value, not a section"))
    target[keys[-1]] = _parse(text, TextSource(located(origin, keys, "value")))
    where.origins = {path: at for path, at in where.origins.items() if path[: len(keys)] != keys} | {keys: origin}


def plain(value: Any, path: KeyPath, where: TextSource) -> Any:
    """Return a copy as YAML would give it; what no file could hold becomes a fault. Objects are not looked into: iterating
    one may never end."""
    if len(path) > MAX_DEPTH:
        where.fault(path[:1], f"nested deeper than {MAX_DEPTH} levels")
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(inner, (*path, str(key)), where) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, (*path, index), where) for index, inner in enumerate(value)]
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        where.fault(path, f"has a character that can't be written: {shown(value)}")
    if value is not None and not isinstance(value, str | int | float):
        takes = "; it takes a folder, parquet or arrow files, a Hub data set's id or digits" if path == DATA_NAME else ""
        where.fault(path, f"can't be an object of class {type(value).__name__:.60}{takes or TAKES}")
        return None
    return value


def flattened(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each key of a section, and of those in it, by its dotted path, and its value.

    >>> dict(flattened({"trainer": {"optimizer": {"lr": 0.1}}, "seed": 0}))
    {'trainer.optimizer.lr': 0.1, 'seed': 0}
    """
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def yaml_line(value: Any) -> str:
    """Return a value as YAML on one line, with everything that is no printable character in escapes."""
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=True, width=sys.maxsize)
    if not all(map(str.isprintable, text.split("\n"))):
        text = yaml.safe_dump(value, sort_keys=False, default_flow_style=True, width=sys.maxsize)
    return text.removesuffix("\n").removesuffix("\n...")


def to_yaml(content: Any) -> str:
    """Return YAML that reads back as the same content, with everything that is no printable character in escapes."""
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    if all(map(str.isprintable, text.split("\n"))):
        return text
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)


def read_data_keys(pairs: Sequence[str], origin: str) -> dict[str, Any]:
    """Return keys of a recipe's `data`, with or without `data.` in front, as nested dictionaries."""
    values = read_pairs(pairs, origin)
    prefixed = values.pop("data", {})
    if not isinstance(prefixed, dict):
        raise InputError(f"{origin}: data: is a section; name a key of it, data.target=photo, not {shown(prefixed)}")
    return {**prefixed, **values}


def read_pairs(pairs: Sequence[str], origin: str) -> dict[str, Any]:
    """Return key.path=value pairs as nested dictionaries."""
    values: dict[str, Any] = {}
    for pair in pairs:
        apply_override(values, pair, TextSource(origin), origin=origin)
    return values
