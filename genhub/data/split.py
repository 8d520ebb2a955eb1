"""Split a batch over processes and accumulation steps."""

from __future__ import annotations

from genhub.errors import DataError
from genhub.interfaces.columns import DataConfig
from genhub.interfaces.config import TrainerConfig
from genhub.recipe.sections import AccelerateConfig


def share_of(batch_size: int, processes: int, accumulation: int = 1) -> int:
    """Return how many rows of a batch are in one of a process's parts.

    >>> share_of(64, 4, 2)
    8

    Raises:
        DataError: they can't be split like that, and the nearest number that can.
    """
    part, rest = divmod(batch_size, processes * accumulation)
    if rest:
        split = f"{processes} processes x {accumulation} accumulation steps"
        nearest = max(1, round(batch_size / (processes * accumulation))) * processes * accumulation
        raise DataError(f"data.batch_size: {batch_size} can't be split over {split}; the nearest that can: {nearest}")
    return part


def check_split(data: DataConfig, trainer: TrainerConfig, processes: int) -> None:
    """
    Raises:
        DataError: a batch can't be split over so many processes, and the nearest size that can.
    """
    accumulation = 1
    if isinstance(trainer, AccelerateConfig) and not trainer.find_batch_size:
        accumulation = trainer.gradient_accumulation_steps
    share_of(data.batch_size, processes, accumulation)


def splits(batch_size: int, processes: int, first: int = 1) -> list[int]:
    """Return the numbers of parts, from `first` on, that each process's share of a batch can be split into.

    >>> splits(12, 2, first=2)
    [2, 3, 6]
    """
    share, rest = divmod(batch_size, processes)
    return [parts for parts in range(first, share + 1) if share % parts == 0] if not rest else []
