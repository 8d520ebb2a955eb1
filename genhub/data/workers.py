"""Have worker processes make batches ahead: hand them over, and end the wait where none comes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from genhub.errors import DataError, TrainingError
from genhub.ground.console import warn
from genhub.interfaces.columns import DataConfig

PATIENCE, LONGEST_WAIT = 60, 1800
"""Seconds to wait for a batch before a line says so, and before the run ends."""
SHARED = Path("/dev/shm")
DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (.+?)\.|exited)")
"""Pattern of torch's message on a dead worker: its process, and the signal."""
SHORT_OF_MEMORY = (
    "; if memory was short, fewer workers or a smaller data.batch_size need less. The same command goes on "
    "from the last checkpoint"
)


def load_ahead(dataset: Any, order: Iterator[Any], config: DataConfig, device: torch.device) -> Iterator[Any]:
    """Yield dataset[item], a batch, for each item of `order`, made by `data.num_workers` processes.

    Raises:
        DataError: while iterating, where that is what the data set gave.
        TrainingError: the workers can't be started, or no batch comes.
    """
    loader = DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=config.num_workers,
        pin_memory=device.type == "cuda",
        timeout=config.num_workers and PATIENCE,
        collate_fn=_handed_over,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its own, so that nothing is drawn from the global one
    )
    told = False
    for item in _patiently(loader):
        if isinstance(item, DataError):
            raise item
        if not isinstance(item, _Piped):
            yield item
            continue
        if not told:
            warn(
                f"shared memory is full: {_room(item.size, config.num_workers)}; batches come through a pipe: slower, and "
                "nothing else is different"
            )
            told = True
        yield item.tensors()


def _patiently(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield a loader's batches; say so where one takes long, and raise where it takes too long."""
    others = set(multiprocessing.active_children())
    try:
        # As many locks in shared memory as torch will make, about: where they fail there, more is said than this line.
        _ = [multiprocessing.Lock() for _ in range(6 * loader.num_workers)]
        batches = iter(loader)
    except OSError as error:
        raise TrainingError(
            f"data.num_workers={loader.num_workers}: worker processes can't be started ({error.strerror or error}); "
            "data.num_workers=0 does without"
        ) from error
    try:
        yield from _until_it_is_too_long(batches)
    except GeneratorExit:
        raise
    except BaseException:  # a signal, say: torch would wait 5 seconds for each
        _end(set(multiprocessing.active_children()) - others)
        raise


def _end(workers: set[Any]) -> None:
    """End worker processes, unheard: torch's handler raises for one that dies, wherever the main thread is by then."""
    silent = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    heard = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if silent else None
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(1)  # what has been waited for is raised no more
    if silent:
        signal.signal(signal.SIGCHLD, heard)


def _until_it_is_too_long(batches: Iterator[Any]) -> Iterator[Any]:
    waited = 0
    while True:
        try:
            item = next(batches)
        except StopIteration:
            return
        except (ConnectionError, EOFError, FileNotFoundError) as error:  # a batch was on its way
            raise TrainingError(f"data.num_workers: a worker process has died{SHORT_OF_MEMORY}") from error
        except RuntimeError as error:
            if "DataLoader timed out" not in str(error):
                raise
            waited += PATIENCE
            if waited >= LONGEST_WAIT:
                raise TrainingError(
                    f"data: no batch came for {waited} seconds; look whether the disk with the images still answers. "
                    "The same command goes on from the last checkpoint"
                ) from error
            warn(f"data: waiting for a batch for {waited} seconds")
            continue
        waited = 0
        yield item


@contextlib.contextmanager
def deaths_explained() -> Iterator[None]:
    """Turn the death of a worker, which torch raises wherever the main thread happens to be, into an error of one line.

    Raises:
        TrainingError: a worker has died.
    """
    shown = sys.unraisablehook
    # In a destructor it stops nothing, and is printed; the next batch is then missed, and that is told.
    sys.unraisablehook = lambda it: None if DIED.match(str(it.exc_value)) else shown(it)
    try:
        yield
    except RuntimeError as error:
        died = DIED.match(str(error))
        if not died:
            raise
        how = f"was killed ({died[2]})" if died[2] else "has died"
        raise TrainingError(f"data.num_workers: worker process {died[1]} {how}{SHORT_OF_MEMORY}") from error
    finally:
        sys.unraisablehook = shown


def _start_worker(_: int) -> None:
    """Leave the process group, to which Ctrl-C and a scheduler's SIGTERM go: the trainer still wants a batch."""
    if hasattr(os, "setsid"):  # not on Windows
        os.setsid()


@dataclass(frozen=True)
class _Piped:
    """Batch for which shared memory had no room: its arrays are copied through a pipe."""

    parts: list[Any]

    @property
    def size(self) -> int:
        return sum(part.nbytes for part in self.parts if isinstance(part, np.ndarray))

    def tensors(self) -> tuple[Any, ...]:
        return tuple(torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in self.parts)


def _handed_over(item: Any) -> Any:
    """Return a batch with tensors for arrays, in a worker in shared memory if it has room: torch would find out in a thread
    that tells nobody, and the batch would never come."""
    if isinstance(item, DataError):
        return item
    parts = _Piped(list(item)).tensors()
    if get_worker_info() is None:
        return parts
    try:
        for part in parts:
            if isinstance(part, Tensor):
                part.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return _Piped([part.numpy() if isinstance(part, Tensor) else part for part in parts])
    return parts


def _room(batch: int, workers: int) -> str:
    """Say how much shared memory has and how much this takes: each worker is two batches ahead, and one is in use."""
    needed = f"{workers} workers with batches of {batch / 2**20:,.1f} MiB take {(2 * workers + 1) * batch / 2**20:,.0f} MiB"
    if not SHARED.is_dir():
        return needed
    disk = shutil.disk_usage(SHARED)
    return f"{SHARED} has {disk.free / 2**20:,.0f} of {disk.total / 2**20:,.0f} MiB free, and {needed}"
