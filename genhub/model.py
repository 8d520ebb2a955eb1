"""`GenerativeModel`, from which every model derives: the interface (interfaces/model.py), with saving and sharing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, cast, final

from genhub.hub.load import Loading, load_model
from genhub.hub.push import Target
from genhub.interfaces.model import Model
from genhub.run.publish import push_model
from genhub.store.models import save_model


class GenerativeModel(Model):
    """Base of all models: networks as child modules, losses as phases, a sampler; saved, loaded and shared like each
    other."""

    @final
    def save_pretrained(self, path: str | Path) -> None:
        """Write a folder that `from_pretrained`, `genhub.load` and, for some models, other libraries open."""
        save_model(self, Path(path))

    @final
    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> Self:
        """Load a run's folder, a checkpoint, what `save_pretrained` wrote or a Hub id as this class, registered or not.

        Args:
            options: those of `genhub.load`.
        Raises:
            CheckpointError: the folder is not there, is damaged or holds another model.
        """
        return cast(Self, load_model(path, Loading(**options), cls))

    @final
    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish this model with a card and a picture of samples; returns the commit. Its training is not part of it:
        `genhub.push_to_hub(FOLDER, repo_id)` publishes a checkpoint, with its recipe.

        Args:
            repo_id: user/name.
            options: those of `genhub.push_to_hub`.
        Raises:
            HubError: see there.
        """
        return push_model(self, Target(repo_id, **options))
