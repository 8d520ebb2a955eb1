"""Deal with too little memory: explain it, and find a part of a batch that fits."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import nn

from genhub.data.split import splits
from genhub.errors import CheckpointError, TrainingError
from genhub.ground.console import say
from genhub.ground.disk import saving, write_whole
from genhub.ground.processes import Together
from genhub.sampling.draw import out_of_memory
from genhub.store.manifest import read_json
from genhub.training.optim import PhaseOptimizer


@contextlib.contextmanager
def memory_explained(batch_size: int, processes: int, accumulation: int) -> Iterator[None]:
    """Add, to a device's error that memory is full, the batch and the accumulation that would keep it.

    Raises:
        TrainingError: the memory is full.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        more = splits(batch_size, processes, accumulation + 1)
        advice = (
            f"trainer.gradient_accumulation_steps={more[0]} keeps the batch of {batch_size} with "
            f"{batch_size // processes // more[0]} at once, and trainer.find_batch_size=true finds what fits"
            if more
            else "a smaller data.image_size or model would need less"
        )
        rows = batch_size // processes // accumulation
        raise TrainingError(
            f"out of memory: data.batch_size={batch_size} puts {rows} rows at once through the model "
            f"({processes} processes, gradient_accumulation_steps={accumulation}); {advice} "
            f"({str(error).strip().splitlines()[0] if str(error) else type(error).__name__})"
        ) from error


def find_accumulation(record: Path, batch_size: int, first: int, together: Together, fits: Callable[[int], bool]) -> int:
    """Return the smallest `gradient_accumulation_steps`, from `first` on, with which a step fits into memory. A run looks
    once: what it found is in its folder, and holds for any number of processes.

    Args:
        record: the file for what was found.
    Raises:
        TrainingError: not even one row at a time fits.
        CheckpointError: the record in the folder is damaged.
    """
    known = together.broadcast(_recorded(record) if together.main else None)
    share = batch_size // together.world_size
    for parts in splits(batch_size, together.world_size, first):
        if fits(parts) if known is None else share // parts <= known:
            break
    else:
        raise TrainingError("trainer.find_batch_size: not even one row at a time fits into memory")
    if together.main and known is None:
        with saving(record):
            write_whole(record, json.dumps({"rows_at_once": share // parts}) + "\n")
    say(f"Memory   {share // parts} rows at once fit: gradient_accumulation_steps={parts}")
    return parts


def _recorded(file: Path) -> int | None:
    """Return how many rows at once were found to fit; None before that was looked for."""
    if not file.exists():
        return None
    content = read_json(file)
    known = content.get("rows_at_once") if isinstance(content, dict) else None
    if not isinstance(known, int) or known < 1:
        raise CheckpointError(f"{file}: damaged; delete it, and what fits is found anew")
    return known


def step_fits(
    step: Callable[[], None], model: nn.Module, optimizers: Iterable[PhaseOptimizer], accelerator: Accelerator
) -> bool:
    """Whether a real step, its optimizers included, fits on every process; then all is as it was before."""
    before = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    full = False
    try:
        step()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        full = True
    model.load_state_dict(before)
    for optimizer in optimizers:
        optimizer.clear()
        for part in optimizer.parts:
            part.state.clear()
    clear_device_cache(garbage_collection=True)
    answer = torch.tensor(float(full), device=accelerator.device)
    return not accelerator.reduce(answer, "sum").item()  # one that is full speaks for all
