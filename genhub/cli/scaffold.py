"""`genhub plugins new`: a distribution of one file that works at once, copied from `templates/`. No torch here.

The templates are working plugins, named my-model, my_model and MyModel (or my-scheduler, ...); those words are replaced.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
import shutil
from pathlib import Path

from genhub.errors import InputError, PluginError, did_you_mean
from genhub.ground.disk import put_in_place
from genhub.interfaces.registry import KINDS, plugins

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_KINDS = ("model", "network", "modality", "scheduler", "trainer", "metric", "view")


def new_plugin(name: str, kind: str = "model", into: Path = Path()) -> Path:
    """Write a plugin: pyproject.toml, one module, a recipe, a test and a README.

    Args:
        name: of the folder, the distribution and the entry point, as PEP 503 normalises it: my-model.
        kind: model, network, modality, scheduler, trainer, metric or view.
        into: where the folder is made.
    Returns:
        The new folder.
    Raises:
        InputError: the name can't be used, or is taken by a plugin, a distribution, a module or a folder.
    """
    if kind not in TEMPLATE_KINDS:
        raise InputError(f"--kind {kind}: there is no such kind; {did_you_mean(kind, TEMPLATE_KINDS)}")
    _check_name(name)
    folder = into / name
    if folder.exists():
        raise InputError(f"{folder}: exists already; choose another name, or move it away")
    module, stem = name.replace("-", "_"), f"my_{kind}"
    words = {f"my-{kind}": name, stem: module, f"My{kind.title()}": module.title().replace("_", "")}
    temporary = folder.with_name(f".{name}.new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for file in sorted(path for path in (TEMPLATES / kind).iterdir() if path.is_file()):
            text = re.sub("|".join(words), lambda found: words[found[0]], file.read_text())
            (temporary / file.name.replace(stem, module)).write_text(text)
        put_in_place(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(f"{folder}: can't be written: {error.strerror}") from error
    return folder


def _check_name(name: str) -> None:
    normal = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    module = normal.replace("-", "_")
    if not module.isidentifier() or keyword.iskeyword(module):
        raise InputError(f"'{name}' can't be a plugin's name: it must give a Python module's name, such as my-model")
    if name != normal:
        raise InputError(
            f"'{name}' can't be a plugin's name: small letters, digits and single hyphens; did you mean '{normal}'?"
        )
    for plugin in (plugin for group in KINDS.values() for plugin in plugins(group)):
        if plugin.name == name:
            raise PluginError(f"'{name}' is taken: there is a {plugin}; choose another name")
    try:
        found = f"the distribution {name} {importlib.metadata.version(name)} is"
    except importlib.metadata.PackageNotFoundError:
        found = f"a module {module} is" if importlib.util.find_spec(module) else ""
    if found:
        raise InputError(f"'{name}' is taken: {found} installed; choose another name")
