"""Text for people: escape it, cut it to a line and print it. Nothing else in genhub prints.

Names and values may come from strangers: their models, recipes and files. What a terminal would act on, or hide, is
written as an escape, so that no value can move the cursor, forge a line or fill the screen. No torch here.
"""

from __future__ import annotations

import reprlib
import sys
from typing import TextIO

VALUE, NAME, LINE = 60, 240, 1000
"""Most characters of a value that a message quotes, of a name or a table's field, and of a line."""
_QUOTED = reprlib.Repr()
_QUOTED.maxstring = _QUOTED.maxother = VALUE
_QUOTED.maxlist = _QUOTED.maxtuple = _QUOTED.maxset = _QUOTED.maxdict = 20


def escaped(text: str) -> str:
    r"""Return text with everything that is no printable character, newlines too, written as an escape.

    >>> escaped("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def cut(text: str, most: int) -> str:
    """Return text shortened to `most` characters by leaving out its middle: a message begins with where, and ends with what
    to do.

    >>> cut("abcdefghijkl", 9)
    'abcd...kl'
    """
    end = (most - 3) // 3
    return text if len(text) <= most else f"{text[: most - 3 - end]}...{text[-end:]}"


def one_line(text: str) -> str:
    """Return text escaped and cut to one line."""
    return cut(escaped(cut(text, 2 * LINE)), LINE)


def shown(value: object) -> str:
    """Return a value as messages quote it: short, on one line, and in YAML's words."""
    if isinstance(value, int) and value.bit_length() > 4 * VALUE:  # Python refuses to write very long ones
        return f"a number of {value.bit_length()} bits"
    return "null" if value is None else cut(escaped(_QUOTED.repr(value)), VALUE)


def put(*lines: str, stream: TextIO | None = None) -> None:
    """Print lines, each of which stays one, on stdout if nothing else is said."""
    stream = stream or sys.stdout
    stream.write("\n".join(map(one_line, lines)) + "\n")  # at once, as other processes write there, too
    stream.flush()
