"""Find what a user names: a model by a path or a Hub id, a repository's recipe, and facts about its model. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genhub.errors import HubError
from genhub.ground.ids import split_id
from genhub.hub.repository import Repository, T, open_repository
from genhub.store.classes import described_columns, described_manifest, read_model
from genhub.store.find import read_newest
from genhub.store.manifest import MANIFEST
from genhub.store.run_folder import RECIPE


@dataclass
class NamedModel:
    """A model as a user named it: a path, or a Hub id. The Hub is asked once, when it is first read, and what is read later
    is of the same commit; of a run's folder, it is always the newest checkpoint."""

    source: str | Path
    _repository: Repository | None = field(default=None, compare=False, repr=False)

    def read(self, read: Callable[[Path], T], *, weights: bool = True, checked: bool = False) -> T:
        """Return the result of `read` for the model's folder; of a Hub id it is fetched.

        Args:
            weights: without, only what describes a model on the Hub is fetched.
            checked: see `read_newest`.
        Raises:
            CheckpointError: no model is there.
            HubError: the Hub doesn't have it, doesn't give it, or gives something else.
        """
        if split_id(self.source) is None:
            return read_newest(Path(self.source), read, checked=checked)
        if self._repository is None:
            repository = open_repository(str(self.source))
            repository.fetch_texts()
            self._repository = repository
        return read(self._repository.fetch_weights() if weights else self._repository.folder)


def find_recipe_of(source: str) -> tuple[str, Path]:
    """Return a repository's id and the recipe in it.

    Raises:
        HubError: there is none, or see `NamedModel.read`.
    """
    repository = open_repository(source)
    repository.fetch_texts()
    if RECIPE not in repository.wanted():
        raise HubError(f"{source}: holds no recipe.yaml, so it can't be trained again; recipes can start from its weights "
                       f"(model.from: {source})")  # fmt: skip
    return repository.id, repository.folder / RECIPE


def describe_repository(source: str) -> dict[str, Any]:
    """Return facts about a repository's model, without fetching its weights.

    Raises:
        HubError, CheckpointError: see `NamedModel.read`.
    """
    repository = open_repository(source)
    repository.fetch_texts()
    facts: dict[str, Any] = {
        "repository": repository.id,
        "commit": repository.commit,
        "weight_bytes": repository.weight_bytes,
    }
    with repository.naming():
        if MANIFEST in repository.files:
            return facts | described_manifest(repository.manifest(), repository.id)
        _, config = read_model(repository.folder)
    described = {"plugin": {"name": config.name}, "config": config.model_dump(mode="json")}
    return facts | described_columns(config.data) | described
