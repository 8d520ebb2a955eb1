"""Check this installation: versions against the tested ranges, devices, plugins that don't load."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from packaging.requirements import Requirement

from genhub.interfaces.registry import KINDS, all_plugins, load_all
from genhub.store.manifest import genhub_version


def diagnose() -> dict[str, Any]:
    """Return facts for a bug report; `problems` lists what is wrong."""
    versions, problems = installed_versions()
    problems += all_plugins()[1]
    for group in KINDS.values():
        problems += load_all(group)[1]
    try:
        devices = _devices()
    except Exception as error:  # a damaged torch is what a doctor is asked about
        devices = []
        problems.append(f"torch can't be used: {type(error).__name__}: {error}")
    return {
        "genhub": genhub_version(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "devices": devices,
        "versions": versions,
        "problems": problems,
    }


def installed_versions() -> tuple[dict[str, str], list[str]]:
    """Return the packages that genhub needs and their versions, and which of them are missing or outside the tested
    ranges."""
    versions, problems = {}, []
    for requirement in map(Requirement, requires("genhub-framework") or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, tested = requirement.name, requirement.specifier
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            problems.append(f"{name}: not installed; pip install '{requirement}'")
            continue
        if not tested.contains(versions[name], prereleases=True):
            problems.append(f"{name}: {versions[name]} is installed, {tested} was tested")
    return versions, problems


def _devices() -> list[str]:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    return [*names, f"cpu with {torch.get_num_threads()} threads"]
