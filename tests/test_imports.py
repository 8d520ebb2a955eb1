"""The layers of the core, and what plugins may import: pyproject's import-linter contracts."""

from __future__ import annotations

import subprocess
import sys
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
