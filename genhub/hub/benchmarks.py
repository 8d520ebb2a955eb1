"""Benchmarks on the Hub: data sets whose eval.yaml names tasks, for which models' repositories have figures. No torch."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from genhub.errors import HubError, HubUnavailable
from genhub.hub.client import connect
from genhub.store.manifest import MAX_JSON_BYTES

FILE = "eval.yaml"


class _Task(BaseModel):
    id: str
    split: str = "test"


class _Benchmark(BaseModel):
    """Content of eval.yaml, as far as it matters here; see the Hub's documentation of evaluation results."""

    tasks: list[_Task]


def benchmark_tasks(data_set: str, token: str | None) -> dict[str, str]:
    """Return the split of each task that a data set's eval.yaml names, by the task's id; {}: it is no benchmark, is not
    there, or not for this login.

    Raises:
        HubUnavailable: the Hub can't be reached.
    """
    with connect(data_set, token, f"reading {FILE}") as client:

        def read() -> str:
            found = client.api.get_paths_info(data_set, FILE, repo_type="dataset")
            if not found or getattr(found[0], "size", MAX_JSON_BYTES) >= MAX_JSON_BYTES:
                return ""
            return Path(client.api.hf_hub_download(data_set, FILE, repo_type="dataset")).read_text("utf-8")

        try:
            benchmark = _Benchmark.model_validate(yaml.safe_load(client.retrying(read)))
        except HubUnavailable:
            raise
        except (HubError, ValidationError, yaml.YAMLError):  # nobody's leaderboard: figures have their place in the card
            return {}
    return {task.id: task.split for task in benchmark.tasks}
