"""A run's folder: where each thing lies in it, and which checkpoint is whole while the run may be deleting them. No torch
here. No other module of genhub spells the names that are in such a folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path

from genhub.errors import CheckpointError, NewerFormat
from genhub.ground.brief import Brief
from genhub.ground.disk import LOCK, OWNER, check_files, remove_leftovers
from genhub.store.manifest import MANIFEST, Manifest, read_manifest

RECIPE = "recipe.yaml"
"""Name of the recipe, in a run's folder and in each of its checkpoints."""
CHECKPOINTS, PREVIEWS, STEP = "checkpoints", "samples", "step-"
EVALUATIONS = "evaluations"
"""Name of a folder of figures and the images they were computed from: a run's own, or those in the cache."""
ANY_STEP = f"{STEP}*"
"""Pattern of what `step_name` returns."""


@dataclass(frozen=True, repr=False)
class RunFolder(Brief):
    """The folder of a run that has been trained, is, or will be."""

    path: Path

    @classmethod
    def of(cls, checkpoint: Path) -> RunFolder | None:
        """Return the run that a checkpoint belongs to; None for a folder that lies elsewhere."""
        return cls(checkpoint.parent.parent) if checkpoint.parent.name == CHECKPOINTS else None

    def __str__(self) -> str:
        return str(self.path)

    # Files

    @property
    def recipe(self) -> Path:
        """The recipe that the run was started with; see `whole_recipe`."""
        return self.path / RECIPE

    @property
    def metrics(self) -> Path:
        """The log: a line of JSON each time that something was logged or measured."""
        return self.path / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        """The folder for what trackers write, such as TensorBoard's."""
        return self.path / "logs"

    @property
    def project(self) -> str:
        """Name of the folder that holds the run and those beside it, under which a tracker shows them together."""
        return self.path.resolve().parent.name or self.path.name

    @property
    def evaluations(self) -> Path:
        """The folder with figures of the checkpoints, and the images drawn for them."""
        return self.path / EVALUATIONS

    @property
    def encoders(self) -> Path:
        """The folder of conditions' frozen encoders, to which all checkpoints link."""
        return self.path / ".encoders"

    @property
    def found_batch_size(self) -> Path:
        """The file with the number of images that fit into memory at once, which `trainer.find_batch_size` has found."""
        return self.path / "find_batch_size.json"

    @property
    def found_steps(self) -> Path:
        """The file with the number of steps that fit into `trainer.max_time`."""
        return self.path / "max_time.json"

    @property
    def stage(self) -> Path:
        """The folder for checkpoints that are being pushed to the Hub, or wait for it."""
        return self.path / ".publishing"

    @property
    def lock(self) -> Path:
        """The file that the process which trains here holds."""
        return self.path / LOCK

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step, whether it is there or not."""
        return self.path / CHECKPOINTS / step_name(step)

    def preview(self, step: int) -> Path:
        """Return the file of the picture of a step, whether it is there or not."""
        return self.path / PREVIEWS / f"{step_name(step)}.png"

    def sound(self, step: int, number: int) -> Path:
        """Return the file of a sound of a step, the first being number 0, whether it is there or not."""
        return self.path / PREVIEWS / f"{step_name(step)}-{number}.wav"

    @property
    def film(self) -> Path:
        """The pictures one after another, which trackers get at the end."""
        return self.logs / "film.gif"

    # What is there

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints, newest first; unfinished ones have other names."""
        found = [path for path in (self.path / CHECKPOINTS).glob(ANY_STEP) if _is_step(path.name)]
        return sorted(found, key=step_of, reverse=True)

    def previews(self) -> list[Path]:
        """Return the pictures in the order of their steps."""
        found = [file for file in (self.path / PREVIEWS).glob(f"{ANY_STEP}.png") if _is_step(file.stem)]
        return sorted(found, key=step_of)

    def sounds(self, step: int) -> list[Path]:
        """Return the sounds of a step, in their order."""
        return list(takewhile(Path.is_file, (self.sound(step, number) for number in count())))

    def newest_whole(self) -> tuple[Path | None, list[str]]:
        """Return the newest whole checkpoint, if there is any, and what is wrong with each newer one.

        Raises:
            CheckpointError: there are checkpoints, and none is whole.
            NewerFormat: a newer genhub wrote the newest: going back would lose steps that nothing is wrong with.
        """
        faults: list[str] = []
        for folder in self.checkpoints():
            try:
                check_files(folder)
                manifest = read_manifest(folder)
                manifest.verify(folder)
                if manifest.step != step_of(folder):
                    raise CheckpointError(f"{folder}: holds step {manifest.step}")
                return folder, faults
            except NewerFormat:
                raise
            except (CheckpointError, OSError) as error:
                if not folder.is_dir():  # deleted meanwhile, by a run that has made a newer one
                    return self.newest_whole()
                if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                    raise  # it can't be read now, which says nothing of what it holds
                faults.append(str(error))
        if faults:
            raise CheckpointError(f"{self}: no checkpoint is whole: {'; '.join(faults)}")
        return None, []

    def is_run(self) -> bool:
        """Whether genhub trained here. A recipe.yaml alone is anybody's: a plugin's folder has one."""
        checkpoints = self.checkpoints()
        if any((checkpoint / MANIFEST).is_file() for checkpoint in checkpoints):
            return True
        begun = self.recipe.is_file() or self.found_steps.is_file()  # which is found before the recipe is written
        return begun and (self.lock.is_file() or bool(checkpoints))

    def whole_recipe(self) -> Path:
        """Return recipe.yaml; where that is lost, or empty after a power cut, the copy in the newest checkpoint."""
        if self.recipe.is_file() and self.recipe.read_bytes().strip(b"\0 \t\r\n"):
            return self.recipe
        return next(self.recipe_copies(), self.recipe)

    def recipe_copies(self) -> Iterator[Path]:
        """Yield the whole copies of the recipe in the checkpoints, newest first."""
        for folder in self.checkpoints():
            with suppress(CheckpointError, OSError):
                listed = read_manifest(folder).files
                if RECIPE in listed:
                    Manifest.verify_files({RECIPE: listed[RECIPE]}, folder)
                    yield folder / RECIPE

    def check_files(self) -> None:
        """Check that what genhub reads and writes here may be opened; other programs may keep theirs beside it. See
        `genhub.ground.disk.check_files`.

        Raises:
            CheckpointError: something is neither a file nor a folder, or a link that leads out of this one.
        """
        found = (self.found_batch_size, self.found_steps)
        files = (self.recipe, self.metrics, *found, self.evaluations, self.stage, self.encoders, self.lock)
        names = [file.name for file in files]
        check_files(self.path, *names, CHECKPOINTS, PREVIEWS, OWNER)

    def remove_leftovers(self) -> None:
        """Delete what processes left that were killed while they wrote here."""
        for leftover in (self.path / CHECKPOINTS).glob(f".{ANY_STEP}"):
            shutil.rmtree(leftover)
        for folder in (self.path, self.path / PREVIEWS):
            remove_leftovers(folder)


def step_name(step: int) -> str:
    """Return what a run calls the things of a step, such as step-000500."""
    return f"{STEP}{step:06d}"


def step_of(path: Path) -> int:
    """Return how many steps a run had done, from the name of a checkpoint or a preview."""
    return int(path.stem.removeprefix(STEP))


def _is_step(name: str) -> bool:
    return name.removeprefix(STEP).isdecimal()
