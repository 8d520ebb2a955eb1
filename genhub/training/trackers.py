"""The trackers that take more than numbers, and what each of them is called with: pictures, films, sounds, tables and the
recipe. All that lies in a run's folder already: a tracker is given files, so that what it shows is what is there.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import sys
import wave
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from genhub.ground.console import say
from genhub.ground.disk import whole, write_whole
from genhub.ground.extras import import_extra
from genhub.store.run_folder import RECIPE, RunFolder

PREVIEW, SOUND, FILM, TABLE, TEXT = "preview", "sounds/{}", "film", "figures", "recipe"
"""Names under which a tracker has a run's pictures, its sounds, its film, its figures and its recipe."""
COLUMNS = ("step", "figure", "value", "low", "high")
"""Columns of the table of figures; the last two are the ends of an interval."""
Figures = Sequence[tuple[int, str, float, float | None, float | None]]
"""Rows of that table."""
Config = Mapping[str, bool | int | float | str | None]
"""A recipe's keys by their dotted path."""


class AnyTracker:
    """A tracker of which nothing is known but what accelerate knows: it gets numbers and the config."""

    def __init__(self, files: RunFolder, start: int) -> None:
        """
        Args:
            files: the run's folder, of which the tracker is named.
            start: how many steps the run has done.
        """
        self.files, self.start = files, start
        self.own: Any = None
        """Accelerate's tracker, once it has started."""

    @property
    def first(self) -> int:
        """First step that has to be given again when a stopped run goes on, up to `start`; a later one: none."""
        return self.start + 1

    def options(self, config: Config) -> dict[str, Any]:
        """Return what accelerate starts it with, having made room for what is given again."""
        return {}

    def starting(self) -> contextlib.AbstractContextManager[Any]:
        """Return what must be in force while it starts."""
        return contextlib.nullcontext()

    def begin(self, config: Config, recipe: str) -> None:
        """Give it the recipe: its keys, and its text."""
        self.own.store_init_configuration(config)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self.own.log(values, step=step)

    def picture(self, file: Path, step: int) -> None:
        """Give it a PNG."""

    def sounds(self, files: Sequence[Path], step: int) -> None:
        """Give it WAV files."""

    def film(self, file: Path, step: int) -> None:
        """Give it a GIF."""

    def table(self, rows: Figures, step: int) -> None:
        """Give it all figures up to a step."""

    def finish(self) -> None:
        self.own.finish()


class TensorBoardTracker(AnyTracker):
    """TensorBoard's event files, in a folder of the project's name."""

    @property
    def first(self) -> int:
        return self.start

    def options(self, config: Config) -> dict[str, Any]:
        for file in self.files.logs.rglob("events.out.tfevents.*"):
            cut_events(file, self.first)
        return {"purge_step": self.first}  # tells a TensorBoard that is open

    def begin(self, config: Config, recipe: str) -> None:
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(dict(config), {}):  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(summary, self.start)  # `add_hparams` would make a run of its own of them
        self._writer.add_text(TEXT, "\n".join(f"    {line}" for line in recipe.splitlines()), self.start)
        self._writer.flush()

    def picture(self, file: Path, step: int) -> None:
        self._add_image(PREVIEW, file, step)

    def film(self, file: Path, step: int) -> None:
        self._add_image(FILM, file, step)  # its pictures are shown by a browser, which plays a GIF

    def sounds(self, files: Sequence[Path], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for number, file in enumerate(files):
            content = file.read_bytes()
            with wave.open(io.BytesIO(content)) as sound:
                heard = Summary.Audio(
                    sample_rate=sound.getframerate(), num_channels=sound.getnchannels(), length_frames=sound.getnframes(),
                    encoded_audio_string=content, content_type="audio/wav",
                )  # fmt: skip
            self._add(Summary.Value(tag=SOUND.format(number), audio=heard), step)

    def table(self, rows: Figures, step: int) -> None:
        shown = [[f"{cell:.6g}" if isinstance(cell, float) else str(cell or "") for cell in row] for row in rows]
        lines = ["|".join(row) for row in [list(COLUMNS), ["---"] * len(COLUMNS), *shown]]
        self._writer.add_text(TABLE, "\n".join(f"|{line}|" for line in lines), step)  # texts are Markdown there
        self._writer.flush()

    @property
    def _writer(self) -> Any:
        return self.own.writer

    def _add_image(self, name: str, file: Path, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(file) as picture:
            width, height = picture.size
            bands = len(picture.getbands())
        shown = Summary.Image(width=width, height=height, colorspace=bands, encoded_image_string=file.read_bytes())
        self._add(Summary.Value(tag=name, image=shown), step)

    def _add(self, value: Any, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._writer.file_writer.add_summary(Summary(value=[value]), step)
        self._writer.flush()


class WandBTracker(AnyTracker):
    """Weights & Biases, offline unless WANDB_MODE says otherwise: `wandb sync` sends a finished run. What is offline can't
    be taken back to a step, so that a stopped run is written once more; a server takes no step twice."""

    @property
    def first(self) -> int:
        return 0 if self._offline else self.start + 1

    @property
    def _offline(self) -> bool:
        return self._mode in ("offline", "dryrun")  # the second is an old name

    @property
    def _mode(self) -> str:
        return os.environ.get("WANDB_MODE") or "offline"

    @property
    def _folder(self) -> Path:
        return self.files.logs / "wandb"

    def options(self, config: Config) -> dict[str, Any]:
        wandb = import_extra("wandb", "wandb", "trainer.trackers")
        if wandb.run is not None:  # an error has left it open
            wandb.run.finish()
        before = [folder.name.rpartition("-")[2] for folder in sorted(self._folder.glob("*run-*-*"))]
        number = os.environ.get("WANDB_RUN_ID") or (before[-1] if before else secrets.token_hex(4))
        self._folder.mkdir(parents=True, exist_ok=True)
        known = {"name": self.files.path.name, "dir": str(self.files.logs), "id": number, "mode": self._mode}
        if not self._offline:
            return known | {"resume": "allow"}
        for folder in self._folder.glob(f"offline-run-*-{number}"):
            shutil.rmtree(folder)
        return known

    def starting(self) -> contextlib.AbstractContextManager[Any]:
        return self._at_home()

    def _at_home(self) -> contextlib.AbstractContextManager[Any]:
        """Have wandb keep its cache, and the files of tables on their way, in the run's folder."""
        return environment(WANDB_CACHE_DIR=str(self._folder / "cache"), WANDB_DATA_DIR=str(self._folder / "data"))

    def begin(self, config: Config, recipe: str) -> None:
        self.own.store_init_configuration(config)
        copy = Path(self._run.dir, RECIPE)
        if copy.parent.is_dir():  # WANDB_MODE=disabled has none
            write_whole(copy, recipe)
            self._run.save(str(copy), base_path=self._run.dir, policy="now", glob=False)

    def picture(self, file: Path, step: int) -> None:
        import wandb

        self._run.log({PREVIEW: wandb.Image(str(file))}, step=step)

    def sounds(self, files: Sequence[Path], step: int) -> None:
        import wandb

        self._run.log({SOUND.format(number): wandb.Audio(str(file)) for number, file in enumerate(files)}, step=step)

    def film(self, file: Path, step: int) -> None:
        import wandb

        self._run.log({FILM: wandb.Video(str(file), format="gif")}, step=step)

    def table(self, rows: Figures, step: int) -> None:
        import wandb

        with self._at_home():
            self._run.log({TABLE: wandb.Table(columns=list(COLUMNS), data=[list(row) for row in rows])}, step=step)

    @property
    def _run(self) -> Any:
        return self.own.run


class TrackioTracker(AnyTracker):
    """Trackio, in the run's folder unless TRACKIO_DIR, a Space or a server say otherwise. Rows can't be taken from it by
    step, so that a stopped run is written once more; of a Space or a server, nothing is deleted."""

    @property
    def first(self) -> int:
        return self.start + 1 if self._remote else 0

    @property
    def _remote(self) -> bool:
        return any(os.environ.get(name) for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"))

    @property
    def _folder(self) -> Path:
        return self.files.logs / "trackio"

    def options(self, config: Config) -> dict[str, Any]:
        with environment(TRACKIO_DIR=str(self._folder)):
            trackio = import_extra("trackio", "trackio", "trainer.trackers")
        with contextlib.suppress(RuntimeError), self.starting():
            trackio.finish()  # where an error has left one open
        name = self.files.path.name
        if self._remote:
            return {"name": name, "config": dict(config), "embed": False, "resume": "allow"}
        if os.environ.get("TRACKIO_DIR"):
            for run in trackio.Api().runs(self.files.project):
                if run.name == name:
                    run.delete()
        else:
            shutil.rmtree(self._folder, ignore_errors=True)
            move_trackio(self._folder)
            say(f"Trackio  TRACKIO_DIR={self._folder} trackio show --project {self.files.project}")
        return {"name": name, "config": dict(config), "embed": False}

    def starting(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.redirect_stdout(io.StringIO())  # it tells a command that doesn't know the folder

    def begin(self, config: Config, recipe: str) -> None:  # the config is among its options: `update` would add a key
        import trackio

        self.own.run.log({TEXT: trackio.Markdown(f"```yaml\n{recipe}\n```")}, step=self.first)

    def picture(self, file: Path, step: int) -> None:
        import trackio

        self.own.run.log({PREVIEW: trackio.Image(file)}, step=step)

    def sounds(self, files: Sequence[Path], step: int) -> None:
        import trackio

        self.own.run.log({SOUND.format(number): trackio.Audio(file) for number, file in enumerate(files)}, step=step)

    def film(self, file: Path, step: int) -> None:
        import trackio

        self.own.run.log({FILM: trackio.Video(file)}, step=step)

    def table(self, rows: Figures, step: int) -> None:
        import trackio

        self.own.run.log({TABLE: trackio.Table(columns=list(COLUMNS), data=[list(row) for row in rows])}, step=step)

    def finish(self) -> None:
        with self.starting():
            self.own.finish()


KINDS: Mapping[str, type[AnyTracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandBTracker,
    "trackio": TrackioTracker,
}
"""By accelerate's name, the trackers that get more than numbers and the config."""


def cut_events(file: Path, first: int) -> None:
    """Take the events from a step on, and what is damaged, from a file of TensorBoard's."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    with whole(file) as temporary, temporary.open("wb") as stream:
        writer = RecordWriter(stream)
        for content in RawEventFileLoader(str(file)).Load():
            if Event.FromString(content).step < first:
                writer.write(content)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables that are not set yet, for as long as it takes."""
    ours = {name: value for name, value in values.items() if not os.environ.get(name)}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def move_trackio(folder: Path) -> None:
    """Have trackio, which reads TRACKIO_DIR once a process, keep what comes now in a folder."""
    places = {"TRACKIO_DIR": folder, "MEDIA_DIR": folder / "media", "ARTIFACTS_DIR": folder / "artifacts"}
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "trackio"]:
        for name, place in places.items():
            if name in vars(module):
                setattr(module, name, place)
