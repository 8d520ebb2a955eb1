"""Packages that come with an extra of genhub's, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from genhub.errors import InputError


def import_extra(module: str, extra: str, wanted_by: str) -> Any:
    """Return a module that an extra installs.

    Raises:
        InputError: it is not installed, or can't be imported.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise InputError(f"{wanted_by}: {module} can't be imported: {error}") from error
        raise InputError(f"{wanted_by} needs {module}: pip install 'genhub-framework[{extra}]'") from error
    except ImportError as error:
        raise InputError(f"{wanted_by}: {module} can't be imported: {error}") from error
