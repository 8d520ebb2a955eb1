"""Every shipped recipe: read, described, and with the schema that editors check it by."""

from __future__ import annotations

from pathlib import Path

import pytest

from genhub import read_recipe
from genhub.recipe.shipped import shipped_recipes

RECIPES = Path(__file__).parents[1] / "recipes"


def test_all_recipes_are_shipped() -> None:
    assert set(shipped_recipes()) == {file.stem for file in RECIPES.glob("*.yaml")}
    assert "digits-ddpm" in shipped_recipes()


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe(file: Path) -> None:
    schema, about, *rest = file.read_text().splitlines()
    key, _, name = schema.partition("$schema=")
    assert key == "# yaml-language-server: "
    assert (file.parent / name).is_file()
    assert about.startswith("# ")
    assert about[2].isupper()
    assert about.endswith(".")
    assert 10 <= len(rest) <= 45
    assert max(map(len, rest)) <= 120
    recipe = read_recipe(file)
    assert recipe.run_dir == f"runs/{file.stem}"


def test_the_schema_accepts_the_recipes_and_refuses_a_typo() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import json

    import yaml

    schema = json.loads((RECIPES / "recipe.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    for file in RECIPES.glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        validator.validate(content)
        validator.validate(read_recipe(file).dump())
        for section in ("model", "trainer", "data"):
            assert not validator.is_valid(content | {section: content.get(section, {}) | {"typo": 1}})
