"""Faults made on purpose: a call that touches a file and kills or fails, a full disk, little memory, no network."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

import genhub.ground.weights

EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.copyfile"}
_act: Callable[[], None] | None = None
_hooked = False


def _hook(event: str, _: Any) -> None:
    if _act is not None and event in EVENTS:
        _act()


@contextlib.contextmanager
def at_boundary(number: int | None, act: Callable[[], None]) -> Iterator[list[int]]:
    """Call `act` before the number-th call that touches a file: opening, making, renaming, deleting, copying, fsync, and
    writes, which have half of it done by then. Yields the count so far, in a list."""
    global _act, _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    count = [0]

    def boundary() -> None:
        count[0] += 1
        if count[0] - 1 == number:
            act()

    def halved(write: Callable[..., Any], file_of: Callable[..., Path]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            result = write(*args, **options)
            if count[0] == number:
                file = file_of(*args)
                os.truncate(file, file.stat().st_size // 2)
            boundary()
            return result

        return wrapped

    fsync, write_text, save_file = os.fsync, Path.write_text, genhub.ground.weights.save_file
    os.fsync = lambda descriptor: (boundary(), fsync(descriptor))[1]
    Path.write_text = halved(write_text, lambda path, *_: path)
    genhub.ground.weights.save_file = halved(save_file, lambda _, path, *__: path)
    _act = boundary
    try:
        yield count
    finally:
        _act = None
        os.fsync, Path.write_text, genhub.ground.weights.save_file = fsync, write_text, save_file


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_recipe(folder: Path, tiny: dict[str, Any], **trainer: Any) -> Path:
    """A recipe file for a real process, and the tests' models beside it."""
    import models

    tiny["trainer"] |= trainer
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tiny))
    shutil.copy(models.__file__, folder)
    return folder / "recipe.yaml"


# Jobs for a zygote's child


def genhub_with(limits: dict[str, int], *words: str) -> None:
    """A verb under resource limits: `fsize` bytes a file, `memory` bytes more than are used now."""
    if "fsize" in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["fsize"], resource.RLIM_INFINITY))
    if "memory" in limits:
        # What is freed goes back to the system at once: holes in the heap count against this limit, unlike a machine's.
        libc, mmap_threshold, arena_max = ctypes.CDLL(None), -3, -8
        libc.mallopt(mmap_threshold, 2**16)
        libc.mallopt(arena_max, 1)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + limits["memory"], resource.RLIM_INFINITY))
    _genhub(*words)


def genhub_dying_at_latents(number: int, *words: str) -> None:
    """A verb that is killed when half of its number-th file of latents is written."""
    save_file, calls = genhub.ground.weights.save_file, itertools.count(1)

    def halved(tensors: Any, file: Path, notes: Any = None) -> None:
        save_file(tensors, file, notes)
        if next(calls) == number:
            os.truncate(file, file.stat().st_size // 2)
            die()

    genhub.ground.weights.save_file = halved
    _genhub(*words)


def sample_dying_at(number: int, source: str, n: int, out: str, given: dict[str, int]) -> None:
    """`genhub.sample`, killed in its number-th batch."""
    model, calls = genhub.load(source), itertools.count(1)
    sampling = model.sample
    model.sample = lambda n, **options: die() if next(calls) == number else sampling(n, **options)
    genhub.sample(model, n, out=out, **given)


def genhub_without_network(*words: str) -> None:
    """A verb that ends with exit code 77 when it asks for a name or a connection."""

    def hook(event: str, args: Any) -> None:
        if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}:
            print(event, args, file=sys.stderr, flush=True)
            os._exit(77)

    sys.addaudithook(hook)
    os.environ.pop("HF_HUB_OFFLINE", None)
    _genhub(*words)


def genhub_off_line(*words: str) -> None:
    """A verb that ends with exit code 77 when it asks for a name, or for a connection to another machine."""

    def hook(event: str, args: Any) -> None:
        if event not in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}:
            return
        place = args[1] if event == "socket.connect" else args
        if isinstance(place, tuple) and place[0] not in ("localhost", "127.0.0.1"):  # else a file, of a socket
            print(event, args, file=sys.stderr, flush=True)
            os._exit(77)

    sys.addaudithook(hook)
    _genhub(*words)


def _genhub(*words: str) -> None:
    from genhub.cli import main

    sys.argv = ["genhub", *words]
    main()


def genhub_with_small_shared_memory(size: str, *words: str) -> None:
    """A verb with a /dev/shm of its own, as a container has one; exit code 77 where that can't be had."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    private, namespace = 1 << 18 | 1 << 14, 0x00020000  # MS_PRIVATE | MS_REC, CLONE_NEWNS
    if (
        libc.unshare(namespace)
        or libc.mount(b"none", b"/", None, private, None)
        or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, f"size={size}".encode())
    ):
        os._exit(77)
    _genhub(*words)


def genhub_said_to(what: str, *words: str) -> None:
    """A verb whose stdout nobody reads, is on a full disk, is closed, or has no letters but ASCII's."""
    if what == "gone":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)
    elif what == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif what == "closed":
        os.close(1)
        sys.stdout = sys.__stdout__ = None
    else:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding="ascii", errors="strict")
    _genhub(*words)


def genhub_without_a_home(*words: str) -> None:
    """A verb for a user that the system does not know, as in a container that runs as any number."""
    import pwd

    def unknown(number: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    pwd.getpwuid = unknown
    for name in ("HOME", "GENHUB_CACHE"):
        os.environ.pop(name, None)
    _genhub(*words)


def genhub_with_a_read_only(folder: str, *words: str) -> None:
    """A verb that finds a folder on a file system without writing; exit code 77 where that can't be had."""
    import ctypes

    libc, path = ctypes.CDLL(None), folder.encode()
    private, bind, remount = (
        1 << 18 | 1 << 14,
        1 << 12,
        1 << 12 | 1 << 5 | 1,
    )  # MS_PRIVATE | MS_REC; MS_BIND; .. | MS_REMOUNT | MS_RDONLY
    if (
        libc.unshare(0x00020000)
        or libc.mount(b"none", b"/", None, private, None)
        or libc.mount(path, path, None, bind, None)
        or libc.mount(path, path, None, remount, None)
    ):
        os._exit(77)
    _genhub(*words)


def genhub_saying_often(*words: str) -> None:
    """A verb that says how far it is each time that it could."""
    import genhub.ground.console

    genhub.ground.console.EVERY = 0.0
    _genhub(*words)


def genhub_with_stuck_workers(batch: int, limits: dict[str, float], *words: str) -> None:
    """A verb whose workers never make a batch from the `batch`-th of each on; `limits` are those of the wait for it."""
    import time

    import genhub.data.reading
    import genhub.data.workers
    import genhub.training.guards

    for name, seconds in limits.items():
        setattr(genhub.training.guards if name == "GRACE" else genhub.data.workers, name, seconds)
    read, calls = genhub.data.reading.RowReader.read, itertools.count()

    def stuck(self: Any, rows: Any) -> Any:
        if next(calls) == batch:
            Path("stuck").touch()
            time.sleep(600)
        return read(self, rows)

    genhub.data.reading.RowReader.read = stuck
    _genhub(*words)
