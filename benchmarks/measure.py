"""What the measurements here share: a description of the machine, medians of ratios, and where results are kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


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
