"""Write tensors to safetensors files and read them strictly: a network's, or, with a digest, what can be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import nsmallest
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from genhub.errors import CheckpointError
from genhub.ground.digests import hash_of

DIGEST = "digest"
"""Key of the digest in a sealed file's metadata."""


def save_tensors(tensors: Mapping[str, Tensor], file: Path, **notes: str) -> None:
    """Write a safetensors file, notes in its metadata; tied tensors, which the format refuses, are written once each."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    save_file(plain, file, notes or None)


def save_sealed(tensors: Mapping[str, Tensor], file: Path, **notes: str) -> None:
    """Write what can be made again (a cache, a part of a drawing), with a digest by which damage is found."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, file, notes | {DIGEST: _digest(plain, notes)})


def load_sealed(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and notes of a file that `save_sealed` wrote.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        with safe_open(file, "pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            notes = dict(stored.metadata() or {})
        if notes.pop(DIGEST, None) == _digest(tensors, notes):
            return tensors, notes
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {error}; delete it, and it is made again") from error
    raise CheckpointError(f"{file}: damaged: its digest is of other numbers; delete it, and it is made again")


def is_sealed(file: Path) -> bool:
    """Whether a file that `save_sealed` wrote is there, undamaged."""
    try:
        return file.is_file() and bool(load_sealed(file))
    except CheckpointError:
        return False


def _digest(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    parts = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in sorted(tensors.items())]
    numbers = (tensors[name].reshape(-1).view(torch.uint8).numpy() for name in sorted(tensors))
    return hash_of(parts, sorted(notes.items()), *numbers)


def load_strictly(module: nn.Module, file: Path, rename: Callable[[str], str] = str) -> None:
    """Copy a safetensors file into a module, shape by shape and key by key; floats of another precision are converted.

    Args:
        rename: a key in the file to the module's, for files that call things by other names.
    Raises:
        CheckpointError: the file is missing or damaged, or its tensors are not the module's.
    """
    try:
        with safe_open(file, "pt") as stored:
            names, own = {rename(key): key for key in stored.keys()}, module.state_dict()  # noqa: SIM118
            faults = [f"{key} is missing" for key in own.keys() - names.keys()]
            faults += [f"{key} is not part of the model" for key in names.keys() - own.keys()]
            for key in own.keys() & names.keys():  # from the file's header, before anything is read
                found, tensor = stored.get_slice(names[key]), own[key]
                if tuple(found.get_shape()) != tuple(tensor.shape):
                    faults.append(f"{key} is {tuple(found.get_shape())}, the model's is {tuple(tensor.shape)}")
                elif found.get_dtype().startswith(("F", "BF")) != tensor.is_floating_point():
                    faults.append(
                        f"{key} is of {found.get_dtype()}, the model's of {str(tensor.dtype).removeprefix('torch.')}"
                    )
            if faults:
                raise CheckpointError(f"{file}: {len(faults):,} tensors don't fit: {'; '.join(nsmallest(5, faults))}")
            module.load_state_dict({key: stored.get_tensor(names[key]) for key in own})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: can't be read as safetensors: {error}") from error
