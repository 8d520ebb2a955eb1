"""`genhub plugins new`: what it writes, and names that can't be used. docs/plugins.md is run by test_plugins_page.py."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from genhub import InputError, read_recipe
from genhub.cli.scaffold import TEMPLATE_KINDS, TEMPLATES, new_plugin
from genhub.interfaces.registry import KINDS


@pytest.mark.parametrize("kind", TEMPLATE_KINDS)
def test_a_plugin_is_five_files_of_its_own_name(tmp_path: Path, kind: str) -> None:
    folder = new_plugin("deep-thing-2", kind, tmp_path)
    assert folder == tmp_path / "deep-thing-2"
    assert {file.name for file in folder.iterdir()} == {
        "README.md", "deep_thing_2.py", "pyproject.toml", "recipe.yaml", "test_deep_thing_2.py"}  # fmt: skip
    for file in folder.iterdir():
        assert not re.search(rf"my[-_]?{kind}", file.read_text(), re.IGNORECASE), file
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == "deep-thing-2"
    assert project["project"]["entry-points"] == {KINDS[kind]: {"deep-thing-2": "deep_thing_2:DeepThing2"}}
    assert "class DeepThing2" in (folder / "deep_thing_2.py").read_text()
    assert "import DeepThing2" in (folder / "test_deep_thing_2.py").read_text()


@pytest.mark.parametrize("kind", TEMPLATE_KINDS)
def test_the_templates_are_small_enough_to_read(kind: str) -> None:
    lines = (TEMPLATES / kind / f"my_{kind}.py").read_text().splitlines()
    assert len(lines) < 160
    test = (TEMPLATES / kind / f"test_my_{kind}.py").read_text()
    assert len([line for line in test.splitlines() if line and "import" not in line]) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My_Model", "small letters, digits and single hyphens; did you mean 'my-model'?"),
        ("my..model", "did you mean 'my-model'?"),
        ("2nd", "it must give a Python module's name"),
        ("class", "it must give a Python module's name"),
        ("", "it must give a Python module's name"),
        ("../up", "did you mean 'up'?"),
        ("ddpm", "'ddpm' is taken: there is a model 'ddpm' from genhub-framework"),
        ("ddim", "'ddim' is taken: there is a scheduler 'ddim' from genhub-framework"),
        ("rich", "'rich' is taken: the distribution rich"),
        ("json", "'json' is taken: a module json is installed"),
        ("here-already", "here-already: exists already; choose another name, or move it away"),
    ],
)
def test_names_that_cant_be_used(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "here-already").mkdir()
    with pytest.raises(InputError) as caught:
        new_plugin(name, into=tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["here-already"]


def test_a_kind_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--kind modle: there is no such kind; did you mean 'model'"):
        new_plugin("thing", "modle", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        new_plugin("thing", into=tmp_path / "file")


def test_a_template_works_from_beside_its_recipe_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = new_plugin("beside-it", "model", tmp_path)
    recipe = read_recipe(folder / "recipe.yaml", ["model.name=beside_it:BesideIt"])
    assert recipe.model_class().__name__ == "BesideIt"
    del sys.modules["beside_it"]
