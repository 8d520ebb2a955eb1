"""The JSON Schema that editors read, and the options that `genhub plugins info` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import Field

from genhub import ModelConfig, PluginError, PositiveInt
from genhub.interfaces.registry import KINDS, MODELS, Plugin, plugin_names
from genhub.recipe.recipe import read_recipe
from genhub.recipe.schema import _options, describe_plugin, example_recipe, recipe_schema

RECIPES = Path(__file__).parents[1] / "recipes"


def test_the_shipped_schema_is_current() -> None:
    shipped = json.loads((RECIPES / "recipe.schema.json").read_text())
    assert shipped == recipe_schema(), "run: genhub recipe schema > recipes/recipe.schema.json"


def test_the_schema_has_every_key_of_a_complete_recipe() -> None:
    schema = recipe_schema()
    recipe = read_recipe("digits-ddpm").dump()
    assert list(schema["properties"]) == list(recipe)
    assert schema["required"] == ["model"]
    chosen = {}
    for section in ("model", "trainer"):
        rules = schema["properties"][section]["allOf"]
        chosen[section] = {rule["if"]["properties"]["name"]["const"]: rule for rule in rules}
    model = schema["$defs"][chosen["model"]["ddpm"]["then"]["$ref"].rpartition("/")[2]]
    assert set(model["properties"]) == {*recipe["model"], "from"}
    assert model["additionalProperties"] is False
    assert model["properties"]["loss_weighting"]["description"].startswith("none: the simple loss")
    trainer = schema["$defs"][chosen["trainer"]["accelerate"]["then"]["$ref"].rpartition("/")[2]]
    assert set(trainer["properties"]) == set(recipe["trainer"])
    assert chosen["trainer"]["accelerate"]["if"]["required"] == []  # the default trainer needs no name
    assert chosen["model"]["ddpm"]["if"]["required"] == ["name"]


def test_every_reference_in_the_schema_leads_somewhere() -> None:
    schema = recipe_schema()
    text = json.dumps(schema)
    assert text.count("#/$defs/") == sum(text.count(f'"#/$defs/{name}"') for name in schema["$defs"])


def test_a_plugins_options_by_the_path_that_an_override_has() -> None:
    model, scheduler = describe_plugin("ddpm")
    assert (model["kind"], model["class"], model["distribution"]) == ("model", "genhub_ddpm:DDPM", "genhub-framework")
    assert (scheduler["kind"], scheduler["class"]) == ("scheduler", "diffusers:DDPMScheduler")
    assert model["about"].startswith("A network that learns to undo")
    options = model["options"]
    (network,) = describe_plugin("unet")
    assert network["options"]["layers_per_block"] == {"type": "int", "default": 1, "meaning": ""}
    assert network["options"]["block_out_channels"]["type"] == "tuple[int, ...]"
    assert options["loss_weighting"]["type"] == "none | min_snr"
    content = {"model": {"name": "ddpm"}}
    overrides = [f"model.{key}={json.dumps(option['default'])}" for key, option in options.items() if key != "name"]
    assert read_recipe(content, overrides) == read_recipe(content)
    (trainer,) = describe_plugin("accelerate")
    assert trainer["options"]["ema"]["default"] == {"decay": 0.999, "every": 1}
    json.dumps([model, scheduler, trainer])


def test_every_plugins_recipe_is_accepted() -> None:
    for kind in ("model", "network", "modality", "scheduler", "trainer"):
        for name in plugin_names(KINDS[kind]):
            facts = next(facts for facts in describe_plugin(name) if facts["kind"] == kind)
            recipe = read_recipe(facts["recipe"])
            assert name in (
                recipe.model.name,
                recipe.trainer.name,
                recipe.dump()["model"].get("sampling", {}).get("scheduler"),
                getattr(getattr(recipe.model, "network", None), "name", None),
                recipe.dump()["data"]["columns"].get("COLUMN", {}).get("modality"),
            )
    assert all(facts["recipe"] is None for facts in describe_plugin("UNet2DModel"))


def test_a_schedulers_arguments_with_what_its_docstring_says() -> None:
    (facts,) = describe_plugin("ddim")
    assert facts["options"]["num_train_timesteps"] == {
        "type": "int", "default": 1000, "meaning": "The number of diffusion steps to train the model."}  # fmt: skip
    assert facts["options"]["prediction_type"]["type"] == "epsilon | sample | v_prediction"
    assert facts["capabilities"] == []


def test_an_option_without_a_default_comes_with_its_example() -> None:
    class Config(ModelConfig):
        depth: PositiveInt = Field(examples=[3])
        """How deep."""

    options = _options(Config)
    assert options["depth"] == {"type": "int", "default": None, "meaning": "How deep.", "example": 3}
    plugin = Plugin(MODELS, "deep", "deep:Deep")
    assert example_recipe(plugin, options) == {"model": {"name": "deep", "depth": 3}, "trainer": {"max_steps": 1000}}


def test_an_unknown_plugin_gets_the_nearest() -> None:
    with pytest.raises(PluginError, match="no plugin is called 'unipcc'; did you mean 'unipc'"):
        describe_plugin("unipcc")
