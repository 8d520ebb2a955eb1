"""Files and folders that appear whole or not at all, the lock of a run's folder, and the cache. No torch here."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from genhub.errors import CheckpointError, GenhubError, RecipeError

LOCK, OWNER = ".lock", ".owner"
"""The file whose lock a running run holds, and the one that says who it is: a locked file can't be read on every system."""

RUN = ("recipe.yaml", ".recipe.yaml.tmp", "metrics.jsonl", ".metrics.jsonl.tmp", "find_batch_size.json", "checkpoints",
       "samples", "evaluations", ".publishing", LOCK, OWNER)  # fmt: skip
"""What genhub reads and writes in a run's folder; other programs may keep theirs beside it."""


def check_files(folder: Path, *names: str) -> None:
    """Look through a folder that may be a stranger's, or these entries of it, before anything there is opened: a pipe would
    be waited for, and a link could lead to what is nobody else's business.

    Raises:
        CheckpointError: something is neither a file nor a folder, or a link that leads out of this one.
    """
    home = folder.resolve()
    if home.parent.name == "snapshots" and home.parents[1].name.startswith("models--"):
        home = home.parents[1]  # the Hub's cache: its links lead to the files of all commits
    starts = [folder / name for name in names]
    below = (Path(at, name) for start in starts or [folder] for at, *inside in os.walk(start) for name in chain(*inside))
    for path in chain(starts, below):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
            raise CheckpointError(f"{path}: is a link that leads out of {folder}; put there what it leads to")
        if os.path.lexists(path) and not path.is_file() and not path.is_dir():
            raise CheckpointError(f"{path}: is neither a file nor a folder; take it away")


@contextlib.contextmanager
def saving(path: Path, size: int | None = None) -> Iterator[None]:
    """What the disk refuses is told with the path and, where it is known, the bytes that it takes.

    Raises:
        GenhubError: it can't be saved.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        there = next(folder for folder in path.absolute().parents if folder.is_dir())
        room = f"; it takes {size:,} bytes, and the disk has {shutil.disk_usage(there).free:,}" if size is not None else ""
        raise GenhubError(f"{path}: can't be saved: {error}{room}") from error


def write_whole(file: Path, text: str) -> None:
    """Replace a text file: whatever happens, it is the old one or the new one."""
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(file)
    sync(file.parent)


def publish(temporary: Path, folder: Path) -> None:
    """Give a finished folder its name, once all that is in it has reached the disk. A folder of that name goes."""
    for path in temporary.rglob("*"):
        sync(path)
    sync(temporary)
    if folder.exists():
        remove(folder)
    temporary.replace(folder)
    sync(folder.parent)


def remove(folder: Path) -> None:
    """Delete a folder, which until then is whole: a half-deleted one has another name."""
    hidden = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.replace(hidden)
    shutil.rmtree(hidden)


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows can't open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process. The kernel lets go of it however the process ends.

    Raises:
        RecipeError: another process holds it.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        owner = (folder / OWNER).read_text() if (folder / OWNER).is_file() else "another process"
        raise RecipeError(
            f"run_dir: {folder} is in use by {owner}; wait until it ends, stop it, or choose another with --run-dir"
        ) from error
    try:
        (folder / OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()


def made_once(file: Path, make: Callable[[Path], None], wait: bool = True) -> Path:
    """A file in the cache that `make` writes if it is not there: once, however many processes want it. They wait as long as
    it takes, in no collective that would time out; without `wait` they leave it to the one that is at it."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Timeout), FileLock(file.with_suffix(".lock"), blocking=wait):
            if not file.is_file():
                temporary = file.with_suffix(".tmp")
                make(temporary)
                sync(temporary)
                temporary.replace(file)
    return file


def cache_folder() -> Path:
    """Where things are kept that can be made again: $GENHUB_CACHE, else ~/.cache/genhub."""
    return Path(os.environ.get("GENHUB_CACHE") or Path.home() / ".cache" / "genhub").expanduser()
