"""Start this command line again in several processes."""

from __future__ import annotations

import logging
import os
import sys
import tempfile

from genhub.ground.console import put
from genhub.ground.processes import command_line


def launch(processes: int) -> int:
    """Run this command line in so many processes on this machine, as `torchrun --standalone` does, and wait for them.
    A signal reaches all of them.

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
