"""Names to classes, by entry points. Listing reads metadata only; a class is imported when its name is asked for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from genhub.errors import PluginError, did_you_mean

MODELS = "genhub.models"
SCHEDULERS = "genhub.schedulers"
TRAINERS = "genhub.trainers"
FORMATS = "genhub.formats"
"""Names here are the `_class_name` that another library writes into a folder's JSON; the classes are models."""
KINDS = {"model": MODELS, "scheduler": SCHEDULERS, "trainer": TRAINERS}


@dataclass(frozen=True, order=True)
class Plugin:
    """One entry point: what it is called, where it points and who installed it."""

    group: str
    name: str
    value: str
    distribution: str
    version: str

    def load(self) -> Any:
        """Import the class.

        Raises:
            PluginError: the import fails, whatever it raises; the message names distribution and version.
        """
        try:
            return EntryPoint(self.name, self.value, self.group).load()
        except (Exception, SystemExit) as error:  # a plugin may even call sys.exit when imported
            raise PluginError(
                f"{self.group}: '{self.name}' from {self.distribution} {self.version} can't be imported: "
                f"{type(error).__name__}: {error}"
            ) from error


@cache
def plugins(group: str) -> tuple[Plugin, ...]:
    """All entry points of a group, sorted by name; a name may occur twice."""
    found = {
        Plugin(group, point.name, point.value, point.dist.name if point.dist else "?", point.dist.version if point.dist else "?")
        for point in entry_points(group=group)
    }  # fmt: skip
    return tuple(sorted(found))


def plugin_names(group: str) -> tuple[str, ...]:
    return tuple(sorted({plugin.name for plugin in plugins(group)}))


def find_plugin(group: str, name: str) -> Plugin:
    """The one plugin of that name.

    Raises:
        PluginError: nobody registered it, or two distributions did.
    """
    found = [plugin for plugin in plugins(group) if plugin.name == name]
    if not found:
        kind = group.removeprefix("genhub.").removesuffix("s")
        raise PluginError(f"no {kind} is called '{name}'; {did_you_mean(name, plugin_names(group))}")
    if len(found) > 1:
        owners = " and ".join(f"{plugin.distribution} {plugin.version} ({plugin.value})" for plugin in found)
        raise PluginError(f"{group}: '{name}' is claimed by {owners}: uninstall one of them")
    return found[0]


def load_plugin(group: str, name: str) -> Any:
    """The class registered as `name`, imported.

    Raises:
        PluginError: unknown, claimed twice, or broken.
    """
    return find_plugin(group, name).load()


def load_class(group: str, name: str, folder: Path | None = None) -> Any:
    """As `load_plugin`; `module:Class` works too, with `folder` importable: for recipes, never for checkpoints."""
    if ":" not in name:
        return load_plugin(group, name)
    module, _, attribute = name.partition(":")
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise PluginError(f"'{name}' can't be imported: {type(error).__name__}: {error}") from error


def plugin_of(group: str, cls: type) -> Plugin | None:
    """The entry point that points to a class, if one does. Nothing is imported."""
    for plugin in plugins(group):
        module, _, attribute = plugin.value.partition(":")
        if attribute == cls.__qualname__ and cls.__module__.split(".")[0] == module.split(".")[0]:
            return plugin
    return None


def scheduler_names() -> tuple[str, ...]:
    """The registered noise schedules, without importing any."""
    return plugin_names(SCHEDULERS)


def load_scheduler(name: str) -> Any:
    """A registered noise schedule's class; it has the methods of `genhub.Scheduler`.

    Raises:
        PluginError: unknown, claimed twice, or broken.
    """
    return load_plugin(SCHEDULERS, name)
