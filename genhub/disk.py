"""Files and folders that appear whole or not at all, the lock of a run's folder, and the cache. No torch here."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from genhub.errors import GenhubError, RecipeError
from genhub.launch import first_to_say

LOCK, OWNER = ".lock", ".owner"
"""The file whose lock a running run holds, and the one that says who it is: a locked file can't be read on every system."""


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
    """Where things are kept that can be made again: $GENHUB_CACHE, else ~/.cache/genhub; where nothing can be written there,
    a folder of this process's own."""
    return _writable(os.environ.get("GENHUB_CACHE") or "~/.cache/genhub")


@lru_cache
def _writable(name: str) -> Path:
    folder, reason = Path(name), ""
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except RuntimeError:
        reason = "; there is no home"
    except OSError as error:
        reason = f": {error.strerror}"
    temporary = Path(tempfile.mkdtemp(prefix="genhub-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    said = f"{folder} can't be written{reason}; what is kept there is made for this time alone; set GENHUB_CACHE to another"
    if first_to_say(said):
        print(f"genhub: {said}", file=sys.stderr, flush=True)
    return temporary
