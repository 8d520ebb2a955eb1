"""Settings that a sweep varies: `key.path=values` from the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from genhub.errors import InputError, shown

MOST_RUNS = 1000
WHOLE, DECIMAL = r"-?\d+", r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    whole: bool

    @property
    def log(self) -> bool:
        """Whether it is searched by the logarithm: where its ends are a factor of 10 or more apart."""
        return self.low > 0 and self.high >= 10 * self.low


@dataclass(frozen=True)
class Setting:
    """A key with the values to try: a list of texts, or a range."""

    key: str
    values: tuple[str, ...] | Range

    @classmethod
    def read(cls, text: str) -> Setting:
        """Read `lr=1e-4,3e-4`, `seed=0..4` or `lr=1e-4..1e-2`; commas within brackets or quotes belong to a value.

        Raises:
            InputError: it is none of these.
        """
        key, equals, values = text.partition("=")
        if not equals or not key.strip() or not values.strip():
            raise InputError(f"--set: {shown(text)} must look like key.path=value,value or key.path=0..4")
        if ends := re.fullmatch(rf"({DECIMAL})\.\.({DECIMAL})", values.strip()):
            whole = all(re.fullmatch(WHOLE, end) for end in ends.groups())
            low, high = map(float, ends.groups())
            if low > high:
                raise InputError(f"--set: {shown(text)}: a range goes up")
            return cls(key.strip(), Range(low, high, whole))
        parts = [part for part in map(str.strip, _split(values)) if part]
        return cls(key.strip(), tuple(dict.fromkeys(parts)))

    def listed(self) -> list[str]:
        """Return all values, for a grid.

        Raises:
            InputError: there are too many, as a range of decimals has.
        """
        if not isinstance(self.values, Range):
            return list(self.values)
        low, high = self.values.low, self.values.high
        if not self.values.whole:
            said = f"--set {self.key}={low:g}..{high:g}: a range of decimals has no end of values"
            raise InputError(f"{said}; name some, with commas between them, or search it with --trials N")
        if high - low >= MOST_RUNS:
            raise InputError(f"--set {self.key}={low:.0f}..{high:.0f}: a range goes up, by at most {MOST_RUNS}")
        return [str(number) for number in range(int(low), int(high) + 1)]


def read_settings(settings: Sequence[str]) -> list[Setting]:
    """
    Raises:
        InputError: see `Setting.read`; or a key is given twice.
    """
    read = [Setting.read(text) for text in settings]
    if len({setting.key for setting in read}) < len(read):
        raise InputError("--set: a key is given twice; put its values into one, with commas between them")
    return read


def _split(text: str) -> Iterator[str]:
    """Yield the parts of a text between commas that are not within brackets or quotes.

    >>> list(_split("train[:900],[[1, 2], '3,'],x"))
    ['train[:900]', "[[1, 2], '3,']", 'x']
    """
    part, depth, quote = "", 0, ""
    for char in text:
        if char == "," and not depth and not quote:
            yield part
            part = ""
            continue
        part += char
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        else:
            depth = max(0, depth + (char in "[{(") - (char in ")}]"))
    yield part
