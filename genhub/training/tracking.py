"""A run's trackers: what is measured, drawn and heard goes to all of them, and again where a stopped run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from PIL import Image

from genhub.errors import GenhubError, RecipeError
from genhub.ground.disk import saving, whole
from genhub.ground.parsing import flattened, yaml_line
from genhub.ground.run_log import read_metrics
from genhub.interfaces.trainer import Run
from genhub.store.run_folder import RunFolder, step_of
from genhub.training.trackers import KINDS, AnyTracker

FRAMES, FRAME = 100, 200
"""Most pictures in a film, and how many milliseconds each is seen."""


class Tracking:
    """The trackers of a run, in each of its processes: the first one has them. What they write lies in the run's `logs/`.

    A stopped run goes on in the same run of a tracker, with each step once. What a tracker got after the checkpoint is taken
    from it; what it may have lost in the stop, it is given again from the run's folder.
    """

    def __init__(self, accelerator: Accelerator, run: Run, names: Sequence[str], start: int) -> None:
        """
        Args:
            names: accelerate's names of the trackers.
            start: how many steps the run has done.
        Raises:
            RecipeError: a tracker can't start.
        """
        self._run, self._files = run, RunFolder(run.folder)
        self._trackers: list[AnyTracker] = []
        if not names:
            return
        main = accelerator.is_main_process
        trackers = {name: KINDS.get(name, AnyTracker)(self._files, start) for name in names} if main else {}
        text = _recipe(self._files) if main else ""
        config = {key: _plain(value) for key, value in flattened(yaml.safe_load(text))} if text else {}
        with saving(self._files.logs), _starting(names), ExitStack() as stack:
            options = {name: tracker.options(config) for name, tracker in trackers.items()}
            for tracker in trackers.values():
                stack.enter_context(tracker.starting())
            accelerator.init_trackers(self._files.project, init_kwargs=options)
        own = {tracker.name: tracker for tracker in accelerator.trackers}
        self._trackers += trackers.values()
        with saving(self._files.logs):
            for name, tracker in trackers.items():
                tracker.own = own[name]
                tracker.begin(config, text)
                self._give_again(tracker, start)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Give trackers a line of metrics.jsonl."""
        with saving(self._files.logs):
            for tracker in self._trackers:
                tracker.numbers(values, step)

    def preview(self, step: int) -> None:
        """Give trackers the picture and the sounds of a step, if there are any."""
        with saving(self._files.logs):
            for tracker in self._trackers:
                self._give_preview(tracker, step)

    def evaluation(self, values: Mapping[str, float], step: int) -> None:
        """Give trackers what was measured at a step, as numbers and in the table of all figures up to it."""
        self.numbers(values, step)
        with saving(self._files.logs):
            for tracker in self._trackers:
                tracker.table(self._run.measured(step), step)

    def finish(self, trained: int | None) -> None:
        """Let go of the trackers.

        Args:
            trained: the run's last step, if it has been trained to its end: then they get the film of its previews.
        """
        with saving(self._files.logs):
            film = self._film() if self._trackers and trained is not None else None
            for tracker in self._trackers:
                if film is not None and trained is not None:
                    tracker.film(film, trained)
                tracker.finish()

    def _give_again(self, tracker: AnyTracker, start: int) -> None:
        """Give a tracker the steps that it has lost or never had, up to where a stopped run goes on."""
        if tracker.first > start:
            return
        lines = dict[int, list[dict[str, float]]]()
        for line in read_metrics(self._files.metrics)[0]:
            lines.setdefault(int(line.pop("step")), []).append(line)
        figures = self._run.measured(start)
        steps = lines.keys() | {step_of(file) for file in self._files.previews()}
        for step in sorted(step for step in steps if tracker.first <= step <= start):
            for line in lines.get(step, []):
                tracker.numbers(line, step)
            self._give_preview(tracker, step)
            if any(row[0] == step for row in figures):
                tracker.table([row for row in figures if row[0] <= step], step)

    def _give_preview(self, tracker: AnyTracker, step: int) -> None:
        picture, sounds = self._files.preview(step), self._files.sounds(step)
        if _picture(picture):
            tracker.picture(picture, step)
        if sounds:
            tracker.sounds(sounds, step)

    def _film(self) -> Path | None:
        """Return a GIF of the previews, one after another, at most FRAMES of them; None: there are fewer than two. Any model
        has such a film, and it costs no drawing."""
        files = self._files.previews()
        each = max(1, -(-len(files) // FRAMES))
        frames = [frame for frame in map(_picture, files[::-1][::each][::-1]) if frame]  # the last one is among them
        frames = [_in_few_colours(frame) for frame in frames if frame.size == frames[-1].size]
        if len(frames) < 2:
            return None
        film = self._files.film
        film.parent.mkdir(exist_ok=True)
        with whole(film) as temporary:
            frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=FRAME, loop=0)
        return film


def _picture(file: Path) -> Image.Image | None:
    """Return a preview; None: there is none, or it is damaged."""
    try:
        with Image.open(file) as picture:
            return picture.convert("RGB")
    except OSError:
        return None


def _in_few_colours(picture: Image.Image) -> Image.Image:
    """Return a picture as a GIF can have it: grey as it is, colours as 256 of them. Those that PIL would choose take half a
    second a picture."""
    grey = picture.convert("L")
    return grey if grey.convert("RGB") == picture else picture.quantize(method=Image.Quantize.FASTOCTREE)


def _recipe(files: RunFolder) -> str:
    """Return the text of a run's recipe, with all its keys; "" where the run has none."""
    recipe = files.whole_recipe()
    return recipe.read_text(encoding="utf-8") if recipe.is_file() else ""


def _plain(value: Any) -> bool | int | float | str | None:
    """Return a recipe's value as trackers take it: a list as a line of YAML."""
    return value if value is None or isinstance(value, bool | int | float | str) else yaml_line(value)


@contextmanager
def _starting(names: Sequence[str]) -> Iterator[None]:
    """Raise what keeps a tracker from starting, such as a name or a key that it doesn't take, as an error of one line."""
    try:
        yield
    except (OSError, GenhubError):
        raise
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        raise RecipeError(f"trainer.trackers: {', '.join(names)} can't start: {message:.300}") from error
