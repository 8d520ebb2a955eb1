"""Checks, their results, and the report that a person or a program reads."""

from __future__ import annotations

import inspect
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch

from genhub.errors import GenhubError, InputError, did_you_mean


class Broken(Exception):
    """Finding of a check: what is wrong and what to do, in a sentence each, and the code it is about."""

    def __init__(self, what: str, do: str = "", at: Any = None) -> None:
        super().__init__(f"{what}: {do}" if do else what)
        self.where = place_of(at) if at is not None else ""


class NotHere(Exception):
    """Reason why a check says nothing about this class, or can't run on this machine."""


class ContractError(AssertionError):
    """A class breaks its contract; the message lists every failure."""


@dataclass(frozen=True)
class Check:
    """A check: a function that is given what a suite examines, and raises `Broken`. Its docstring begins with the
    contract."""

    run: Callable[[Any], None]
    needs: tuple[str, ...] = ()
    """Names of the checks without which this one means nothing."""

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def contract(self) -> str:
        return " ".join((self.run.__doc__ or "").partition("\n\n")[0].split())


@dataclass(frozen=True)
class Result:
    """Result of one check."""

    name: str
    contract: str
    outcome: Literal["passed", "failed", "skipped"]
    message: str = ""
    """Text on what is wrong and what to do, or why the check was skipped."""
    where: str = ""
    """Place of a failure, file:line, where it has one."""
    seconds: float = 0.0

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.name}: {self.message}{place}\n    The contract: {self.contract}"


@dataclass(frozen=True)
class Report:
    """All results for one class."""

    title: str
    results: list[Result] = field(default_factory=list)

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results if result.outcome == "failed"]

    @property
    def summary(self) -> str:
        """Return '18 checks, 1 failed, 2 skipped, in 9.3 s', say."""
        skipped = sum(result.outcome == "skipped" for result in self.results)
        parts = [f"{len(self.results)} checks", f"{len(self.failures)} failed", f"{skipped} skipped"]
        return f"{', '.join(parts)}, in {sum(result.seconds for result in self.results):.1f} s"

    def raise_failures(self) -> None:
        """
        Raises:
            ContractError: listing every failure.
        """
        if self.failures:
            raise ContractError(f"{self.title}: {self.summary}\n" + "\n".join(map(str, self.failures)))

    def dump(self) -> dict[str, Any]:
        return {"title": self.title, "passed": not self.failures, "checks": [asdict(result) for result in self.results]}


class Subject:
    """A class under examination, and what its checks share: made when first asked for, gone when it is left."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="genhub-check-")
        self.folder = Path(self._folder.name)
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()


class Suite:
    """The checks of one class, to be run in any order while it is entered; each is run once, after those it needs."""

    def __init__(self, cls: type, checks: Sequence[Check], subject: Subject, skip: Collection[str]) -> None:
        self.cls = cls
        self.checks = {check.name: check for check in checks}
        self._subject = subject
        self._skip = self._known(skip)
        self._results: dict[str, Result] = {}

    def __enter__(self) -> Suite:
        self._subject.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._subject.__exit__(*error)

    def _known(self, names: Collection[str]) -> set[str]:
        for name in names:
            if name not in self.checks:
                raise InputError(f"no check is called '{name}'; {did_you_mean(name, self.checks)}")
        return set(names)

    def report(self, only: Collection[str] = (), shown: Callable[[Result], None] = lambda result: None) -> Report:
        """Run all checks, or those named by `only`, and return the report; `shown` is given each result at once.

        Raises:
            InputError: no check has that name.
        """
        wanted = (self._known(only) or set(self.checks)) - self._skip
        results = []
        for name in self.checks:
            if name in wanted:
                results.append(self.run(name))
                shown(results[-1])
        return Report(self.cls.__name__, results)

    def run(self, name: str) -> Result:
        if name not in self._results:
            self._results[name] = self._run(self.checks[name])
        return self._results[name]

    def _run(self, check: Check) -> Result:
        for need in check.needs:
            if need not in self._skip and self.run(need).outcome != "passed":
                return Result(check.name, check.contract, "skipped", f"means nothing before '{need}' passes")
        started = time.perf_counter()
        outcome: Literal["passed", "failed", "skipped"] = "failed"
        message = where = ""
        try:
            with torch.random.fork_rng(devices=[]):  # the caller's random numbers are none of our business
                check.run(self._subject)
            outcome = "passed"
        except NotHere as reason:
            outcome, message = "skipped", str(reason)
        except Broken as fault:
            message, where = str(fault), fault.where
        except GenhubError as error:
            message, where = str(error), place_in(error, self.cls) or place_of(self.cls)
        except Exception as error:
            message, where = f"raised {told(error)}", place_in(error, self.cls) or place_of(self.cls)
        return Result(check.name, check.contract, outcome, message, where, round(time.perf_counter() - started, 2))


def told(error: BaseException) -> str:
    """Return an exception in one line, as the end of a traceback has it."""
    return " ".join(traceback.format_exception_only(error)[-1].split())


def place_of(code: Any) -> str:
    """Return file:line of a function or class."""
    try:
        code = inspect.unwrap(getattr(code, "__func__", code))
        return f"{inspect.getsourcefile(code)}:{inspect.getsourcelines(code)[1]}"
    except (OSError, TypeError):  # no source at hand
        return ""


def place_in(error: BaseException, code: type) -> str:
    """Return file:line of the innermost frame of a traceback in the folder of a class, if it has one."""
    try:
        folder = Path(inspect.getfile(code)).resolve().parent
    except (OSError, TypeError):
        return ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if folder in Path(f.filename).resolve().parents]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
