"""One run as the page shows it: all of it from the files in its folder."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from genhub.errors import CheckpointError, GenhubError, InputError, one_line
from genhub.evaluation.protocol import PREFIX, Evaluation, read_evaluation
from genhub.ground.parsing import TextSource, flattened, parse_yaml, read_text, yaml_line
from genhub.store.run_folder import ANY_STEP, RunFolder, step_of
from genhub.watch.holder import Holder, ask_to_stop, holder_of
from genhub.watch.log_tail import LogTail

RECENT = 20
"""Number of log lines over which the speed is taken."""
SIGNALS = os.name != "nt"
"""Whether a process can be asked to stop; on Windows a signal would end it on the spot."""
BEGINS = b"\x89PNG\r\n\x1a\n"
"""First bytes of a picture that is shown."""
Signature = tuple[int, int]
"""Time and size of a file, by which a change of it is known."""
NOTHING: Mapping[str, Any] = {
    "step": 0, "steps": None, "rows_per_second": None, "seconds_left": None, "written": None, "can_stop": False,
    "how_to_stop": None, "log": {"generation": 0, "lines": 0}, "metrics": [], "measured": [], "chosen": [], "pictures": [],
    "recipe": {}, "figures": [], "notes": [],
}  # fmt: skip
"""The facts of a run of which nothing can be read."""


class WatchedRun:
    """A run that is looked at again and again: a file that has not changed is not read again."""

    def __init__(self, path: Path) -> None:
        self.run = RunFolder(path)
        self.log = LogTail(self.run.metrics)
        self._asked: psutil.Process | None = None
        self._checked = False
        self._recipe: tuple[Signature | None, dict[str, Any], list[str]] | None = None
        self._evaluations: dict[Path, tuple[Signature, Evaluation | str]] = {}

    def look(self) -> dict[str, Any]:
        """Return the run's facts as JSON has them. Figures are left to `evaluations`.

        Raises:
            CheckpointError: something in the folder is not opened.
        """
        if not self._checked:
            self.run.check_files()
            self._checked = True
        self.log.look()
        recipe, faults = self._read_recipe()
        steps, logged = _max_steps(recipe), int(self.log.lines[-1]["step"]) if self.log.lines else 0
        checkpoint = next(map(step_of, self.run.checkpoints()), None)
        holder = holder_of(self.run.path)
        speed = steps_per_second(self.log.lines)
        done = max(logged, checkpoint or 0)
        state, said = self._state(holder, logged, checkpoint, steps)
        names = self.log.names
        return {
            **NOTHING,
            "state": state,
            "said": said,
            "step": done,
            "steps": steps,
            "rows_per_second": _last(self.log.lines, "rows_per_second"),
            "seconds_left": (steps - done) / speed if state == "running" and steps and speed else None,
            "written": _time(self.run.metrics),
            "can_stop": state == "running" and SIGNALS,
            "how_to_stop": by_hand(holder) if holder and (state == "elsewhere" or not SIGNALS) else None,
            "log": {"generation": self.log.generation, "lines": len(self.log.lines)},
            "metrics": names,
            "measured": (measured := [name for name in names if name.startswith(PREFIX)]),
            "chosen": [*(name for name in names if name.endswith("/loss")), *measured],
            "pictures": [step_of(file) for file in self.run.previews()],
            "recipe": {one_line(key): one_line(yaml_line(value)) for key, value in flattened(recipe) if key != "run_dir"},
            "notes": [*([one_line(self.log.fault)] if self.log.fault else []), *faults],
        }

    def _state(self, holder: Holder | None, logged: int, checkpoint: int | None, steps: int | None) -> tuple[str, str]:
        """Return a run's state in a word and in a sentence."""
        if holder and holder.process:
            if holder.process == self._asked:
                return "stopping", f"{holder} was asked to save and to stop"
            return "running", f"{holder} trains it"
        if checkpoint is not None and steps and checkpoint >= steps:
            return "finished", f"trained to step {checkpoint:,}"
        if holder:
            return "elsewhere", f"{holder} held it last; whether it still does can't be seen from here"
        if checkpoint is None:
            return "crashed", "ended before its first checkpoint; the same command starts over"
        goes_on = f"the same command goes on from step {checkpoint:,}"
        if logged > checkpoint:
            return "crashed", f"ended after step {logged:,} without saving; {goes_on}"
        return "stopped", f"stopped, and saved; {goes_on}"

    def stop(self) -> str:
        """Ask the process that trains it to save and to stop; return what was done, in a sentence.

        Raises:
            InputError: it was asked before, nothing trains here, or it can't be known that this process does.
        """
        holder = holder_of(self.run.path)
        if holder is None:
            raise InputError(f"{self.run}: nothing trains here")
        if holder.process is None or not SIGNALS:
            raise InputError(f"{self.run}: {holder} can't be told from here; there: {by_hand(holder)}")
        if holder.process == self._asked:
            raise InputError(f"{self.run}: was asked before; a second signal would keep it from saving")
        try:
            told = ask_to_stop(holder.process)
        except psutil.NoSuchProcess:
            raise InputError(f"{self.run}: has just ended") from None
        except psutil.AccessDenied:
            raise InputError(f"{self.run}: {holder} is another user's") from None
        self._asked = holder.process
        return f"process {told.pid} was asked to save and to stop"

    # Files

    def picture(self, step: int) -> bytes | None:
        """Return the PNG of a step's preview; None if there is none."""
        file = next((file for file in self.run.previews() if step_of(file) == step), None)
        if file is None or not file.is_file() or not file.resolve().is_relative_to(self.run.path.resolve()):
            return None  # a pipe would be waited for, and a link may lead out of the run
        content = file.read_bytes()
        return content if content.startswith(BEGINS) else None

    def evaluations(self) -> tuple[list[Evaluation], list[str]]:
        """Return what was measured, of each way of measuring the newest step; and lines on what is damaged."""
        found, newest, faults = dict(self._evaluations), dict[str, Evaluation](), []
        self._evaluations = {}
        for file in self.run.evaluations.glob(f"{ANY_STEP}-*.json"):
            signature = _signature(file)
            if signature is None:
                continue
            before = found.get(file)
            one = before[1] if before and before[0] == signature else _evaluation(file)
            self._evaluations[file] = signature, one
            if isinstance(one, str):
                faults.append(one)
            elif one.weights and one.step >= newest.get(digest := one.protocol.digest(), one).step:
                newest[digest] = one
        return sorted(newest.values(), key=lambda one: one.protocol.digest()), sorted(faults)

    def _read_recipe(self) -> tuple[dict[str, Any], list[str]]:
        signature = _signature(self.run.recipe)
        if self._recipe is None or signature != self._recipe[0]:
            try:
                file = self.run.whole_recipe()
                self._recipe = signature, parse_yaml(read_text(file), TextSource(str(file))), []
            except GenhubError as error:
                self._recipe = signature, {}, list(error.args)
        return self._recipe[1], self._recipe[2]


def by_hand(holder: Holder) -> str:
    """Return what somebody does to stop a run where it trains."""
    return f"Ctrl-C, or kill {holder.number}"


def steps_per_second(lines: Sequence[Mapping[str, float]]) -> float | None:
    """Return the speed of the newest log lines; None without two of them."""
    timed = [line for line in lines[-2 * RECENT :] if math.isfinite(line.get("seconds", math.nan))][-RECENT:]
    steps, seconds = (timed[-1][key] - timed[0][key] if timed else 0.0 for key in ("step", "seconds"))
    return steps / seconds if steps > 0 and seconds > 0 else None


def _last(lines: Sequence[Mapping[str, float]], name: str) -> float | None:
    value = next((line[name] for line in reversed(lines) if name in line), None)
    return value if value is not None and math.isfinite(value) else None


def _max_steps(recipe: Mapping[str, Any]) -> int | None:
    trainer = recipe.get("trainer")
    steps = trainer.get("max_steps") if isinstance(trainer, Mapping) else None
    return steps if type(steps) is int and steps > 0 else None


def _evaluation(file: Path) -> Evaluation | str:
    """Return the evaluation in a file, or what is wrong with it."""
    try:
        return read_evaluation(file)
    except CheckpointError as error:
        return str(error)


def _signature(file: Path) -> Signature | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _time(file: Path) -> float | None:
    """Return when a file was written, in seconds since 1970."""
    signature = _signature(file)
    return round(signature[0] / 1e9, 3) if signature else None
