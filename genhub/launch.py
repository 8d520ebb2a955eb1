"""Several processes: torch's own launcher, and what a process knows of the launcher that started it. No torch at import."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from genhub.console import put
from genhub.errors import InputError

ASKED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables in which launchers say how many processes they started, as accelerate reads them."""
FOREIGN = {"USE_DEEPSPEED": "DeepSpeed", "USE_FSDP": "FSDP", "USE_MEGATRON_LM": "Megatron-LM"}
"""What an accelerate config may ask for besides processes."""


def command_line() -> list[str]:
    """Return the command that starts genhub in another process. -P, as `-m` alone would import from the current folder."""
    return [sys.executable, "-P", "-m", "genhub"]


def launch(processes: int) -> int:
    """Run this command line in so many processes on this machine, as `torchrun --standalone` does, and wait for them. A
    signal reaches all of them.

    Returns:
        The exit code of the process that failed first, 128 + the signal that stopped them, or 0.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # the processes say what went wrong themselves
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with tempfile.TemporaryDirectory(prefix="genhub-") as logs:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id="genhub", rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", max_restarts=0, logs_specs=DefaultLogsSpecs(log_dir=logs),
        )  # fmt: skip
        try:
            python, *rest = command_line()
            elastic_launch(config, python)("-u", *rest, *sys.argv[1:])
        except ChildFailedError as error:
            for rank, failure in error.failures.items():  # whoever waited for it may have ended a moment before it was seen
                if failure.exitcode < 0:
                    put(f"genhub: process {rank} was killed by {failure.signal_name()}", stream=sys.stderr)
                    return 1
            return error.get_first_failure()[1].exitcode
        except SignalException as stop:
            return 128 + int(stop.sigval)
    return 0


def launched(environment: Mapping[str, str] = os.environ) -> int | None:
    """How many processes a launcher started, this one among them; None if none did."""
    return next((int(environment[name]) for name in ASKED if name in environment), None)


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
    try:
        (Path(file).parents[1] / f"said-{blake2b(text.encode(), digest_size=8).hexdigest()}").touch(exist_ok=False)
    except OSError as error:
        return not isinstance(error, FileExistsError)
    return True
