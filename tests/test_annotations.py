"""A boolean is no number: for every key of every Config, a stranger's too, and every option of `sample`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal, get_type_hints

import models
import pytest
from pydantic import TypeAdapter, ValidationError
from test_registry import install
from test_registry import site as site

from genhub import InputError, ModelConfig, Section, read_recipe
from genhub.interfaces.annotations import members
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.registry import MODELS, NETWORKS, TRAINERS, load_all
from genhub.model import GenerativeModel
from genhub.recipe.recipe import Recipe
from genhub.recipe.sections import AccelerateConfig, EvaluateConfig, HubConfig
from genhub.sampling.options import check_arguments

EXAMPLES = Path(__file__).parents[1] / "examples" / "plugins"


@pytest.fixture
def classes(site: Path) -> list[type[GenerativeModel]]:
    """Every model at hand: installed, the examples', and the tests' own."""
    for file in EXAMPLES.glob("*/pyproject.toml"):
        (module,) = file.parent.glob("genhub_*.py")
        groups = tomllib.loads(file.read_text())["project"]["entry-points"]
        lines = [
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
            for group, points in groups.items()
        ]
        install(site, file.parent.name, "".join(lines), **{module.stem: module.read_text()})
    found, faults = load_all(MODELS)
    assert not faults
    assert {"ddpm", "flow", "pix2pix", "realnvp"} <= found.keys()
    own = [value for value in vars(models).values() if isinstance(value, type) and issubclass(value, GenerativeModel)]
    return [*found.values(), *(cls for cls in own if cls is not GenerativeModel)]


def sections(config: Any) -> Iterator[type[Section]]:
    """A Config and all that are inside it."""
    if isinstance(config, type) and issubclass(config, Section):
        yield config
        for field in config.model_fields.values():
            for member in members(field.annotation):
                for inner in (member, *getattr(member, "__args__", ())):
                    yield from sections(inner)


class Strange(ModelConfig):
    """As a stranger might write a Config."""

    heads: int | None = None
    ratio: float = 1.0
    levels: Literal[1, 2] = 1
    widths: Mapping[str, tuple[float, ...]] = {}
    either: bool | int = 0
    text: str | float = ""
    pairs: Sequence[tuple[int, bool]] = ()
    anything: Any = None


def where_booleans_may_not_stand(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Values with a boolean where JSON Schema, which doesn't take one for a number, has no boolean."""
    choices = schema.get("anyOf", [schema])
    kinds = {kind for choice in choices for kind in (choice.get("type"), *map(type, choice.get("enum", ())))}
    if any("type" not in choice for choice in choices):  # anything; or a section, which is looked at by itself
        return
    if not kinds & {"boolean", bool}:
        yield True
        yield False
    for choice in choices:
        inside = choice.get("prefixItems", [choice["items"]] if choice.get("items") else [])
        for index, inner in enumerate(inside):
            for wrong in where_booleans_may_not_stand(inner):
                yield [*([1] * index), wrong, *([1] * (len(inside) - index - 1))]
        if isinstance(choice.get("additionalProperties"), Mapping):
            yield from ({"x": wrong} for wrong in where_booleans_may_not_stand(choice["additionalProperties"]))


def test_a_boolean_is_no_number_for_any_key_of_any_config(classes: list[type[GenerativeModel]]) -> None:
    configs = [Strange, DataConfig, EvaluateConfig, HubConfig, AccelerateConfig, *(cls.Config for cls in classes)]
    configs += [cls.Config for cls in load_all(NETWORKS)[0].values()]
    configs += [cls.Config for cls in load_all(TRAINERS)[0].values()]
    tried = set()
    for section in dict.fromkeys(inner for config in configs for inner in sections(config)):
        schema = section.model_json_schema()
        for name in section.model_fields:
            for wrong in where_booleans_may_not_stand(schema["properties"][section.model_fields[name].alias or name]):
                if (name, wrong) in (("mixed_precision", False), ("sharding", False)):
                    continue  # YAML's bare `no`, which is one of their words
                try:
                    section.model_validate({name: wrong})
                    faults: set[Any] = set()
                except ValidationError as error:
                    faults = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
                assert name in faults, (section, name, wrong)
                tried.add((section.__name__, name))
    assert {("OptimizerConfig", "lr"), ("EMAConfig", "decay"), ("DataConfig", "num_rows"), ("OptimizerConfig", "betas"),
            ("UNetConfig", "freq_shift"), ("RealNVPConfig", "hidden_features"), ("Strange", "widths")} <= tried  # fmt: skip
    assert len(tried) > 150


def test_what_may_be_a_boolean_still_is() -> None:
    given = {
        "either": True,
        "anything": {"a": True},
        "pairs": [(3, True)],
        "heads": 2,
        "ratio": "1e-4",
        "widths": {"a": (1, 2)},
    }
    made = Strange.model_validate(given)
    assert (made.either, made.anything, list(made.pairs), made.ratio) == (True, {"a": True}, [(3, True)], 1e-4)
    assert Strange.model_validate_json(made.model_dump_json()) == made


def test_a_boolean_is_no_number_for_any_option_of_sample(classes: list[type[GenerativeModel]]) -> None:
    tried = set()
    for cls in classes:
        hints = get_type_hints(cls.sample, include_extras=True)
        for name in signature(cls.sample).parameters.keys() & hints.keys() - {"n", "conditions", "generator", "callback"}:
            for wrong in where_booleans_may_not_stand(TypeAdapter(hints[name]).json_schema()):
                with pytest.raises(InputError, match=rf"--set {name}: .*{wrong}"):
                    check_arguments(cls.sample, {name: wrong}, [name], option="--set ", owner=cls.__name__)
                tried.add(name)
    assert {"num_inference_steps", "eta", "guidance_scale", "scale"} <= tried


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.optimizer.lr=yes", "trainer.optimizer.lr: must be a valid number, not True"),
        ("trainer.ema={decay: no}", "trainer.ema.decay: must be a valid number, not False"),
        ("trainer.optimizer.betas=[0.9, on]", "trainer.optimizer.betas.1: must be a valid number, not True"),
        ("trainer.optimizers={unet: {lr: on}}", "trainer.optimizers.unet.lr: must be a valid number, not True"),
        ("data.num_rows=true", "data.num_rows: must be a valid integer, not True"),
        (
            "model.scheduler.options={sample_max_value: true}",
            "model.scheduler.options.sample_max_value: must be a number, not True",
        ),
    ],
)
def test_it_is_said_in_a_line(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_recipe("digits-ddpm", [override])
    assert str(caught.value) == f"command line: {message}"


def test_text_in_a_recipe_is_still_a_number() -> None:
    recipe: Recipe = read_recipe("digits-ddpm", ["trainer.optimizer.lr=1e-4", "trainer.mixed_precision=no"])
    assert recipe.trainer.model_dump()["optimizer"]["lr"] == 1e-4
