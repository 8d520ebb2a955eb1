"""A network's tensors to a safetensors file, and strictly back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import nsmallest
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from genhub.errors import CheckpointError


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file; tied tensors, which the format refuses, are written once each."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    save_file(plain, file)


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
