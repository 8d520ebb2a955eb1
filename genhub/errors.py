"""What can go wrong, as a person should read it.

GenhubError               exit code 1
├── InputError            exit code 2: something the user gave can't be used
│   ├── RecipeError       a recipe file or a key=value override
│   ├── DataError         images or labels
│   ├── PluginError       a name nobody registered, two claim, or that fails to import
│   ├── CheckpointError   a run, checkpoint or model folder
│   │   └── NewerFormat   one that a newer genhub wrote: nothing is wrong with it
│   └── HubError          a repository on the Hub: absent, not for this login, or not what it says
│       └── HubUnavailable   exit code 1: the Hub can't be reached; trying later may help
├── TrainingError         exit code 1: the run can't go on (a loss that is not finite, a phase that breaks the contract)
└── Interrupted           exit code 130 or 143: a signal or the deadline stopped the run after it had saved

Every message is one line a fault: what, where, the nearest right name, what to do. The command line prints the message
and exits with `exit_code`; from Python they are ordinary exceptions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


class GenhubError(Exception):
    """Base of all errors that genhub raises on purpose. None of them says a password."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(without_passwords(message))


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


class TrainingError(GenhubError):
    pass


class Interrupted(GenhubError):
    """A signal stopped the run; `exit_code` is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def without_passwords(text: str) -> str:
    """A text whose addresses say no user and password.

    >>> without_passwords("https://alice:secret@hub.example.org/x, hf://alice/x@v1")
    'https://hub.example.org/x, hf://alice/x@v1'
    """
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an "unknown name" message: the nearest known name, or all of them.

    >>> did_you_mean("dpm", ["ddpm", "vae"])
    "did you mean 'ddpm'?"
    >>> did_you_mean("x", ["ddpm", "vae"])
    'known: ddpm, vae'
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + (", ".join(names) or "none")
