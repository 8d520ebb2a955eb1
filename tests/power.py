"""What a disk may hold after a power cut, at the worst that POSIX allows: what no fsync has forced is not there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from file_calls import Call

WORST = ("empty", "zeros", "older names")
"""Of what was written and not forced to the disk: nothing is there; zeros are; nothing is, and the names are those of the
last fsync of their folder."""


@dataclass
class Disk:
    """Told of each call before it is made, it knows what of it is for certain on the disk."""

    kept: Path
    """A folder for what is replaced or deleted, in case its name comes back."""
    certain: dict[Path, int] = field(default_factory=dict)
    """How many bytes of a file that was written to are certain."""
    undo: list[tuple[Path, Callable[[], object]]] = field(default_factory=list)
    """What takes back a change of a folder's names, with the folder, oldest first."""

    def told(self, call: Call) -> None:
        path = call.paths[0]
        match call.kind:
            case "open" if call.flags & (os.O_WRONLY | os.O_RDWR):
                if not path.exists():
                    if call.flags & os.O_CREAT:
                        self._changes(path, lambda: path.unlink(missing_ok=True))
                        self.certain[path] = 0
                elif call.flags & os.O_TRUNC:
                    self.certain[path] = 0
                else:
                    self.certain.setdefault(path, path.stat().st_size)
            case "fsync" if path.is_dir():
                self.undo = [(folder, change) for folder, change in self.undo if folder != path]
            case "fsync" if path in self.certain:
                self.certain[path] = path.stat().st_size
            case "os.mkdir" if not path.exists():
                self._changes(path, lambda: shutil.rmtree(path, ignore_errors=True))
            case "os.rmdir":
                self._changes(path, lambda: path.mkdir(exist_ok=True))
            case "os.remove" if path.is_file():
                self._changes(path, self._restored(path))
                self.certain.pop(path, None)
            case "os.rename":
                self._renamed(*call.paths)

    def _renamed(self, source: Path, target: Path) -> None:
        before = self._restored(target) if target.is_file() else None

        def back() -> None:
            if target.exists() and source.parent.is_dir():
                target.rename(source)
            if before:
                before()

        self._changes(target, back)
        moved = {path: size for path, size in self.certain.items() if path.is_relative_to(source)}
        self.certain = {path: size for path, size in self.certain.items() if path not in moved and path != target}
        self.certain |= {target / path.relative_to(source): size for path, size in moved.items()}

    def _restored(self, path: Path) -> Callable[[], object]:
        kept = self.kept / str(len(list(self.kept.iterdir())))
        os.link(path, kept)
        return lambda: path.parent.is_dir() and os.replace(kept, path)  # noqa: PTH105

    def _changes(self, path: Path, back: Callable[[], object]) -> None:
        self.undo.append((path.parent, back))

    def cut(self, worst: str) -> None:
        """Make of the folder what the power cut leaves."""
        for path, size in self.certain.items():
            if path.is_file():
                length = path.stat().st_size
                if length > size:
                    os.truncate(path, size)
                    if worst == "zeros":
                        os.truncate(path, length)
        if worst == "older names":
            for _, back in reversed(self.undo):
                with contextlib.suppress(FileNotFoundError):
                    back()
