"""The parts that a model is made of, found in its Config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic.fields import FieldInfo

from genhub.interfaces.modality import Modality
from genhub.interfaces.network import NetworkConfig
from genhub.interfaces.registry import KINDS, SchedulerName, plugins
from genhub.interfaces.section import Section
from genhub.store.classes import StoredModel
from genhub.store.manifest import PartEntry


def parts_of(model: StoredModel, config: Section) -> tuple[PartEntry, ...]:
    """Return every part of a model, each once: itself, the modalities of its columns, its networks, its noise schedule, and
    those of a model inside it."""
    found = [PartEntry(kind="model", **model.plugin.model_dump()), *_parts(config)]
    return tuple(dict.fromkeys(found))


def _parts(value: Any) -> Iterator[PartEntry]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _parts(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _parts(inner)
    elif isinstance(value, StoredModel):
        yield from parts_of(value, value.typed_config())
    elif isinstance(value, Section):
        if isinstance(value, Modality):
            yield _part("modality", value.modality)
        if isinstance(value, NetworkConfig):
            yield _part("network", value.name)
        for key, field in type(value).model_fields.items():
            inner = getattr(value, key)
            if isinstance(inner, str) and _is_a_schedule(field):
                yield _part("scheduler", inner)
            yield from _parts(inner)


def _is_a_schedule(field: FieldInfo) -> bool:
    """Whether a key is annotated as `SchedulerName`, or `SchedulerName | None`."""
    _, check = get_args(SchedulerName)
    return check in field.metadata or SchedulerName in get_args(field.annotation)


def _part(kind: str, name: str) -> PartEntry:
    found = next((plugin for plugin in plugins(KINDS[kind]) if plugin.name == name), None)
    distribution, version = (found.distribution, found.version) if found else ("", "")
    return PartEntry(kind=kind, name=name, distribution=distribution, version=version)
