"""Recipes: what a right one becomes, and the one line that each mistake is answered with."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from genhub import RecipeError, read_recipe
from genhub.recipe.shipped import find_recipe, shipped_recipes

SHIPPED = sorted(shipped_recipes().values())
DIGITS = shipped_recipes()["digits-ddpm"]
DDPM = "model: {name: ddpm}\n"


def fault(tmp_path: Path, content: str | bytes, *overrides: str) -> str:
    """What reading a recipe of this content says, with `r.yaml` for the file's path."""
    file = tmp_path / "r.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError) as caught:
        read_recipe(file, overrides)
    message = str(caught.value)
    assert all(line.isprintable() for line in message.splitlines())
    return message.replace(str(file), "r.yaml")


# Right ones


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_dump_reads_back_as_the_same_recipe(file: Path, tmp_path: Path) -> None:
    recipe = read_recipe(file)
    (tmp_path / "again.yaml").write_text(recipe.yaml())
    again = read_recipe(tmp_path / "again.yaml")
    assert again.model_copy(update={"folder": recipe.folder}) == recipe
    assert read_recipe(recipe.dump()).dump() == recipe.dump()


def test_names_defaults_and_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_recipe("digits-ddpm") == read_recipe(DIGITS)
    assert read_recipe("digits-ddpm").run_dir == "runs/digits-ddpm"
    assert read_recipe("digits-ddpm", run_dir="elsewhere").run_dir == "elsewhere"
    assert read_recipe("digits-ddpm", ["run_dir=here"]).run_dir == "here"
    assert read_recipe({"model": {"name": "ddpm"}}).run_dir == "runs/ddpm"
    assert read_recipe({"model": {"name": "ddpm"}, "run_dir": Path("a/b")}).run_dir == "a/b"
    Path("digits-ddpm").mkdir()  # a run's folder of that name hides no recipe
    assert find_recipe("digits-ddpm") == DIGITS
    Path("digits-ddpm.yaml").write_text(DDPM + "seed: 5\n")
    assert read_recipe("digits-ddpm.yaml").seed == 5


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf" + DDPM.encode(), b"model:\r\n  name: ddpm\r\n", b"---\nmodel: {name: ddpm}\n...\n"]
)
def test_bytes_that_editors_write(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    assert read_recipe(tmp_path / "r.yaml").model.name == "ddpm"


def test_values_that_yaml_1_1_reads_otherwise(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(DDPM + "trainer: {mixed_precision: no, optimizer: {lr: 1e-4}}\n")
    trainer = read_recipe(tmp_path / "r.yaml").trainer
    assert (trainer.mixed_precision, trainer.optimizer.lr) == ("no", 1e-4)


def test_a_mapping_is_a_recipe_and_stays_as_it_was() -> None:
    mapping: dict[str, Any] = {"model": {"name": "ddpm"}, "data": {"columns": {"image": {"size": (8, 8)}}}, "run_dir": "x"}
    before = copy.deepcopy(mapping)
    recipe = read_recipe(mapping, ["model.network={name: unet, layers_per_block: 2}", "data.flip=true"])
    assert recipe.dump()["model"]["network"]["layers_per_block"] == 2
    assert recipe.data.flip
    assert recipe.dump()["data"]["columns"]["image"]["size"] == [8, 8]
    assert mapping == before


# Faults, and what is said of them

FAULTS: dict[str, tuple[str | bytes, str]] = {
    "unknown section": (DDPM + "trainr: {}\n", "r.yaml:2: trainr: unknown key; did you mean 'trainer'?"),
    "key that is gone": (
        DDPM + "trainer:\n  keep_memory: true\n",
        "r.yaml:3: trainer.keep_memory: unknown key; no run depends on it any more; take it out",
    ),
    "unknown key": (DDPM + "trainer:\n  max_step: 3\n", "r.yaml:3: trainer.max_step: unknown key; did you mean 'max_steps'?"),
    "nested": (
        DDPM + "trainer: {optimizers: {unet: {lrr: 1}}}\n",
        "r.yaml:2: trainer.optimizers.unet.lrr: unknown key; did you mean 'lr'?",
    ),
    "far from all": (
        DDPM + "trainer: {ema: {xyz: 1}}\n",
        "r.yaml:2: trainer.ema.xyz: unknown key; known: decay, every",
    ),
    "plugin's key": (
        "model:\n  name: ddpm\n  network:\n    name: unet\n    layer_per_block: 1\n    act_fn: relu\n  los_weighting: none\n",
        "r.yaml:5: model.network.layer_per_block: unknown key; did you mean 'layers_per_block'?\n"
        "r.yaml:7: model.los_weighting: unknown key; did you mean 'loss_weighting'?",
    ),
    "type": (DDPM + "trainer: {max_steps: ten}\n", "r.yaml:2: trainer.max_steps: must be a valid integer, not 'ten'"),
    "true is not 1": (DDPM + "seed: true\n", "r.yaml:2: seed: must be a valid integer, not True"),
    "half a step": (DDPM + "seed: 1.5\n", "r.yaml:2: seed: must be a valid integer, not 1.5"),
    "a number in quotes": (DDPM + "seed: '1'\n", "r.yaml:2: seed: must be a valid integer, not '1'"),
    "range": (DDPM + "data: {batch_size: 0}\n", "r.yaml:2: data.batch_size: must be greater than or equal to 1, not 0"),
    "choice": (
        DDPM + "trainer: {optimizer: {name: adamx}}\n",
        "r.yaml:2: trainer.optimizer.name: can't be 'adamx'; did you mean 'adamax'? (or module:Class)",
    ),
    "empty list": (DDPM + "data: {name: []}\n", "r.yaml:2: data.name: must be a valid string or must have at least 1 item, not []"),
    "in a list": (DDPM + "data:\n  name:\n  - a\n  - 3\n", "r.yaml:5: data.name.1: must be a valid string, not 3"),
    "choice of few": (DDPM + "trainer: {sharding: half}\n", "r.yaml:2: trainer.sharding: can't be 'half'; known: full, no"),
    "either": (
        DDPM + "trainer: {ema: big}\n",
        "r.yaml:2: trainer.ema: must be a section of keys, not 'big'",
    ),
    "inside one of either": (
        DDPM + "data: {columns: {image: {modality: image, size: [8, 0]}}}\n",
        "r.yaml:2: data.columns.image.size.1: must be greater than or equal to 1, not 0",
    ),
    "too many": (
        DDPM + "trainer: {optimizer: {betas: [0.9, 0.9, 0.9]}}\n",
        "r.yaml:2: trainer.optimizer.betas: must have at most 2 items, not [0.9, 0.9, 0.9]",
    ),
    "empty text": (DDPM + "run_dir: ''\n", "r.yaml:2: run_dir: must have at least 1 character, not ''"),
    "section is a value": (DDPM + "trainer: 3\n", "r.yaml:2: trainer: must be a section of keys, not 3"),
    "section is null": (DDPM + "data:\n", "r.yaml:2: data: must be a section of keys, not null"),
    "inner section is false": (
        DDPM + "trainer: {ema: false}\n",
        "r.yaml:2: trainer.ema: must be a section of keys, not False",
    ),
    "model is text": ("model: ddpm\n", "r.yaml:1: model: must be a section of keys, not 'ddpm'"),
    "no model": ("seed: 1\n", "r.yaml: model.name: must name a model; known: ar, autoencoder, cgan, ddpm, ebm, eqm, flow, gan, meanflow, realnvp, tarflow, vae and 1 more"),
    "no name": ("model: {unet: {}}\n", "r.yaml:1: model.name: must name a model; known: ar, autoencoder, cgan, ddpm, ebm, eqm, flow, gan, meanflow, realnvp, tarflow, vae and 1 more"),
    "name is a number": ("model: {name: 3}\n", "r.yaml:1: model.name: must name a model; known: ar, autoencoder, cgan, ddpm, ebm, eqm, flow, gan, meanflow, realnvp, tarflow, vae and 1 more"),
    "unknown model": (
        "model: {name: dppm}\n",
        "r.yaml:1: model.name: no model is called 'dppm'; did you mean 'ddpm'? (others come by pip install)",
    ),
    "unknown trainer": (
        DDPM + "trainer: {name: acelerate}\n",
        "r.yaml:2: trainer.name: no trainer is called 'acelerate'; did you mean 'accelerate'? (others come by pip install)",
    ),
    "trainer is a list": (DDPM + "trainer: {name: [a]}\n", "r.yaml:2: trainer.name: must name a trainer; known: accelerate"),
    "no such module": (
        "model: {name: 'nowhere:Model'}\n",
        "r.yaml:1: model.name: model 'nowhere:Model' can't be used: ModuleNotFoundError: No module named 'nowhere'",
    ),
    "not a model": (
        "model: {name: 'os:getcwd'}\n",
        "r.yaml:1: model.name: model 'os:getcwd' can't be used: TypeError: os:getcwd has no "
        "Config, phases, sample, save_networks, load_networks",
    ),
    "not a trainer": (
        DDPM + "trainer: {name: 'os:getcwd'}\n",
        "r.yaml:2: trainer.name: trainer 'os:getcwd' can't be used: TypeError: os:getcwd has no Config, fit",
    ),
    "from nowhere": (
        "model: {from: nowhere}\n",
        "r.yaml:1: model.from: nowhere: no such folder (a run, a checkpoint, or one that diffusers saved), and no Hub id, user/name",
    ),
    "from is a number": ("model: {from: 3}\n", "r.yaml:1: model.from: must be a folder or a Hub id, not 3"),
    "groups": (
        "model:\n  name: ddpm\n  network:\n    name: unet\n    block_out_channels: [32, 60]\n",
        "r.yaml:5: model.network.block_out_channels: 60 does not divide by norm_num_groups 8; 64 does",
    ),
    "gone: unet": ("model: {name: ddpm, unet: {}}\n", "r.yaml:1: model.unet: unknown key; a model names its network now: network: {name: unet, ...} with the same keys"),
    "gone: image_size": (DDPM + "data: {image_size: 32}\n", "r.yaml:2: data.image_size: unknown key; it is a column's own now: data.columns: {COLUMN: {size: 64}}, or data.columns.COLUMN.size=... on the command line"),
    "no such network": (
        "model: {name: ddpm, network: {name: unett}}\n",
        "r.yaml:1: model.network.name: no network is called 'unett'; did you mean 'unet'? (others come by pip install)",
    ),
    "data of a model": (
        "model: {name: ddpm, data: {}}\n",
        "r.yaml:1: model.data: unknown key; the columns are filled in from the section `data`",
    ),
    "no such modality": (
        DDPM + "data: {columns: {x: imag}}\n",
        "r.yaml:2: data.columns.x.modality: no modality is called 'imag'; did you mean 'image'? (others come by pip install)",
    ),
    "no such key of a column": (
        DDPM + "data: {columns: {x: {modality: image, sise: 3}}}\n",
        "r.yaml:2: data.columns.x: sise: no key of a column of modality image; did you mean 'size'?",
    ),
    "infinite": (DDPM + "trainer: {max_grad_norm: .inf}\n", "r.yaml:2: trainer.max_grad_norm: must be a finite number, not inf"),
    "nan": (DDPM + "trainer: {optimizer: {lr: .nan}}\n", "r.yaml:2: trainer.optimizer.lr: must be a finite number, not nan"),
    "1e400": (
        DDPM + "trainer: {optimizer: {lr: 1.0e+400}}\n",
        "r.yaml:2: trainer.optimizer.lr: must be a finite number, not inf",
    ),
    "beyond 64 bits": (
        DDPM + "seed: 9223372036854775808\n",
        "r.yaml:2: seed: must be less than 9223372036854775808, not 9223372036854775808",
    ),
    "date": (DDPM + "seed: 2020-01-31\n", "r.yaml:2: seed: can't be '2020-01-31'; write numbers in at most 40 decimal digits, and text in quotes"),
    "octal": (DDPM + "seed: 010\n", "r.yaml:2: seed: can't be '010'; write numbers in at most 40 decimal digits, and text in quotes"),
    "sexagesimal": (DDPM + "seed: 1:30\n", "r.yaml:2: seed: can't be '1:30'; write numbers in at most 40 decimal digits, and text in quotes"),
    "twice": ("model: {name: ddpm}\nseed: 0\nseed: 1\n", "r.yaml:3: seed: given twice (first at r.yaml:2)"),
    "alias": ("a: &a [x, x]\nb: [*a, *a]\n", "r.yaml:2: '*a': aliases are not allowed; write the value out"),
    "tag": (
        "model: !!python/object/apply:os.system ['exit 1']\n",
        "r.yaml:1: '!!python/object/apply:os.system': tags are not allowed; write the value alone",
    ),
    "tag of plain YAML": ("model: !!bool maybe\n", "r.yaml:1: '!!bool': tags are not allowed; write the value alone"),
    "tab": (
        "model:\n\tname: ddpm\n",
        "r.yaml:2: not valid YAML: found character '\\t' that cannot start any token (indent with spaces)",
    ),
    "not closed": ("model: {name: ddpm\n", "r.yaml:2: not valid YAML: expected ',' or '}', but got '<stream end>'"),
    "two documents": (
        DDPM + "---\n" + DDPM,
        "r.yaml:2: not valid YAML: expected a single document in the stream, but found another document",
    ),
    "list as key": ("? [a, b]\n: 3\n", "r.yaml:1: a key must be a word"),
    "number as key": (DDPM + "1: 2\n", "r.yaml:2: 1: unknown key; known: data, evaluate, hub, model, run_dir, seed, trainer"),
    "no as key": (DDPM + "no: 2\n", "r.yaml:2: no: unknown key; known: data, evaluate, hub, model, run_dir, seed, trainer"),
    "empty key": (DDPM + "'': 2\n", "r.yaml:2: '': unknown key; known: data, evaluate, hub, model, run_dir, seed, trainer"),
    "unicode key": ("mödel: {}\n" + DDPM, "r.yaml:1: mödel: unknown key; did you mean 'model'?"),
    "key with a line break": (
        DDPM + '"a\\nb\\e[31m": 1\n',
        "r.yaml:2: a\\nb\\x1b[31m: unknown key; known: data, evaluate, hub, model, run_dir, seed, trainer",
    ),
    "a metric nobody has": (
        DDPM + "evaluate: {metrics: [frechet_distence]}\n",
        "r.yaml:2: evaluate.metrics.0: no metric is called 'frechet_distence'; did you mean 'frechet_distance'?",
    ),
    "measured between checkpoints": (
        DDPM + "evaluate: {every: 1500}\n",
        "r.yaml:2: evaluate.every: 1500 must be a multiple of trainer.save_every (1000), as checkpoints are measured; 2000 is the next",
    ),
    "measured beside a stream": (
        DDPM + "data: {streaming: true}\nevaluate: {n: 100}\n",
        "r.yaml:3: evaluate: a stream's rows are not at hand to compare with; genhub evaluate does it afterwards",
    ),
    "best by its cost": (
        DDPM + "evaluate: {save_best: cost}\n",
        "r.yaml:2: evaluate.save_best: can't be 'cost', which says nothing about how good what is drawn is",
    ),
    "inside": ("init_from: x\n" + DDPM, "r.yaml:1: init_from: unknown key; known: data, evaluate, hub, model, run_dir, seed, trainer"),
    "text": ("hello\n", "r.yaml: must be a mapping of sections (model, data, trainer), not 'hello'"),
    "list": ("- a\n", "r.yaml: must be a mapping of sections (model, data, trainer), not ['a']"),
    "empty": ("", "r.yaml: is empty; a recipe has at least a section `model`"),
    "comments alone": ("# model\n", "r.yaml: is empty; a recipe has at least a section `model`"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff", "r.yaml: not a text file (byte 0 is not UTF-8)"),
    "UTF-16": (DDPM.encode("utf-16"), "r.yaml: not a text file (byte 0 is not UTF-8)"),
    "NUL": (b"model: 1\nseed: \0", "r.yaml:2: not a text: it has the character 0x0"),
    "escaped NUL": (DDPM + 'run_dir: "a\\0b"\n', "r.yaml:2: run_dir: has a character that can't be written: 'a\\x00b'"),
    "half a surrogate": (DDPM + 'run_dir: "\\ud800"\n', "r.yaml:2: run_dir: has a character that can't be written: '\\ud800'"),
    "deep": (DDPM + "a: " + "[" * 50 + "]" * 50, "r.yaml:2: a: nested deeper than 32 levels"),
    "very deep": ("a: " + "[" * 5000, "r.yaml: nested deeper than 32 levels"),
    "deep mapping": ("".join(" " * i + "a:\n" for i in range(100)), "r.yaml:1: a: nested deeper than 32 levels"),
    "large": (DDPM + "#" * 10_000_000, "r.yaml: larger than 131072 bytes; is it a recipe?"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    content, message = FAULTS[name]
    assert fault(tmp_path, content) == message


def test_a_number_of_many_digits(tmp_path: Path) -> None:
    message = fault(tmp_path, DDPM + "seed: " + "9" * 100_000 + "\n")
    assert message.startswith("r.yaml:2: seed: can't be '999999")
    assert message.endswith("'; write numbers in at most 40 decimal digits, and text in quotes")


def test_all_faults_of_the_core_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    content = "seed: -1\nmodel: {name: dppm}\ntrainer:\n  max_step: 3\n  ema: {decay: 2}\ndata: {flip: maybe}\nextra: 1\n"
    lines = fault(tmp_path, content, "data.batch_size=0").splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["r.yaml:1", "seed"],
        ["r.yaml:2", "model.name"],
        ["r.yaml:4", "trainer.max_step"],
        ["r.yaml:5", "trainer.ema.decay"],
        ["r.yaml:6", "data.flip"],
        ["r.yaml:7", "extra"],
        ["command line", "data.batch_size"],
    ]


def test_paths_that_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text(DDPM)
    locked = tmp_path / "locked.yaml"
    locked.write_text(DDPM)
    locked.chmod(0)
    cases = {
        "digits-dppm": "digits-dppm: no such recipe file or shipped recipe; did you mean 'digits-ddpm'?",
        str(tmp_path / "digit.yaml"): f"did you mean '{tmp_path}/digits.yaml'?",
        str(tmp_path / "no" / "such"): "no such recipe file or shipped recipe",
        str(tmp_path / "digits.yaml" / "inside"): "no such recipe file or shipped recipe",
        str(tmp_path): f"{tmp_path}: Is a directory; a recipe is a text file",
        "": "Is a directory",
        "x" * 5000: "File name too long",
    } | ({} if os.geteuid() == 0 else {str(locked): f"{locked}: Permission denied"})
    for path, message in cases.items():
        with pytest.raises(RecipeError) as caught:
            read_recipe(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {},
            "recipe: model.name: must name a model; known: ar, autoencoder, cgan, ddpm, ebm, eqm, flow, gan, meanflow, realnvp, tarflow, vae and 1 more",
        ),
        ({"model": 3}, "recipe: model: must be a section of keys, not 3"),
        (
            {"model": {"name": "ddpm"}, 1: 2},
            "recipe: 1: unknown key; known: data, evaluate, hub, model, run_dir, seed, trainer",
        ),
        ({"model": {"name": "ddpm", "network": {"name": "unet", 1: 2}}}, "recipe: model.network.1: unknown key; known: "),
        ({"model": {"name": "ddpm"}, "seed": {1, 2}}, "recipe: seed: can't be an object of class set; a recipe has "),
        ({"model": {"name": "ddpm"}, "seed": None}, "recipe: seed: must be a valid integer, not null"),
        ({"model": {"name": "ddpm\0"}}, "recipe: model.name: has a character that can't be written: 'ddpm\\x00'"),
    ],
)
def test_faults_in_a_mapping(mapping: dict[Any, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(mapping)
    assert str(caught.value).startswith(message)


def test_a_mapping_inside_itself_is_too_deep() -> None:
    mapping: dict[str, Any] = {"model": {"name": "ddpm"}}
    mapping["data"] = mapping
    with pytest.raises(RecipeError, match="nested deeper"):
        read_recipe(mapping)
