"""Overrides of a recipe, and recipes with anything at all in them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_recipe import DDPM, DIGITS, SHIPPED

from genhub import GenhubError, RecipeError, read_recipe

# Overrides


def test_overrides_win_over_the_file_and_the_last_wins() -> None:
    overrides = ["trainer.max_steps=10", "trainer.ema=null", "model.network.block_out_channels=[8, 16]", "trainer.max_steps=20",
                 "data={name: digits, batch_size: 8}", "trainer.optimizers.unet.lr=1e-5", "run_dir=a=b"]  # fmt: skip
    recipe = read_recipe(DIGITS, overrides)
    assert recipe.trainer.max_steps == 20
    assert recipe.trainer.ema is None
    assert recipe.dump()["model"]["network"]["block_out_channels"] == [8, 16]
    assert recipe.data.batch_size == 8
    assert recipe.trainer.optimizers["unet"].lr == 1e-5
    assert recipe.run_dir == "a=b"


def test_an_override_goes_into_a_section_that_is_null_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(DDPM + "trainer: {ema: }\n")
    recipe = read_recipe(tmp_path / "r.yaml", ["trainer.ema.decay=0.5", "data.batch_size=3"])
    assert recipe.trainer.ema is not None
    assert (recipe.trainer.ema.decay, recipe.data.batch_size) == (0.5, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_step=3", "command line: trainer.max_step: unknown key; did you mean 'max_steps'?"),
        ("trainer.max_steps=three", "command line: trainer.max_steps: must be a valid integer, not 'three'"),
        ("trainer={max_steps: 0}", "command line: trainer.max_steps: must be greater than or equal to 1, not 0"),
        ("model=", "command line: model: must be a section of keys, not null"),
        ("model.network.layers_per_block=0", "command line: model.network.layers_per_block: must be greater than or equal to 1, not 0"),
        ("model.network.block_out_channels=[60]",
         "command line: model.network.block_out_channels: 60 does not divide by norm_num_groups 8; 64 does"),
        ("model.network={name: unet, act_fn: x}", "command line: model.network.act_fn: can't be 'x'; known: gelu, mish, relu, silu, swish"),
        ("model.network.block_out_channels.0=8",
         "command line: model.network.block_out_channels.0: model.network.block_out_channels is a value, not a section"),
        ("seed.x=8", "command line: seed.x: seed is a value, not a section"),
        ("trainer", "command line: 'trainer' must look like key.path=value"),
        ("a..b=3", "command line: 'a..b=3' must look like key.path=value"),
        ("=3", "command line: '=3' must look like key.path=value"),
        ("", "command line: '' must look like key.path=value"),
        (".=", "command line: '.=' must look like key.path=value"),
        ("seed=[1", "command line: seed: value:1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("seed=*a", "command line: seed: value:1: '*a': aliases are not allowed; write the value out"),
        ("seed=!!python/name:os.system", "command line: seed: value:1: '!!python/name:os.system': tags are not allowed; write the value alone"),
        ("run_dir=\ud800", "command line: run_dir: value:1: not a text: it has the character 0xd800"),
        ("a" + ".a" * 99 + "=1", f"{DIGITS}: a: nested deeper than 32 levels"),
    ],
)  # fmt: skip
def test_a_fault_in_an_override_is_told_in_one_line(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(DIGITS, [override])
    assert str(caught.value) == message


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["ddpm", "no", "1e-4", "adam", "auto", "digits", "8", "os:getcwd"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CONTENTS = [yaml.safe_load(file.read_text()) for file in SHIPPED]
quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def key_paths(content: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = (
        [p for key, value in content.items() for p in key_paths(value, (*path, key))] if isinstance(content, dict) else []
    )
    return [path, *inner] if path else inner


RIGHT = sorted({path for content in [read_recipe(file).dump() for file in SHIPPED] for path in key_paths(content)})


@quick
@given(path=st.sampled_from(RIGHT), value=values)
def test_an_override_equals_the_same_key_in_the_file(tmp_path: Path, path: tuple[str, ...], value: object) -> None:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("...\n").strip()
    content = copy.deepcopy(CONTENTS[0])
    target = content
    for key in path[:-1]:
        target[key] = target = target.get(key) or {}
    target[path[-1]] = value
    (tmp_path / "written.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(CONTENTS[0]))

    def read(name: str, *overrides: str) -> dict[str, Any] | None:
        try:
            recipe = read_recipe(tmp_path / name, overrides)
            return recipe.dump() | {"run_dir": recipe.run_dir.replace(name.removesuffix(".yaml"), "")}
        except GenhubError:
            return None

    assert json.dumps(read("plain.yaml", f"{'.'.join(path)}={text}")) == json.dumps(read("written.yaml"))


# Anything at all


def answered(file: Path) -> None:
    """A recipe that is complete and reads back, or a GenhubError whose lines name the file."""
    try:
        recipe = read_recipe(file)
    except GenhubError as error:
        lines = str(error).splitlines()
    else:
        lines = []
        file.write_text(recipe.yaml())
        assert read_recipe(file) == recipe
    assert all(line.startswith(str(file)) and line.isprintable() for line in lines)


@quick
@given(data=st.data())
def test_any_mutation_of_a_recipe_is_answered(tmp_path: Path, data: st.DataObject) -> None:
    content = copy.deepcopy(data.draw(st.sampled_from(CONTENTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        paths = key_paths(content)
        if not paths:
            break
        path = data.draw(st.sampled_from(paths))
        target = content
        for key in path[:-1]:
            target = target[key]
        match data.draw(st.sampled_from(["drop", "rename", "replace", "add"])):
            case "drop":
                del target[path[-1]]
            case "rename":
                target[data.draw(st.text(max_size=12))] = target.pop(path[-1])
            case "replace":
                target[path[-1]] = data.draw(values)
            case "add":
                target[data.draw(st.sampled_from(RIGHT))[-1]] = data.draw(values)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    answered(tmp_path / "r.yaml")


@quick
@given(data=st.data())
def test_any_damage_to_a_recipes_text_is_answered(tmp_path: Path, data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(SHIPPED)).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.sampled_from([start, start + 1, start + 30, len(content)]))
    inserted = data.draw(st.binary(max_size=6) | st.text(max_size=8).map(str.encode) | st.sampled_from(
        [b"!!python/none", b"&a ", b"*a", b"<<: {", b"\t", b"? ", b"- ", b"|\n", b"%YAML 2.0\n---\n", b"=", b"0b_", b"-0o7"]))  # fmt: skip
    (tmp_path / "r.yaml").write_bytes(content[:start] + inserted + content[end:])
    answered(tmp_path / "r.yaml")


@quick
@given(text=st.text())
def test_any_text_is_answered(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_bytes(text.encode())
    answered(tmp_path / "r.yaml")
