"""Limit the memory that building a model takes: a config may be a stranger's, and ask for far too much."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from genhub.errors import CheckpointError

MAX_TENSORS = 5_000
"""Most parameters and buffers, each a tensor, that a model may ask for."""
SMALL = 2**20
"""Numbers that a model's buffers may hold beyond its weights: tables of positions and noise levels."""
AT_WORK, AT_WORK_SMALL = 32, 2**28
"""Most bytes of all tensors a constructor makes, even if dropped again: so many per byte of weights, and so many more."""


@contextmanager
def budget(most: int, where: str) -> Iterator[None]:
    """Refuse what is built inside, in this thread, once it asks for more parameters and buffers than its weights have bytes,
    for more tensors than any network has, or on its way for far more memory than that.

    Args:
        most: the weights' size in bytes.
    Raises:
        CheckpointError: it does.
    """
    builder, numbers, tensors = threading.get_ident(), 0, 0

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal numbers, tensors
        if threading.get_ident() != builder or tensor is None:
            return
        numbers, tensors = numbers + tensor.numel(), tensors + 1
        if tensors > MAX_TENSORS:
            refuse(f"{tensors:,} tensors")
        if numbers > most + SMALL or (isinstance(tensor, nn.Parameter) and numbers > most):
            refuse(f"{numbers:,} parameters and buffers")

    def refuse(what: str) -> None:
        raise CheckpointError(f"{where}: its config asks for {what} or more, its weights have {most:,} bytes; refused")

    handles = hooks.register_module_parameter_registration_hook(count), hooks.register_module_buffer_registration_hook(count)
    try:
        with _Made(lambda total: refuse(f"{total:,} bytes") if total > AT_WORK * most + AT_WORK_SMALL else None):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Made(TorchFunctionMode):
    """Counter of the bytes of all tensors made in this thread. Where `torch.device` says which device they are made on, as
    within `with torch.device("cpu")`, before their memory is taken."""

    def __init__(self, told: Callable[[int], None]) -> None:
        super().__init__()
        self._told, self._total = told, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if device is not None and torch.device(device).type != "meta":
            self._count(func(*args, **kwargs | {"device": "meta"}), args)
            return func(*args, **kwargs)
        made = func(*args, **kwargs)
        self._count(made, args)
        return made

    def _count(self, made: Any, args: Any) -> None:
        for value in made if isinstance(made, tuple | list) else (made,):
            # What was given is changed in place, a view takes no memory of its own.
            if isinstance(value, Tensor) and not value._is_view() and not any(value is one for one in args):
                self._total += value.numel() * value.element_size()
        self._told(self._total)
