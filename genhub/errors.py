"""Errors that genhub raises on purpose, with messages for people.

GenhubError               exit code 1
├── InputError            exit code 2: something the user gave can't be used
│   ├── RecipeError       a recipe file or a key=value override
│   ├── DataError         images or labels
│   ├── PluginError       a name nobody registered, two claim, or that fails to import
│   ├── CheckpointError   a run, checkpoint or model folder
│   │   └── NewerFormat   one that a newer genhub wrote: nothing is wrong with it
│   └── HubError          a repository on the Hub: absent, not for this login, or not what it says
│       └── HubUnavailable   exit code 1: the Hub can't be reached; trying later may help
├── NotFinite             exit code 1: what a model draws or computes is NaN or infinite; it is not written or measured
├── TrainingError         exit code 1: the run can't go on (a loss that is not finite, a phase that breaks the contract)
└── Interrupted           exit code 130 or 143: a signal or the deadline stopped the run after it had saved

Every message is one line a fault: what, where, the nearest right name, what to do. The command line prints the message
and exits with `exit_code`; from Python they are ordinary exceptions. A message quotes a value by `console.shown`.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


MOST_NAMES, MOST_LISTED = 2000, 12
"""Most known names that a wrong one is compared with, and most that are listed."""


class GenhubError(Exception):
    """Base of all errors that genhub raises on purpose.

    Each argument is a line of the message, and stays one, no longer than a line, whatever values are in it. No password is
    said.
    """

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__(*(one_line(without_passwords(line)) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in the place of a traceback: as on the command line, the message alone."""
        return [f"{type(self).__name__}: {self}"]


class InputError(GenhubError):
    exit_code = 2


class RecipeError(InputError):
    pass


class DataError(InputError):
    pass


class PluginError(InputError):
    pass


class CheckpointError(InputError):
    pass


class NewerFormat(CheckpointError):
    pass


class HubError(InputError):
    pass


class HubUnavailable(HubError):
    exit_code = 1


class NotFinite(GenhubError):
    pass


class TrainingError(GenhubError):
    pass


class Interrupted(GenhubError):
    """A signal stopped the run; `exit_code` is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def without_passwords(text: str) -> str:
    """Return text with the user and password taken out of its addresses.

    >>> without_passwords("https://alice:secret@hub.example.org/x, hf://alice/x@v1")
    'https://hub.example.org/x, hf://alice/x@v1'
    """
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the tail of an "unknown name" message: the nearest known name, or all of them.

    >>> did_you_mean("dpm", ["ddpm", "vae"])
    "did you mean 'ddpm'?"
    >>> did_you_mean("x", ["ddpm", "vae"])
    'known: ddpm, vae'
    """
    names = [cut(escaped(own), NAME) for own in sorted(islice(known, MOST_NAMES))]
    close = get_close_matches(name[:NAME], names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    more = len(names) - MOST_LISTED
    return "known: " + (", ".join(names[:MOST_LISTED]) or "none") + (f" and {more} more" if more > 0 else "")


def explained(fault: ErrorDetails) -> str:
    """Return a fault that pydantic found in our own words; what a section's own rule says is left as it is."""
    given = shown(fault["input"])
    match fault["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "unknown key"
        case "literal_error":
            choices = [choice.strip("'") for choice in re.split(", | or ", fault["ctx"]["expected"])]
            return f"can't be {given}; {did_you_mean(str(fault['input']), choices)}"
        case "value_error" | "assertion_error":
            return str(fault["ctx"]["error"])
    text = re.sub(r"^\w+ should", "must", fault["msg"].partition(" after validation")[0])
    text = re.sub("a valid dictionary.*", "a section of keys", text).replace("a valid tuple", "a list")
    return f"{text}, not {given}"


def first_fault(error: ValidationError) -> str:
    """Return the first fault that pydantic found, with the path of its key."""
    fault = error.errors(include_url=False)[0]
    keys = ".".join(cut(str(key), VALUE) for key in fault["loc"])
    return f"{keys}: {explained(fault)}" if keys else explained(fault)


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
