"""Is this installation sound? Versions against the tested ranges, devices, plugins that don't import."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from packaging.requirements import Requirement

from genhub.errors import PluginError
from genhub.registry import KINDS, find_plugin, plugins


def outside_tested_ranges() -> dict[str, str]:
    """Package to what is wrong with its installed version."""
    problems = {}
    for text in requires("genhub-framework") or []:
        requirement = Requirement(text)
        if requirement.marker is not None:  # extras
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            problems[requirement.name] = f"not installed; {requirement.specifier} is needed"
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            problems[requirement.name] = f"{installed} is installed, {requirement.specifier} was tested"
    return problems


def diagnose() -> dict[str, Any]:
    """Facts for a bug report; `problems` lists what is wrong."""
    import torch

    names = [Requirement(text).name for text in requires("genhub-framework") or [] if "extra ==" not in text]
    problems = [f"{name}: {what}" for name, what in outside_tested_ranges().items()]
    versions = {name: version(name) for name in names if name not in outside_tested_ranges() or _installed(name)}
    for group in KINDS.values():
        for plugin in plugins(group):
            try:
                find_plugin(group, plugin.name).load()
            except PluginError as error:
                problems.append(str(error))
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "genhub": version("genhub-framework"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads",
        "devices": devices or (["mps"] if torch.backends.mps.is_available() else ["cpu"]),
        "versions": versions,
        "problems": list(dict.fromkeys(problems)),
    }


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
