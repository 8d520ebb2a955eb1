"""The head of a model card, which the Hub reads: licence, tags, base models, pictures, figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import yaml

from genhub.errors import PluginError, one_line
from genhub.ground.ids import data_id, split_id
from genhub.interfaces.registry import MODELS, load_class, plugin_names
from genhub.interfaces.section import ModelPath
from genhub.store.manifest import Manifest
from genhub.store.measured import MEASURED, Measured

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

TASKS = {"image": "unconditional-image-generation"}
"""The Hub's tags of models that are given nothing, by what they draw; of others it has none."""
GALLERY = "gallery"
"""Folder in a repository with what the model drew for its card."""
RESULTS = ".eval_results/genhub.yaml"
"""File in a repository with figures for the leaderboards of benchmarks."""


@dataclass(frozen=True)
class DrawnFile:
    """A picture or a sound, drawn for a card from the very weights that it is pushed with."""

    name: str
    """Its path in the repository."""
    told: str
    """The values that it was drawn for, in words."""

    @property
    def is_picture(self) -> bool:
        return self.name.endswith(".png")


def head(
    manifest: Manifest, name: str, recipe: str | None, license: str | None, diffusers: bool,
    gallery: Sequence[DrawnFile], measured: Sequence[Measured],
) -> ModelCardData:  # fmt: skip
    """Return the head of a card."""
    from huggingface_hub import ModelCardData

    data_set = hub_data(manifest.data.name) if manifest.data else None
    start, contained = base_models(recipe)
    bases = list(dict.fromkeys([*start, *contained]))
    more: dict[str, Any] = {"base_model_relation": "finetune"} if start else {}
    widget = [{"text": one_line(one.told), "output": {"url": one.name}} for one in gallery]
    if widget:
        more["widget"] = widget
    return ModelCardData(
        library_name="genhub",
        license=license,
        pipeline_tag=task(manifest),
        datasets=[data_set] if data_set else None,
        base_model=(bases[0] if len(bases) == 1 else bases) or None,
        tags=["genhub", manifest.plugin.name, *(["diffusers"] if diffusers else []), *subjects(manifest)],
        model_name=one_line(name.split("/")[-1]),
        eval_results=list(_eval_results(measured, manifest)) or None,
        **more,
    )


def task(manifest: Manifest) -> str | None:
    """Return the Hub's tag of what the model does, if it has one."""
    data = manifest.columns
    return TASKS.get(data.target.modality) if data and not data.conditions else None


def subjects(manifest: Manifest) -> list[str]:
    """Return tags of what is drawn."""
    data = manifest.columns
    return [f"{plain_word(data.target.modality)}-generation"] if data else []


def plain_word(modality: str) -> str:
    """Return a modality's name in a word; of module:Class the class's, as it may be a stranger's."""
    return re.sub(r"[^\w-]", "", modality.rpartition(":")[2]).lower()


def hub_data(name: str) -> str | None:
    """Return the id of a data set on the Hub; None for data of another place."""
    found = data_id(name) or (split_id(name) and name)
    return found.removeprefix("hf://") if found else None


def base_models(recipe: str | None) -> tuple[list[str], list[str]]:
    """Return the Hub ids of the model that training started from, and of trained models that the recipe puts into this one,
    such as an autoencoder: the keys that are a `ModelPath`."""
    model = (yaml.safe_load(recipe) if recipe else {}).get("model") or {}
    keys = [key for key in _model_paths(model.get("name")) if isinstance(model.get(key), str)]
    found = [
        [each[0] for value in values if (each := split_id(value))]
        for values in ([model.get("from") or ""], [model[key] for key in keys])
    ]
    return found[0], found[1]


def _model_paths(name: Any) -> Iterator[str]:
    """Yield the keys by which a registered model's recipe names a trained one."""
    if name not in plugin_names(MODELS):
        return
    try:
        fields: Mapping[str, Any] = load_class(MODELS, name).Config.model_fields
    except PluginError:  # loading it says so
        return
    *_, mark = get_args(ModelPath)
    yield from (key for key, its in fields.items() if ModelPath in get_args(its.annotation) or mark in its.metadata)


def _eval_results(measured: Sequence[Measured], manifest: Manifest) -> Iterator[Any]:
    """Yield the figures for the Hub's model-index."""
    from huggingface_hub import EvalResult

    kind = task(manifest) or next(iter(subjects(manifest)), "generation")
    for figure in measured:
        named = one_line(figure.data or str(figure.protocol.get("reference") or "unknown"))
        beside = {"interval": figure.interval and list(figure.interval), "real_rows": figure.floor}
        yield EvalResult(
            task_type=kind,
            dataset_type=hub_data(figure.data) or named,
            dataset_name=named,
            dataset_split=one_line(figure.split) or None,
            metric_type=figure.name,
            metric_name=figure.name,
            metric_value=figure.value,
            metric_args=figure.protocol | {key: value for key, value in beside.items() if value is not None},
        )


def eval_results_file(measured: Sequence[Measured], tasks: Mapping[str, Mapping[str, str]], source: str) -> str | None:
    """Return the content of `.eval_results/genhub.yaml`: the figures that are a task of a benchmark on the Hub; None: there
    are none. A benchmark names a task of generated rows by `TASK` and a figure's name, with the split of its real rows.

    Args:
        tasks: by data set, the split of each task that its eval.yaml names.
        source: address of metrics.json, which has the protocols.
    """
    from huggingface_hub import EvalResultEntry
    from huggingface_hub import eval_result_entries_to_yaml as to_list

    entries = []
    for figure in measured:
        data_set, name = hub_data(figure.data), f"{TASK}{figure.name}"
        if data_set and tasks.get(data_set, {}).get(name) == figure.split:
            protocol = figure.protocol
            notes = f"{protocol.get('extractor')}, {protocol.get('n')} rows, seed {protocol.get('seed')}"
            told = EvalResultEntry(
                data_set, name, figure.value, source_url=source, source_name=MEASURED, notes=one_line(notes)
            )
            entries.append(told)
    return yaml.safe_dump(to_list(entries), sort_keys=False, allow_unicode=True) if entries else None


TASK = "genhub/"
"""Beginning of the id of a benchmark's task that takes genhub's figures: genhub/frechet_distance."""
