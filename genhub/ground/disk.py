"""Files and folders that appear whole or not at all, the lock of a folder, and the cache. No torch here. Nothing in genhub
writes a file but through `whole` (or `put_in_place`, for a folder), or by `append`."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout
from safetensors import SafetensorError

from genhub.errors import CheckpointError, GenhubError, InputError, RecipeError
from genhub.ground.console import put
from genhub.ground.processes import first_to_say

LOCK, OWNER = ".lock", ".owner"
"""Names of the file that a process locks to write in a folder, and of the one that says which process: a locked file can't
be read on every system."""


def check_files(folder: Path, *names: str) -> None:
    """Check that a folder that may be a stranger's, or these entries of it, hold regular files and folders alone: a pipe
    would be waited for, and a link could lead to what is nobody else's business.

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
        # In this order: others may delete it meanwhile.
        if not path.is_file() and not path.is_dir() and os.path.lexists(path):
            raise CheckpointError(f"{path}: is neither a file nor a folder; take it away")


@contextlib.contextmanager
def saving(path: Path, size: int | None = None) -> Iterator[None]:
    """Raise what the disk refuses inside as an error with the path and, where it is known, the bytes that it takes.

    Raises:
        GenhubError: it can't be saved.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        there = next(folder for folder in path.absolute().parents if folder.is_dir())
        room = f"; it takes {size:,} bytes, and the disk has {shutil.disk_usage(there).free:,}" if size is not None else ""
        raise GenhubError(f"{path}: can't be saved: {error}{room}") from error


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Give a path to write to, of this call alone, that then takes a file's place: whatever happens, and whoever else
    writes the file, it is the old one or the new one."""
    with all_whole([file]) as (temporary,):
        yield temporary


@contextlib.contextmanager
def all_whole(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Do as `whole` for several files, which reach the disk together: that takes little longer than one."""
    temporaries = [file.with_name(_temporary_name()) for file in files]
    try:
        yield temporaries
        for temporary in temporaries:
            sync(temporary)
        for temporary, file in zip(temporaries, files, strict=True):
            temporary.replace(file)
    except BaseException:
        for temporary in temporaries:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise
    for folder in {file.parent for file in files}:
        sync(folder)


def write_whole(file: Path, content: str | bytes) -> None:
    """Replace a file, a text in UTF-8: whatever happens, it is the old one or the new one."""
    with whole(file) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def append(file: Path, line: str) -> None:
    """Add a line to a text file. One that a full disk or a crash cut off stays a line of its own."""
    with file.open("a+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - 1))
        cut_off = stream.read(1) not in (b"", b"\n")
        stream.write(b"\n" * cut_off + line.encode() + b"\n")


def _temporary_name() -> str:
    """Return a name with this machine and process in it, and not the file's own, which may be as long as a name can be."""
    return f".genhub-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def _machine() -> str:
    return blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Delete the files of `whole` in a folder whose process was killed, on this machine: another's may be alive."""
    for path in folder.glob(".genhub-*.tmp"):
        owner = re.fullmatch(rf"\.genhub-{_machine()}-(\d+)-[0-9a-f]{{8}}\.tmp", path.name)
        if owner and not _alive(int(owner[1])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if os.name == "nt":  # there, this would end it
        return True
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def link(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, which stays when the first is deleted; make a copy where the disk has no such thing."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def put_in_place(temporary: Path, folder: Path) -> None:
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
    sync(folder.parent)
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
def locked(
    folder: Path, option: str = "--run-dir", place: str | None = None, refused: type[InputError] = RecipeError
) -> Iterator[None]:
    """Hold a folder for this process, a run's as it stands. The kernel lets go of it however the process ends.

    Args:
        option: which chooses another.
        place: what a message calls the folder.
        refused: the error's class.
    Raises:
        InputError: another process holds it.
    """
    lock = _taken(folder, option, place, refused)
    try:
        write_whole(folder / OWNER, f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()


def last_owner(folder: Path) -> tuple[int, str] | None:
    """Return the process that holds a folder, or held it last, and its machine, as `locked` wrote them down; None where
    nothing says so. Whether it holds the folder still, only the lock knows."""
    text = (folder / OWNER).read_text("utf-8", "replace") if (folder / OWNER).is_file() else ""
    found = re.fullmatch(r"process (\d{1,9}) on (\S.*)", text)
    return (int(found[1]), found[2]) if found else None


def check_unlocked(folder: Path) -> None:
    """
    Raises:
        RecipeError: another process holds a run's folder.
    """
    if (folder / LOCK).is_file():
        _taken(folder).release()


def _taken(
    folder: Path, option: str = "--run-dir", place: str | None = None, refused: type[InputError] = RecipeError
) -> BaseFileLock:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        owner = (folder / OWNER).read_text() if (folder / OWNER).is_file() else "another process"
        place = place or f"run_dir: {folder}"
        raise refused(
            f"{place} is in use by {owner}; wait until it ends, stop it, or choose another with {option}"
        ) from error
    return lock


def made_once(
    file: Path, make: Callable[[Path], None], wait: bool = True, there: Callable[[Path], bool] = Path.is_file
) -> Path:
    """Return a file in the cache, which `make` writes if it is not there: once, however many processes want it. They wait as
    long as it takes, in no collective that would time out; without `wait` they leave it to the one that is at it.

    Args:
        there: whether the file is there, and undamaged (`weights.is_sealed`): one that isn't is made again.
    Raises:
        GenhubError: it can't be written.
    """
    if there(file):
        return file
    with saving(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Timeout), FileLock(file.with_suffix(".lock"), blocking=wait):
            if not there(file):
                remove_leftovers(file.parent)
                with whole(file) as temporary:
                    make(temporary)
    return file


def cache_folder() -> Path:
    """Return the folder for what can be made again: $GENHUB_CACHE, else ~/.cache/genhub; where nothing can be written there,
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
        put(f"genhub: {said}", stream=sys.stderr)
    return temporary
