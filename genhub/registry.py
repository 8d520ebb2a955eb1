"""Names to classes, by entry points. Listing reads metadata only; a class is imported when its name is asked for."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import EntryPoint, distributions
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

    def __str__(self) -> str:
        return f"'{self.name}' from {self.distribution} {self.version} ({self.value})"

    def load(self) -> Any:
        """Import the class.

        Raises:
            PluginError: the import fails, whatever it raises, or gives something else than the group is for.
        """
        return _import(EntryPoint(self.name, self.value, self.group), str(self))


@cache
def all_plugins() -> tuple[tuple[Plugin, ...], tuple[str, ...]]:
    """Every entry point for genhub, sorted by name (a name may occur twice), and what is wrong with the unreadable."""
    found: set[Plugin] = set()
    faults, seen = [], set()
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if "genhub." not in text or (name := distribution.metadata["Name"] or "unknown") in seen:
                continue
            seen.add(name)  # the first on the path counts, as for imports
            points = [point for point in distribution.entry_points if point.group.startswith("genhub.")]
            found |= {Plugin(p.group, p.name, p.value, name, distribution.version or "?") for p in points}
        except Exception as error:  # its metadata are damaged: that distribution's own affair
            faults.append(f"the metadata of {getattr(distribution, '_path', distribution)} can't be read: {error}")
    return tuple(sorted(found)), tuple(faults)


def plugins(group: str) -> tuple[Plugin, ...]:
    return tuple(plugin for plugin in all_plugins()[0] if plugin.group == group)


def plugin_names(group: str) -> tuple[str, ...]:
    return tuple(sorted({plugin.name for plugin in plugins(group)}))


def find_plugin(group: str, name: str) -> Plugin:
    """The one plugin of that name.

    Raises:
        PluginError: nobody registered it, or two distributions did.
    """
    found = [plugin for plugin in plugins(group) if plugin.name == name]
    if not found:
        nearest = did_you_mean(name, plugin_names(group))
        raise PluginError(f"no {_kind(group)} is called '{name}'; {nearest} (others come by pip install)")
    if len(found) > 1:
        owners = " and ".join(f"{plugin.distribution} {plugin.version} ({plugin.value})" for plugin in found)
        raise PluginError(f"{_kind(group)} '{name}' is claimed by {owners}: uninstall one of them")
    return found[0]


def load_class(group: str, name: str, folder: Path | None = None) -> Any:
    """The class registered as `name`. With `folder`, `module:Class` works too, and modules there can be imported: for
    recipes, which are the user's own, and never for checkpoints.

    Raises:
        PluginError: unknown, claimed twice, or broken.
    """
    if folder is None or ":" not in name:
        return find_plugin(group, name).load()
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: a recipe's neighbours hide nothing that is installed
    return _import(EntryPoint(name, name, group), f"'{name}'")


def load_all(group: str) -> tuple[dict[str, Any], list[str]]:
    """Every class of a group that can be had, by name, and what is wrong with the others."""
    classes, faults = {}, []
    for name in plugin_names(group):
        try:
            classes[name] = load_class(group, name)
        except PluginError as error:
            faults.append(str(error))
    return classes, faults


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
    return load_class(SCHEDULERS, name)


def plugin_rows() -> Iterator[dict[str, str]]:
    """What is installed, for a person to read; a name that two distributions claim is there twice, and marked."""
    for kind, group in KINDS.items():
        names = [plugin.name for plugin in plugins(group)]
        for plugin in plugins(group):
            conflict = "claimed twice: uninstall one" if names.count(plugin.name) > 1 else ""
            row = asdict(plugin) | {"problem": conflict}
            yield {"kind": kind} | {key: row[key] for key in ("name", "value", "distribution", "version", "problem")}


def _import(point: EntryPoint, whose: str) -> Any:
    where = f"{_kind(point.group)} {whose}"
    try:
        if not re.fullmatch(r"\w[\w.]*:\w[\w.]*", point.value):
            raise ImportError("must be written module:Class")
        cls = point.load()
    except (Exception, SystemExit) as error:  # a plugin may even call sys.exit when imported
        raise PluginError(f"{where} can't be imported: {type(error).__name__}: {error}") from error
    if fault := _misfit(point.group, cls):
        raise PluginError(f"{where} {fault}")
    return cls


def _misfit(group: str, cls: Any) -> str | None:
    """Why an imported object can't be what its group is for."""
    if group == SCHEDULERS:
        lacking = [key for key in ("add_noise", "set_timesteps", "scale_model_input", "step") if not hasattr(cls, key)]
        return f"has no {', '.join(lacking)}" if lacking else None
    from genhub.interfaces import GenerativeModel, Trainer  # imports torch, as a class of these groups has done already

    base = Trainer if group == TRAINERS else GenerativeModel
    return None if isinstance(cls, type) and issubclass(cls, base) else f"does not derive from genhub.{base.__name__}"


def _kind(group: str) -> str:
    return group.removeprefix("genhub.").removesuffix("s")
