"""Several processes: torch's own launcher, and what a process knows of the launcher that started it. No torch at import."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from genhub.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


ASKED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables in which launchers say how many processes they started, as accelerate reads them."""
FOREIGN = {"USE_DEEPSPEED": "DeepSpeed", "USE_FSDP": "FSDP", "USE_MEGATRON_LM": "Megatron-LM"}
"""Settings of an accelerate config, besides processes, that genhub does not take."""


def command_line() -> list[str]:
    """Return the command that starts genhub in another process. -P, as `-m` alone would import from the current folder."""
    return [sys.executable, "-P", "-m", "genhub"]


def launched(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return how many processes a launcher started, this one among them; None if none did."""
    return next((int(environment[name]) for name in ASKED if name in environment), None)


def alone() -> bool:
    """Whether this process is the only one."""
    return (launched() or 1) == 1


def check_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """
    Raises:
        InputError: a launcher was asked for several processes and has started one, or brings settings of its own that
            would override the recipe's.
    """
    for name, what in FOREIGN.items():
        if environment.get(f"ACCELERATE_{name}", "false").lower() in ("true", "1", "yes"):
            raise InputError(
                f"accelerate's config asks for {what}: take it out there; a recipe's trainer.sharding shards a model"
            )
    # `accelerate launch --cpu --num_processes 2`: it sets the address at which processes would meet, and starts one.
    if launched(environment) is None and "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment:
        raise InputError(
            "accelerate launch was asked for several processes and started one, as it does on CPUs; use "
            "genhub train RECIPE --num-processes N, or torchrun"
        )


def first_to_say(text: str) -> bool:
    """Whether no other process that torch's launcher started on this machine has said so yet."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # in a folder a process, in a folder a launch
    if file is None:
        return True
    from hashlib import blake2b  # opens OpenSSL, for which `genhub --help` would wait

    try:
        (Path(file).parents[1] / f"said-{blake2b(text.encode(), digest_size=8).hexdigest()}").touch(exist_ok=False)
    except OSError as error:
        return not isinstance(error, FileExistsError)
    return True


def main_process() -> bool:
    """Whether this is a launcher's first process; known before torch.distributed is set up."""
    return os.environ.get("RANK", "0") == "0"


T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """A process's part of each batch: it is process `rank` of `world_size`, and has it in `accumulation` parts."""

    rank: int = 0
    world_size: int = 1
    accumulation: int = 1


ALONE = Share()
"""The share of a process that has whole batches."""


class Together:
    """The processes that a launcher started, as this one sees them; they all call the methods. One alone counts, too."""

    def __init__(self, device: str | torch.device | None = None) -> None:
        """Meet the others, if that is not done. They may then wait for each other as long as it takes: a launcher stops
        them all when one dies.

        Args:
            device: as `genhub.load` takes it; of several GPUs, `self.device` is this process's own.
        """
        import torch
        from accelerate import PartialState

        on_cpu = str(device) == "cpu" or not torch.accelerator.is_available()
        self._state = PartialState(cpu=on_cpu, timeout=timedelta(days=30))  # as it is, if they have met
        self.rank: int = self._state.process_index
        self.world_size: int = self._state.num_processes
        self.device: torch.device = self._state.device
        self.main = self.rank == 0

    def gather(self, tensor: Tensor) -> Tensor:
        """Return all processes' tensors, one after another along the first dimension, on `device`."""
        from accelerate.utils import gather

        return cast("Tensor", gather(tensor.to(self.device)))

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of all processes' tensors, on `device`; the same bits on each."""
        from accelerate.utils import reduce

        return cast("Tensor", reduce(tensor.to(self.device), "mean"))

    def collect(self, value: T) -> list[T]:
        """Return all processes' values in order of rank: numbers, texts, lists and dictionaries of them."""
        from accelerate.utils import gather_object

        return cast("list[T]", gather_object([value]))

    def broadcast(self, value: T) -> T:
        """Return the first process's value."""
        from accelerate.utils import broadcast_object_list

        values = [value]
        broadcast_object_list(values)
        return values[0]

    def wait(self) -> None:
        """Return when all processes are here."""
        self._state.wait_for_everyone()

    def end(self) -> None:
        """Part from the others, when nothing more is done together."""
        self._state.destroy_process_group()


def meet(device: str | torch.device | None = None) -> Together | None:
    """Return the processes that a launcher started; None if this one is alone. See `Together`."""
    return None if alone() else Together(device)
