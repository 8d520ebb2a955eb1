"""Checks through the real trainer, in real processes: of what a checkpoint holds, and of runs that are resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from genhub.store.run_folder import RunFolder
from genhub.testing.report import Broken
from genhub.testing.subject import STOPPED_AT, ModelSubject

SAFE = {".json", ".safetensors", ".yaml", ".md", ".png"}
LIMIT_S = 600


class TrainedSubject(ModelSubject):
    """A model whose checks start other processes: all of them once, when the first result is asked for."""

    @cached_property
    def runs(self) -> dict[str, str]:
        """Message of each failed job of `genhub.testing.worker` in `folder`, "" where none failed."""
        self.original.eval().save_pretrained(self.folder / "saved")
        content = self.recipe.dump()
        if self.made_up is not None:  # its modalities come with a model's folder, and are not learnt again
            self.build().save_pretrained(self.folder / "start")
            content["model"]["from"] = str(self.folder / "start")
        (self.folder / "recipe.json").write_text(json.dumps(content))
        threads = str(torch.get_num_threads())  # the same number everywhere: sums round as they are split
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
        }
        command = [sys.executable, "-P", "-m", "genhub.testing.worker", str(self.folder), *self.modules]
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise Broken(f"the checks' other processes took more than {LIMIT_S} s", "make the Config smaller") from error
        results = self.folder / "results.json"
        if not results.exists():
            raise Broken(
                f"another process failed before it began: {last_line(done.stderr)}",
                "make the module importable without side effects",
                self.cls,
            )
        found: dict[str, str] = json.loads(results.read_text())
        return found

    @property
    def modules(self) -> list[str]:
        """The modules of the columns' modalities, which nobody need have registered."""
        return sorted({type(modality).__module__ for modality in self.data.spec.columns.values()})

    def expect(self, *jobs: str, at: Any = None) -> None:
        for job in jobs:
            if self.runs[job]:
                raise Broken(f"{JOBS[job]}: {self.runs[job]}", at=at)


JOBS = {
    "whole": "a run of a few steps fails",
    "stopped": "a run of a few steps fails",
    "resumed": "going on after a stop fails",
    "loaded": "a saved model fails in another process",
    "together": "a run on two processes fails",
}


def checkpoint(subject: TrainedSubject) -> None:
    """A model that was saved, loaded in another process and sampled draws the same bits as the one in memory."""
    subject.expect("loaded", at=type(subject.original).save_networks)
    theirs = load_file(subject.folder / "loaded.safetensors")["drawn"]
    if not torch.equal(subject.draw(subject.original, 3), theirs):
        raise Broken(
            "the model that came back draws something else",
            "keep all that sample needs in parameters or persistent buffers (nn.Buffer), and all of them in what "
            "save_networks writes",
            type(subject.original).sample,
        )


def files(subject: TrainedSubject) -> None:
    """A checkpoint is made of JSON, safetensors, YAML, Markdown and PNG files: nothing that loading would execute."""
    subject.expect("whole")
    for folder in (subject.folder / "saved", newest(subject.folder / "whole")):
        for file in (path for path in folder.rglob("*") if path.is_file()):
            name, at = file.relative_to(folder).as_posix(), type(subject.original).save_networks
            if file.suffix not in SAFE:
                raise Broken(
                    f"a checkpoint has a file {name}",
                    f"write tensors by genhub.save_tensors, facts as JSON; what may be there: {', '.join(sorted(SAFE))}",
                    at,
                )
            if file.suffix == ".safetensors":
                try:
                    with safe_open(file, "pt"):
                        pass
                except SafetensorError as error:
                    raise Broken(
                        f"{name} is no safetensors file ({error})", "write it by genhub.save_tensors", at
                    ) from error


def resume(subject: TrainedSubject) -> None:
    """A run that was stopped and went on, in another process, ends with the same bits as one that was not."""
    subject.expect("whole", "stopped", "resumed")
    whole, parts = newest(subject.folder / "whole"), newest(subject.folder / "parts")
    for file in sorted(whole.rglob("*.safetensors")):
        ours, theirs = load_file(file), load_file(parts / file.relative_to(whole))
        for name in sorted(ours):
            if not torch.equal(ours[name], theirs[name]):
                raise Broken(
                    f"stopped after step {STOPPED_AT} and resumed, {file.relative_to(whole).as_posix()}: {name} differs",
                    "keep what a loss remembers in persistent buffers (nn.Buffer), not in attributes, and draw from torch's "
                    "random numbers, not NumPy's or Python's",
                    next(iter(subject.build().phases())).loss,
                )


def processes(subject: TrainedSubject) -> None:
    """Two processes that train together have the same weights at the end."""
    subject.expect("together")
    ours, theirs = (load_file(subject.folder / f"rank-{rank}.safetensors") for rank in (0, 1))
    for name in sorted(ours):
        if not torch.equal(ours[name], theirs[name]):
            raise Broken(
                f"trained on two processes, {name} differs between them",
                "change weights through gradients alone, which the processes average: a loss sees its own part of the batch",
                next(iter(subject.build().phases())).loss,
            )


def newest(run: Path) -> Path:
    return RunFolder(run).checkpoints()[0]


def last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
