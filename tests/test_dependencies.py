"""Uses of dependencies beyond their documented interfaces, each with a test; and all that is imported is declared.

Each test says what has changed and where genhub counts on it.
"""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import os
import sys
import tomllib
from datetime import timedelta
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import nn

from genhub.ground.forks import can_fork
from genhub.ground.processes import first_to_say
from genhub.ground.randomness import Between

ROOT = Path(__file__).parent.parent
OWN = {"genhub", *(f"genhub_{name}" for name in ("ar", "ddpm", "ebm", "flow", "gan", "networks", "nf", "vae"))}


def imported() -> dict[str, str]:
    """The packages that genhub's own files import, each with a file that does."""
    found: dict[str, str] = {}
    files = [*ROOT.glob("genhub/**/*.py"), *ROOT.glob("plugins/**/*.py")]
    for file in files:
        if "templates" in file.parts:  # the files of a plugin to be
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            found |= {name.partition(".")[0]: str(file.relative_to(ROOT)) for name in names}
    return {name: file for name, file in found.items() if name not in OWN | sys.stdlib_module_names}


def test_everything_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    packages = imported()
    assert {"torch", "httpx2", "pyarrow", "pydantic_core", "yaml"} <= packages.keys()
    distributions = packages_distributions()
    undeclared = {
        name: file
        for name, file in packages.items()
        if not declared & {canonicalize_name(each) for each in distributions.get(name, [name])}
    }
    assert not undeclared, f"imported, but not in pyproject.toml: {undeclared}"


def test_accelerate_can_change_its_precision_in_one_process() -> None:
    """`AcceleratorState._reset_state`, in training/loop.py: a process trains twice."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    for precision in ("no", "bf16"):
        assert Accelerator(cpu=True, mixed_precision=precision).mixed_precision == precision
        AcceleratorState._reset_state()


def test_accelerates_processes_may_be_asked_for_twice() -> None:
    """`PartialState(cpu=..., timeout=...)`, in ground/processes.py: where they have met, nothing is set up again."""
    from accelerate import PartialState

    first = PartialState(cpu=True)
    second = PartialState(cpu=False, timeout=timedelta(days=30))
    assert vars(first) == vars(second), "PartialState no longer keeps what it was first asked for"


def test_compiled_networks_can_be_told_to_look_at_all_parameters() -> None:
    """`skip_tensor_guards_with_matching_dict_tags`, in training/networks.py: set while a run trains, and not after it."""
    import torch._dynamo

    config = torch._dynamo.config
    before = config.skip_tensor_guards_with_matching_dict_tags
    assert before, "torch looks at all parameters by itself now: Networks.guards can go"
    with config.patch(skip_tensor_guards_with_matching_dict_tags=False):
        assert not config.skip_tensor_guards_with_matching_dict_tags
    assert config.skip_tensor_guards_with_matching_dict_tags == before


def test_torchs_launcher_takes_what_it_is_given(tmp_path: Path) -> None:
    """`genhub.cli.launch`, and in ground/processes.py TORCHELASTIC_ERROR_FILE, which leads to a folder that the processes of
    a launch share."""
    from torch.distributed.elastic.multiprocessing import api
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    taken = inspect.signature(LaunchConfig).parameters
    given = "min_nodes max_nodes nproc_per_node run_id rdzv_backend rdzv_endpoint max_restarts logs_specs"
    assert set(given.split()) <= taken.keys()
    assert list(inspect.signature(elastic_launch).parameters)[:2] == ["config", "entrypoint"]
    assert hasattr(ChildFailedError, "get_first_failure")
    assert hasattr(ProcessFailure, "signal_name")
    assert "sigval" in inspect.signature(api.SignalException).parameters
    logs = api.DefaultLogsSpecs(log_dir=str(tmp_path))
    envs = {rank: {"TORCHELASTIC_RUN_ID": "genhub", "TORCHELASTIC_RESTART_COUNT": "0"} for rank in (0, 1)}
    files = logs.reify(envs).error_files
    assert [envs[rank].get("TORCHELASTIC_ERROR_FILE") for rank in (0, 1)] == [files[0], files[1]], "it is called otherwise"
    assert Path(files[0]).parents[1] == Path(files[1]).parents[1]
    assert Path(files[0]).parent != Path(files[1]).parent


def test_a_thing_is_said_once_a_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / str(rank) / "error.json"))
        said.append(first_to_say("gone wrong"))
    assert said == [True, False]


def _member(rank: int, meeting: str, errors: multiprocessing.SimpleQueue[str]) -> None:
    store = torch.distributed.FileStore(meeting, 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.distributed.barrier()
    if rank == 1:
        os._exit(0)  # without a farewell
    try:
        for _ in range(100):
            torch.distributed.all_reduce(torch.ones(1))
    except Exception as error:
        known = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        errors.put("" if known else repr(error))
    os._exit(0)


@pytest.mark.skipif(not can_fork(), reason="forks")
def test_a_process_that_ended_is_known_by_what_gloo_says(tmp_path: Path) -> None:
    """`_run`, in cli/__init__.py: DistError, or an error that names gloo."""
    context = multiprocessing.get_context("fork")
    errors = context.SimpleQueue()
    jobs = [context.Process(target=_member, args=(rank, str(tmp_path / "meeting"), errors)) for rank in (0, 1)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert not errors.empty(), "nothing was raised when another process had ended"
    assert errors.get() == "", "torch says otherwise now that another process has ended"


def test_the_hubs_client_says_what_is_looked_for() -> None:
    """`_wait` and `Client._in_words`, in hub/client.py."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _xet

    assert "Consistency check failed" in inspect.getsource(file_download), "a short download is no longer called so"
    assert "xet-{token_type.value}-token" in inspect.getsource(_xet), (
        "a Hub without Xet is no longer asked for a xet-write-token"
    )


def test_the_hubs_client_reads_the_refs_that_genhub_writes(tmp_path: Path) -> None:
    """`Repository.fetch_weights`, in hub/repository.py: files are fetched by their commit, which leaves no ref for the branch;
    and `open_repository` looks for one when the Hub is away."""
    from huggingface_hub import try_to_load_from_cache

    commit = "a" * 40
    for name, content in [("refs/main", commit), (f"snapshots/{commit}/genhub.json", "{}")]:
        file = tmp_path / "models--user--name" / name
        file.parent.mkdir(parents=True)
        file.write_text(content)
    found = try_to_load_from_cache("user/name", "genhub.json", cache_dir=tmp_path, revision="main")
    assert found == str(file), "huggingface_hub's cache is laid out otherwise"


def test_a_generator_may_have_a_class_of_its_own() -> None:
    """`Between`, in ground/randomness.py: whatever takes a torch.Generator takes it, and draws its own noise from it."""
    from diffusers.utils.torch_utils import randn_tensor

    ends = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    made = Between(*ends, 0.5, seed=3)
    own = torch.randn(4, generator=torch.Generator().manual_seed(3))
    assert isinstance(made, torch.Generator)
    assert torch.equal(torch.randn(4, generator=made), own)
    made.manual_seed(3)
    assert torch.equal(randn_tensor((1, 4), generator=[made])[0], own)


def test_datasets_waits_at_the_end_of_a_stream_as_long_as_it_is_told() -> None:
    """`_stream`, in data/sources.py."""
    from datasets import config, iterable_dataset

    name = "SLEEP_TIME_ON_THREADS_SHUTDOWN"
    assert hasattr(config, name), "the key has gone: is there still a wait?"
    assert f"config.{name}" in inspect.getsource(iterable_dataset)


def test_a_move_makes_new_buffers() -> None:
    """`Module._apply`, in testing/subject.py."""
    model = nn.BatchNorm1d(2)
    before = dict(model.named_buffers())
    model._apply(torch.clone)
    assert all(buffer is not before[name] for name, buffer in model.named_buffers())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_full_memory_is_known_by_what_torch_says() -> None:
    """`out_of_memory`, in sampling/draw.py."""
    from genhub.sampling.draw import out_of_memory

    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(raised.value), f"torch says otherwise now: {raised.value}"
