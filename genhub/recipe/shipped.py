"""Find the recipes that come with genhub, and the file that a name or a path stands for. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from genhub.errors import NAME, CheckpointError, RecipeError, cut, did_you_mean
from genhub.ground.ids import nearest_path
from genhub.store.run_folder import RECIPE, RunFolder

# Files and names


def _folder() -> Path:
    """Return the folder of recipes: in the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with genhub, by name."""
    return {file.stem: file for file in sorted(_folder().glob("*.yaml"))}


def best_file() -> Path:
    """Return the file of the families that did best on the board, which benchmarks/board.py writes."""
    return _folder() / "best.json"


def best_families() -> dict[str, list[str]]:
    """Return the families that did best by docs/leaderboard.md, the best first, by the number of x's sides."""
    found: dict[str, list[str]] = json.loads(best_file().read_text())
    return found


def whole_recipe(file: Path) -> Path:
    """Return a recipe's file, or, where that was a run's and is lost, the copy of it that the newest checkpoint has."""
    kept = RunFolder(file.parent).whole_recipe() if file.name == RECIPE else file
    if kept != file:
        from genhub.ground.console import warn  # imports torch

        warn(f"{file}: is lost; its copy in {kept.parent} is used, and training puts it back")
    return kept


def find_recipe(name: str) -> Path:
    """Return the file of a recipe: a path as it is, or a shipped recipe's by its name."""
    shipped, path = shipped_recipes(), Path(name)
    try:
        if name in shipped and not path.is_file():
            return shipped[name]
        if not (path.name == RECIPE and RunFolder(path.parent).whole_recipe().is_file()):
            path.lstat()
        return path
    except (FileNotFoundError, NotADirectoryError) as error:
        nearest = nearest_path(path).removeprefix("; ") if path.parent != Path() else ""
        nearest = nearest or did_you_mean(name, [*shipped, *map(str, path.parent.glob("*.y*ml"))])
        raise RecipeError(f"{name}: no such recipe file or shipped recipe; {nearest}") from error
    except OSError as error:
        raise RecipeError(f"{cut(name, NAME)}: {error.strerror}") from error


def check_trained(source: str | Path) -> None:
    """
    Raises:
        CheckpointError: a model is named by the folder of a shipped recipe's run, which is not there yet.
    """
    path = Path(source)
    if path.parent == Path("runs") and path.name in shipped_recipes() and not path.exists():
        raise CheckpointError(f"{path}: not trained yet: genhub train {path.name}")
