"""Write a recipe for data: each part's choice for them and for what there is to train with, over what suits most."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genhub.data.open import config_of
from genhub.data.raw import Source
from genhub.data.sources import find_source
from genhub.data.split_columns import SplitColumns
from genhub.data.stream import first_columns
from genhub.errors import DataError, GenhubError, InputError, PluginError, RecipeError
from genhub.ground.parsing import flattened, yaml_line
from genhub.interfaces.columns import DataConfig, DataSpec, ModelData, described
from genhub.interfaces.means import Means
from genhub.interfaces.registry import MODELS, load_class, plugin_names
from genhub.recipe.recipe import Recipe, read_recipe
from genhub.recipe.shipped import best_families
from genhub.recipe.written import commented

FEW, SMALL = 16, 256
"""Numbers of an element up to which a large batch costs nothing, and up to which it costs little."""


@dataclass(frozen=True)
class Task:
    """Columns of data, as a recipe for them would say them, and what there is to train with."""

    data: DataConfig
    spec: DataSpec
    means: Means
    splits: tuple[str, ...]
    """Names of the splits that there are."""

    @property
    def title(self) -> str:
        """Description of the data in a few words."""
        return self.spec.title

    @property
    def stem(self) -> str:
        """Name for files of these data: of a path its last part."""
        return re.sub(r"[^\w.-]+", "-", Path(self.spec.name).stem or "data").strip("-.") or "data"


def task_of(source: str, keys: Mapping[str, Any], conditions: Sequence[str], minutes: float, accelerator: bool) -> Task:
    """Look at data, and settle what a recipe has to say of the columns in use.

    Args:
        keys: of the section `data`, which stand over any choice.
        conditions: columns that a model is given.
    Raises:
        DataError: they are not there, or can't be drawn.
    """
    config = config_of(source, keys)
    found = find_source(config)
    stored = found.columns if isinstance(found, Source) else first_columns(found, config)
    rows = (len(found) if isinstance(found, Source) else found.length) or 0
    means = Means(minutes, accelerator, rows)
    columns = SplitColumns(stored, config, None)
    target = columns.target()
    names = (target, *columns.conditions(conditions, target))
    sections = dict(config.model_dump(exclude_unset=True).get("columns", {}))
    for name in names:
        try:
            chosen = columns.recognised(name)[1].suited(columns.stored(name), means)
        except ValueError as error:
            raise DataError(f"data.columns.{name}: {error}") from error
        if chosen:
            sections[name] = {**chosen, **sections.get(name, {})}
    config = config_of(config, {"columns": sections} if sections else {})
    columns = SplitColumns(stored, config, None)
    modalities = {name: columns.modality(name, target) for name in names}
    spec = described(
        name=config.title, split=config.split, target=target, columns=modalities, num_rows=rows,
        fingerprints=dict.fromkeys(names, ""),
    )  # fmt: skip
    return Task(config, spec, means, tuple(found.splits) if isinstance(found, Source) else (config.split,))


def suited_keys(task: Task, model: str) -> dict[str, Any]:
    """Return a recipe for data by a family, as nested sections.

    Raises:
        InputError: the family doesn't fit the data or the conditions: why.
    """
    data, means = task.spec.model_data, task.means
    try:
        family, said = load_class(MODELS, model).Config.suited(data, means), _data(task)
    except ValueError as error:
        raise InputError(f"{model}: {error}") from error
    except GenhubError:
        raise
    except Exception as error:  # a stranger's
        raise PluginError(f"{model}: its suited failed: {type(error).__name__}: {error}") from error
    all_keys = {"model.name": model, **({"model.conditions": list(data.conditions)} if data.conditions else {}), **said}
    keys = nested({**all_keys, **_most(data, means), **family, **said})  # what was said first, and unchanged
    while "data.batch_size" not in said and keys["data"]["batch_size"] > max(8, means.rows // 4) and means.rows:
        keys["data"]["batch_size"] //= 2
    try:
        recipe_of(task, keys)
    except RecipeError as error:
        raise InputError(f"{model} doesn't fit: {str(error).partition(': ')[2]}") from error
    return {name: keys[name] for name in ("model", "data", "trainer")} | {"seed": 0}


def nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by the paths of their keys as sections; a value that is a section itself stays one.

    >>> nested({"model.name": "vae", "model.kl": {"layers": 1}, "data.batch_size": 32})
    {'model': {'name': 'vae', 'kl': {'layers': 1}}, 'data': {'batch_size': 32}}
    """
    content: dict[str, Any] = {}
    for path, value in keys.items():
        *sections, key = path.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = dict(value) if isinstance(value, Mapping) else value
    return content


def recipe_of(task: Task, keys: Mapping[str, Any]) -> Recipe:
    """Return the keys as a recipe, with the model shaped by the data.

    Raises:
        InputError: they don't fit together: why.
    """
    return read_recipe(keys).filled_from(task.spec)


def best_for(task: Task) -> str:
    """Return the family to take where nobody names one.

    Raises:
        InputError: none of them fits: why the first doesn't.
    """
    first, known = best_families().get(str(len(task.spec.modality.shape) - 1), []), plugin_names(MODELS)
    faults = []
    for name in dict.fromkeys([*(name for name in first if name in known), *known]):
        try:
            suited_keys(task, name)
            return name
        except InputError as error:
            faults.append(error)
    raise faults[0]


def _data(task: Task) -> dict[str, Any]:
    """Return the section `data` as it was said and settled."""
    said = task.data.model_dump(mode="json", exclude_unset=True, by_alias=True)
    return {f"data.{key}": value for key, value in said.items()}


def _most(data: ModelData, means: Means) -> dict[str, Any]:
    """Return the keys that suit most families."""
    numbers = math.prod(data.target.shape)
    batch = 256 if numbers <= FEW else 64 if numbers <= SMALL else 32
    batch *= 4 if means.accelerator else 1
    often = 10_000 if numbers <= FEW else 1000
    return {
        "data.batch_size": batch,
        "trainer.max_time": duration(means.minutes),
        "trainer.optimizer": {"name": "adamw", "lr": 5e-4 if means.accelerator else 2e-3},
        "trainer.lr_scheduler": {"name": "cosine", "warmup_steps": 100, "final_ratio": 0.05},
        "trainer.ema": {"decay": 0.9995 if means.accelerator else 0.995},
        **({"trainer.mixed_precision": "bf16"} if means.accelerator else {}),
        **({"trainer.num_samples": 1000} if numbers <= FEW else {}),
        "trainer.log_every": often // 10,
        "trainer.sample_every": often,
        "trainer.save_every": often,
    }


def duration(minutes: float) -> str:
    """
    >>> duration(10), duration(0.5)
    ('10m', '30s')
    """
    return f"{minutes:.0f}m" if minutes == int(minutes) else f"{max(1, round(60 * minutes))}s"


def write_recipe(task: Task, model: str, name: str, richer: Task | None = None) -> str:
    """Return the text of a recipe file that suits data, with comments.

    Args:
        name: of the file, for its first lines.
        richer: the same data with a GPU to train with; None: there is one.
    """
    keys = suited_keys(task, model)
    device = "an accelerator" if task.means.accelerator else "a CPU"
    head = [
        f"{model} for {task.title}.",
        f"{task.means.minutes:g} minutes on {device}; a longer trainer.max_time makes it better.",
        f"Try: {shlex.join(['genhub', 'train', name])}",
    ]
    if richer and (changes := changed(task, richer, model)):
        head.append(f"With a GPU: {' '.join(changes)}")
    return commented(keys, head, recipe_of(task, keys))


def changed(task: Task, richer: Task, model: str) -> list[str]:
    """Return the keys that a recipe would have with a GPU, as the command line takes them."""
    here, there = (dict(flattened(suited_keys(each, model))) for each in (task, richer))
    return [shlex.quote(f"{key}={yaml_line(value)}") for key, value in there.items() if here.get(key) != value]
