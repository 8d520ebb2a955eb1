"""The layers of the core, and what plugins may import: pyproject's import-linter contracts."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_contracts_are_kept() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_of_the_core_is_covered() -> None:
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    packages = {folder.name for folder in (ROOT / "plugins").iterdir() if (folder / "__init__.py").is_file()}
    assert packages < set(contracts["root_packages"])
    core, plugins = contracts["contracts"][1:3]
    assert set(core["forbidden_modules"]) == packages
    assert set(plugins["source_modules"]) == packages


def test_no_two_classes_and_no_two_modules_share_a_name() -> None:
    """`genhub/model.py` alone is called as another, interfaces/model.py: it adds the verbs to what is there."""
    files = [file for file in (ROOT / "genhub").rglob("*.py") if "templates" not in file.parts]
    modules = Counter(file.stem for file in files if not file.stem.startswith("__"))
    trees = [ast.parse(file.read_text("utf-8")) for file in files]
    classes = Counter(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in modules.items() if count > 1] == ["model"]
    assert [name for name, count in classes.items() if count > 1] == []
