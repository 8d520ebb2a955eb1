"""The calls of this process that touch files, one by one: counted, made to fail, or written down for a power cut."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet
import safetensors.torch

PATHS = {"open": 1, "os.mkdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.remove": 1, "os.rmdir": 1,
         "os.truncate": 1, "os.listdir": 1, "os.scandir": 1}  # fmt: skip
"""Python's audit events, and how many paths each has."""
FOLDERS = {"os.mkdir": 2, "os.remove": 1, "os.rmdir": 1}
"""At which place an event has the descriptor of the folder that its path is relative to."""


@dataclass
class Call:
    """A call that is about to be made."""

    kind: str
    """An audit event's name, or write, fsync, save_file."""
    paths: tuple[Path, ...]
    flags: int = 0
    """Of an opened file."""
    place: tuple[str, int] = ("", 0)
    """The thread's name, and how many calls its threads had made before: the same in each run of the same command."""

    def said(self, root: Path) -> str:
        return f"{self.kind} {' '.join(os.path.relpath(path, root) for path in self.paths)}"


@dataclass
class Calls:
    """What touches files below `root`; `before` is told of each call before it is made, and may raise, or end the process.
    `half` says of a write whether only its first half is to be made, after which `before` is told once more."""

    root: Path
    before: Callable[[Call], None] = lambda call: None
    half: Callable[[tuple[str, int]], bool] = lambda place: False
    seen: list[Call] = field(default_factory=list)
    made: Counter[str] = field(default_factory=Counter)
    """Number of calls that the threads of a name have made."""
    one: Any = field(default_factory=threading.Lock)
    """Two threads are told of one after the other."""

    def place(self) -> tuple[str, int]:
        """Return the place of this thread's next call."""
        name = re.sub(r"\d+", "", threading.current_thread().name)  # a pool's has a number that counts all pools
        return name, self.made[name]

    def tell(self, call: Call) -> None:
        if all(not path.is_relative_to(self.root) for path in call.paths):
            return
        with _paused(), self.one:
            call.place = self.place()
            self.made[call.place[0]] += 1
            self.seen.append(call)
            self.before(call)

    def writes(self, kind: str, path: Path, write: Callable[[], Any], halve: Callable[[], Any]) -> Any:
        """Make a write; or if it is the one that fails, only half of it, before it does."""
        if path.is_relative_to(self.root) and self.half(self.place()):
            with _paused():
                halve()
        self.tell(Call(kind, (path,)))
        return write()


_told: Calls | None = None
_hooked = False
_thread = threading.local()


def _watching() -> Calls | None:
    """Return the watcher that this thread tells, if any."""
    return None if getattr(_thread, "paused", False) else _told


@contextlib.contextmanager
def _paused() -> Iterator[None]:
    before, _thread.paused = getattr(_thread, "paused", False), True
    try:
        yield
    finally:
        _thread.paused = before


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if (watching := _watching()) is None or event not in PATHS:
        return
    with _paused():
        folder = args[FOLDERS[event]] if event in FOLDERS else -1
        paths = tuple(filter(None, (_path(given, folder) for given in args[: PATHS[event]])))
    if paths:
        watching.tell(Call(event, paths, args[2] if event == "open" else 0))


def _path(given: Any, folder: int = -1) -> Path | None:
    """The file that an event names, by a path or a descriptor."""
    base = Path.cwd() if folder == -1 else Path(f"/proc/self/fd/{folder}").readlink()
    if isinstance(given, int):
        return Path(f"/proc/self/fd/{given}").readlink()
    return base / os.fsdecode(given) if isinstance(given, str | bytes | os.PathLike) else base


class _Raw(io.FileIO):
    """A file whose writes are told of."""

    def write(self, content: Any) -> int:
        if (watching := _watching()) is None:
            return super().write(content)
        path, write = _path(self.name), super().write
        return watching.writes("write", path, lambda: write(content), lambda: write(bytes(content)[: len(content) // 2]))


def _open(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
          closefd: bool = True, opener: Any = None) -> Any:  # fmt: skip
    """`open`, by way of `_Raw` if it is for writing."""
    if _watching() is None or not set(mode) & set("wax+"):
        return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = _Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    if buffering == 0:
        return raw
    buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    if "b" in mode:
        return buffered
    text = io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
    text.mode = mode
    return text


_real_open, _real_fsync, _real_sendfile = io.open, os.fsync, os.sendfile
_real_save, _Parquet = safetensors.torch.save_file, pyarrow.parquet.ParquetWriter


def _fsync(descriptor: int) -> None:
    if watching := _watching():
        watching.tell(Call("fsync", (_path(descriptor),)))
    _real_fsync(descriptor)


def _sendfile(out: int, source: int, offset: int, count: int) -> int:
    """What `shutil.copy` calls."""
    if (watching := _watching()) is None:
        return _real_sendfile(out, source, offset, count)
    size = min(count, os.fstat(source).st_size - offset)
    return watching.writes("write", _path(out), lambda: _real_sendfile(out, source, offset, count),
                            lambda: _real_sendfile(out, source, offset, size // 2))  # fmt: skip


def _save_file(tensors: Any, file: Any, metadata: Any = None) -> None:
    """Written by Rust, which no Python call shows: its open, and its writes as one."""

    def save() -> None:
        _real_save(tensors, file, metadata)

    def halve() -> None:
        save()
        os.truncate(file, Path(file).stat().st_size // 2)

    if (watching := _watching()) is None:
        return save()
    watching.tell(Call("open", (_path(file),), os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    try:
        watching.writes("save_file", _path(file), save, halve)
    except OSError as error:
        raise safetensors.SafetensorError(f"Error while serializing: I/O error: {error}") from error
    return None


class _FaultyParquet(_Parquet):
    """Written by C++: the open is its `__init__`."""

    def __init__(self, file: Any, *args: Any, **options: Any) -> None:
        self.path = _path(file)
        if watching := _watching():
            watching.tell(Call("open", (self.path,), os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        super().__init__(file, *args, **options)

    def write_table(self, *args: Any, **options: Any) -> None:
        if watching := _watching():
            watching.tell(Call("write", (self.path,)))
        super().write_table(*args, **options)


@contextlib.contextmanager
def watched(calls: Calls) -> Iterator[Calls]:
    """Have `calls` told of all that this process does with files meanwhile."""
    global _told, _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    with contextlib.ExitStack() as patches:
        for module in [module for module in sys.modules.values() if getattr(module, "save_file", None) is _real_save]:
            patches.enter_context(mock.patch.object(module, "save_file", _save_file))
        for owner, name, replacement in [(builtins, "open", _open), (io, "open", _open), (os, "fsync", _fsync),
                                         (os, "sendfile", _sendfile), (pyarrow.parquet, "ParquetWriter", _FaultyParquet)]:  # fmt: skip
            patches.enter_context(mock.patch.object(owner, name, replacement))
        _told = calls
        try:
            yield calls
        finally:
            _told = None
