"""Keep stdout and stderr usable when their reader goes away: `genhub train ... | head -1` goes on training."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO


class _Outlet(io.FileIO):
    """File descriptor that drops text once it can't be written: the work that the text tells of is worth more."""

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        if self.fault is None:
            try:
                return super().write(data)
            except OSError as error:
                self.fault = error
        return memoryview(data).nbytes


def make_sturdy() -> None:
    """Have stdout and stderr survive a reader that is gone, a full disk, a descriptor that is closed; and characters that
    the terminal does not have, which are shown by number."""
    while os.name == "posix" and (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # it was closed: the next file to be opened would be taken for stdout
    if os.name == "posix":
        os.close(free)
    sys.stdout = _sturdy(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _sturdy(sys.stderr, sys.__stderr__, 2)


def _sturdy(stream: TextIO | None, own: TextIO | None, descriptor: int) -> TextIO:
    if stream is not own:  # Python's caller has put another in its place
        assert stream
        return stream
    encoding = (stream and stream.encoding) or "utf-8"
    outlet = _Outlet(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(outlet), encoding, "backslashreplace", line_buffering=descriptor == 2 or outlet.isatty()
    )


def lost() -> str | None:
    """Return why stdout lost text that somebody wanted; None if it lost none, or its reader has left."""
    sys.stdout.flush()
    outlet = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    fault = outlet.fault if isinstance(outlet, _Outlet) else None
    return None if fault is None or fault.errno == errno.EPIPE else fault.strerror
