"""Load models from a folder or from a repository on the Hub."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from genhub.errors import HubError, InputError, shown
from genhub.ground.console import warn
from genhub.ground.ids import split_id
from genhub.hub.repository import Repository, open_repository
from genhub.interfaces.model import Model
from genhub.store.find import read_newest
from genhub.store.manifest import (
    MANIFEST,
)
from genhub.store.models import build_model, load_folder, load_weights


@dataclass(frozen=True)
class Loading:
    """The options of `genhub.load`, which says what each is."""

    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None
    revision: str | None = None
    token: str | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False


def load_model(source: str | Path, how: Loading = Loading(), model_class: type[Model] | None = None) -> Model:
    """Return the model in a run's folder (its newest whole checkpoint), a checkpoint, a folder that another library saved,
    or a repository on the Hub. See `genhub.load`.

    What describes a model is read and checked before its weights are fetched or memory is taken for them.
    """
    wanted = _dtype(how.dtype)
    if split_id(source) is None:
        if how.revision or how.local_files_only or how.trust_remote_code:
            raise InputError(
                f"{source}: revision, local_files_only and trust_remote_code are for models on the Hub, user/name"
            )
        model = read_newest(Path(source), lambda folder: load_folder(folder, model_class), checked=True)
    else:
        repository = open_repository(
            str(source), revision=how.revision, token=how.token, local_files_only=how.local_files_only
        )
        repository.fetch_texts()
        if how.trust_remote_code and model_class is None:
            model_class = _remote_class(repository, str(source), how.revision)
        with repository.naming():
            model = build_model(repository.folder, model_class, repository.weight_bytes)
            load_weights(model, repository.fetch_weights())
    return placed(model, how.device, wanted)


def placed(model: Model, device: str | torch.device | None, dtype: torch.dtype | None = None) -> Model:
    """Return a model in eval mode, moved to a device.

    Raises:
        InputError: there is no such device.
    """
    try:
        return model.to(device=device or "cpu", dtype=dtype).eval()
    except (RuntimeError, AssertionError) as error:  # torch's two ways to say that there is no such device
        raise InputError(f"device {shown(str(device))}: {str(error).splitlines()[0]}") from error


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise InputError(f"dtype: float32, bfloat16, float16 or float64, not {shown(dtype)}")
    return found


def _remote_class(repository: Repository, source: str, revision: str | None) -> type[Model] | None:
    """Return the class in a repository's plugin.py: code from there runs here, and nowhere else in genhub. What runs are
    the bytes whose hash is said: they are read once, and no other file of the repository is imported, nor a compiled one.

    Raises:
        HubError: the commit is not pinned by the caller, or the file does not have the class.
    """
    plugin = repository.manifest().plugin if MANIFEST in repository.files else None
    code = repository.manifest().code if plugin else None
    if plugin is None or code is None or ":" not in plugin.name:
        return None  # there is nothing to run: its plugin is an installed one
    if repository.commit not in (revision, source.partition("@")[2]):
        raise HubError(
            f"{repository.id}: trust_remote_code runs its plugin.py, so read that, then name the commit that you read: "
            f"revision='{repository.commit}'"
        )
    content = repository.fetch_code(code)
    warn(f"running {repository.id}/plugin.py at {repository.commit} ({code.size} bytes, SHA-256 {code.sha256[:16]})")
    module = sys.modules[f"genhub_remote_{code.sha256[:16]}"] = ModuleType(f"genhub_remote_{code.sha256[:16]}")
    name = plugin.name.partition(":")[2]
    try:
        exec(compile(content, f"<{repository.id}/plugin.py>", "exec", dont_inherit=True), vars(module))
        found = getattr(module, name)
        if not issubclass(found, Model):
            raise TypeError(f"{name} is no GenerativeModel")
    except Exception as error:  # somebody's code may raise anything
        raise HubError(f"{repository.id}: its plugin.py can't be used: {type(error).__name__}: {error}") from error
    model_class: type[Model] = found
    return model_class
