"""A log that grows while it is read."""

from __future__ import annotations

from pathlib import Path

from genhub.ground.run_log import damage, line_content

REMEMBERED = 300
"""Number of the last bytes read by which a log is known to be the one that was read before."""


class LogTail:
    """The lines of a run's metrics.jsonl by the rules of `read_metrics`, of which each look reads only what is new."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: list[dict[str, float]] = []
        self.generation = 0
        """Number of times that the log was found to be another one, as after a resume, and read from its start."""
        self._begin()

    def _begin(self) -> None:
        self.lines = []
        self._names: dict[str, None] = {}
        self._damaged: list[int] = []
        self._read, self._number, self._last = 0, 0, b""

    def look(self) -> None:
        """Read what is new. A log that is gone has no lines."""
        if not self.file.is_file():
            self._anew()
            return
        with self.file.open("rb") as stream:
            stream.seek(self._read - len(self._last))
            content = stream.read()
            if not content.startswith(self._last):
                self._anew()
                stream.seek(0)
                content = stream.read()
        self._take(content[len(self._last) :])

    def _anew(self) -> None:
        if self._read:
            self.generation += 1
            self._begin()

    def _take(self, content: bytes) -> None:
        *whole, rest = content.split(b"\n")
        for number, text in enumerate(whole, start=self._number + 1):
            if line := line_content(text):
                self._add(line)
            elif text.strip():
                self._damaged.append(number)
        self._number += len(whole)
        if line := line_content(rest):  # whole, but for the end of its line
            self._add(line)
        else:  # being written: the next look reads it
            content = content[: len(content) - len(rest)]
        self._read += len(content)
        self._last = (self._last + content)[-REMEMBERED:]

    def _add(self, line: dict[str, float]) -> None:
        self.lines.append(line)
        self._names |= dict.fromkeys(line)

    @property
    def names(self) -> list[str]:
        """Return the names of all that is logged."""
        return [name for name in self._names if name != "step"]

    @property
    def fault(self) -> str | None:
        """Return a line on what is damaged, if anything is."""
        return damage(self.file, self._damaged)
