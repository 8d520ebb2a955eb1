"""Find classes by name, through entry points. Listing reads metadata only; a class is imported when its name is asked
for."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from genhub.errors import PluginError, RecipeError, did_you_mean, shown

MODELS = "genhub.models"
SCHEDULERS = "genhub.schedulers"
TRAINERS = "genhub.trainers"
EXTRACTORS = "genhub.extractors"
METRICS = "genhub.metrics"
FORMATS = "genhub.formats"
"""Group whose names are the `_class_name` that another library writes into a folder's JSON, and whose classes are models."""
NETWORKS = "genhub.networks"
MODALITIES = "genhub.modalities"
VIEWS = "genhub.views"
KINDS = {
    "model": MODELS, "network": NETWORKS, "modality": MODALITIES, "scheduler": SCHEDULERS, "trainer": TRAINERS,
    "extractor": EXTRACTORS, "metric": METRICS, "format": FORMATS, "view": VIEWS,
}  # fmt: skip
ATTRIBUTES = {
    MODELS: ("Config", "phases", "sample", "save_networks", "load_networks"),
    NETWORKS: ("Config", "forward"),
    MODALITIES: ("Options", "learn", "read", "to_batch", "from_batch", "picture"),
    SCHEDULERS: ("add_noise", "set_timesteps", "scale_model_input", "step"),
    TRAINERS: ("Config", "fit"),
    EXTRACTORS: ("features",),
    METRICS: ("figures", "missing", "compute"),
    FORMATS: ("Config", "config_from_foreign"),
    VIEWS: ("draw", "capability", "moves", "untrained"),
}
"""Attributes that a class of each group has at least; the interfaces say more."""


@dataclass(frozen=True, order=True)
class Plugin:
    """One entry point: what it is called, where it points and who installed it."""

    group: str
    name: str
    value: str
    """`module:Class`"""
    distribution: str = ""
    version: str = ""

    @property
    def kind(self) -> str:
        return next(kind for kind, group in KINDS.items() if group == self.group)

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'" + (f" from {self.distribution} {self.version}" if self.distribution else "")

    def load(self) -> Any:
        """Import the class.

        Raises:
            PluginError: the import fails, whatever it raises, or gives something else than the group is for.
        """
        try:
            if not re.fullmatch(r"\w[\w.]*:\w[\w.]*", self.value):
                raise ImportError(f"{shown(self.value)} is not written as module:Class")
            cls = EntryPoint(self.name, self.value, self.group).load()
            if lacking := [name for name in ATTRIBUTES[self.group] if not hasattr(cls, name)]:
                raise TypeError(f"{self.value} has no {', '.join(lacking)}")
        except (Exception, SystemExit) as error:  # a plugin may even call sys.exit when imported
            raise PluginError(f"{self} can't be used: {type(error).__name__}: {error}") from error
        return cls


@cache
def all_plugins() -> tuple[tuple[Plugin, ...], tuple[str, ...]]:
    """Return every entry point for genhub, sorted by name (a name may occur twice), and the metadata that can't be read."""
    found: set[Plugin] = set()
    faults, seen = [], set()
    for distribution in distributions():
        try:
            if "[genhub." not in (distribution.read_text("entry_points.txt") or ""):
                continue
            owner = distribution.metadata["Name"] or "unknown"
            if owner not in seen:  # the first on the path counts, as for imports
                points = [point for point in distribution.entry_points if point.group in ATTRIBUTES]
                found |= {Plugin(p.group, p.name, p.value, owner, distribution.version or "?") for p in points}
            seen.add(owner)
        except Exception as error:  # damaged metadata are that distribution's own affair
            faults.append(f"{getattr(distribution, '_path', distribution)}: its entry points can't be read: {error}")
    return tuple(sorted(found)), tuple(faults)


def plugins(group: str) -> list[Plugin]:
    return [plugin for plugin in all_plugins()[0] if plugin.group == group]


def plugin_names(group: str) -> list[str]:
    return sorted({plugin.name for plugin in plugins(group)})


def find_plugin(group: str, name: str) -> Plugin:
    """Return the one plugin of that name; nothing is imported.

    Raises:
        PluginError: nobody registered it, or two distributions did.
    """
    found = [plugin for plugin in plugins(group) if plugin.name == name]
    if not found:
        kind, nearest = next(kind for kind, its in KINDS.items() if its == group), did_you_mean(name, plugin_names(group))
        raise PluginError(f"no {kind} is called {shown(name)}; {nearest} (others come by pip install)")
    if len(found) > 1:
        claims = " and as ".join(f"{plugin} ({plugin.value})" for plugin in found)
        raise PluginError(f"two distributions claim one name, as {claims}: uninstall one of them")
    return found[0]


def load_class(group: str, name: str, folder: Path | None = None) -> Any:
    """Return the class registered as `name`. With `folder`, `module:Class` works too, and modules there can be imported: for
    recipes, which are the user's own, and never for checkpoints.

    Raises:
        PluginError: unknown, claimed twice, or broken.
    """
    if folder is None or ":" not in name:
        return find_plugin(group, name).load()
    _find_modules_in(folder)
    return Plugin(group, name, name).load()


def _find_modules_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: a recipe's neighbours hide nothing that is installed


def imported(name: str, folder: Path | None = None) -> Any:
    """Return what `module:Class` names, of a module that is installed, or one in `folder`.

    Raises:
        RecipeError: the import fails, whatever it raises.
    """
    if folder is not None:
        _find_modules_in(folder)
    try:
        return EntryPoint(name, name, "").load()
    except (Exception, SystemExit) as error:
        raise RecipeError(f"{name} can't be imported: {type(error).__name__}: {error}") from error


def load_all(group: str) -> tuple[dict[str, Any], list[str]]:
    """Return all classes of a group by name, and what is wrong with those that can't be imported."""
    classes, faults = {}, []
    for name in plugin_names(group):
        try:
            classes[name] = load_class(group, name)
        except PluginError as error:
            faults.append(str(error))
    return classes, faults


def plugin_of(group: str, cls: type) -> Plugin | None:
    """Return the entry point that points to a class, if one does. Nothing is imported."""
    for plugin in plugins(group):
        module, _, attribute = plugin.value.partition(":")
        if attribute == cls.__qualname__ and cls.__module__.split(".")[0] == module.split(".")[0]:
            return plugin
    return None


def scheduler_names() -> tuple[str, ...]:
    """Return the names of the registered noise schedules, without importing any."""
    return tuple(plugin_names(SCHEDULERS))


def load_scheduler(name: str) -> Any:
    """Return a registered noise schedule's class; it has the methods of `genhub.Scheduler`.

    Raises:
        PluginError: unknown, claimed twice, or broken.
    """
    return load_class(SCHEDULERS, name)


def _scheduler_name(name: str) -> str:
    if name not in scheduler_names():
        raise ValueError(f"no scheduler is called {shown(name)}; {did_you_mean(name, scheduler_names())}")
    return name


SchedulerName = Annotated[str, AfterValidator(_scheduler_name)]
"""Name of a registered noise schedule, in a Config or as an option of `sample`; no class is imported to check it."""
