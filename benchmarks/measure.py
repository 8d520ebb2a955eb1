"""What the measurements here share: a clock, a fresh process, the machine, medians of ratios, and where results are kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def wait_for_device() -> None:
    """Until a GPU's work is done, where there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], None]) -> float:
    """Seconds of the work, the GPU's included."""
    wait_for_device()
    started = time.perf_counter()
    work()
    wait_for_device()
    return time.perf_counter() - started


def peak_mib() -> float:
    """This process's largest memory so far. `ru_maxrss` is not: a child's begins with its parent's."""
    status = Path("/proc/self/status")
    if not status.is_file():  # not Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


def from_fresh_process(
    *arguments: str, cwd: str | None = None, environment: Mapping[str, str] = os.environ
) -> dict[str, float]:
    """What `python ARGUMENTS` prints as JSON on a line of its own, the last such line."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{' '.join(arguments)}: nothing was measured\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(lines[-1])
    return found


def machine() -> dict[str, Any]:
    """What a time depends on."""
    import torch

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": device,
            "system": platform.platform(), "python": platform.python_version(), "torch": torch.__version__}  # fmt: skip


def of_ratios(ratios: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of ratios, each of two things measured one after the other."""
    ordered = sorted(ratios)
    low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    return {"ratio": statistics.median(ordered), "quartiles": [low, high], "rounds": len(ordered)}


def keep(name: str, rows: dict[str, Any], out: Path | None = None) -> None:
    """Merge rows into results/NAME.json: what was not measured this time stays as it was."""
    file = out or RESULTS / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text()) if file.is_file() else {}
    described = {key: {**row, "machine": machine()} for key, row in rows.items()}
    file.write_text(json.dumps(before | described, indent=1) + "\n")


def rounded(value: Any, digits: int = 4) -> Any:
    """Floats, however deep, to so many significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(inner, digits) for key, inner in value.items()}
    return [rounded(inner, digits) for inner in value] if isinstance(value, list | tuple) else value
