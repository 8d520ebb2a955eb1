"""The power goes while a verb writes. What it had not forced to the disk may be gone, or empty, or zeros; then the same
command ends with the bits of one that nothing happened to, or says in a line what is wrong. It takes no hole for data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from file_calls import Call, Calls
from power import WORST, Disk
from test_faults_once import VERBS, Place, before, held_in, left_over, place  # noqa: F401  # fixtures


def cut(place: Place, verb: str, number: int, worst: str, kept: Path) -> None:  # noqa: F811
    """Call a verb in a process that loses power before its `number`-th call to a file."""
    place.anew()
    kept.mkdir()
    disk = Disk(kept)

    def before_each(at: int, call: Call) -> None:
        if at == number:
            disk.cut(worst)
            os._exit(0)
        disk.told(call)

    child = os.fork()
    if child == 0:
        try:
            place.call(VERBS[verb], Calls(place.folder, before_each))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"call {number} was not reached"


def problem_after(place: Place, verb: str, expected: dict[str, object], pushed: object) -> str | None:  # noqa: F811
    """What is wrong when the verb is called again after a power cut."""
    try:
        code, said = place.call(VERBS[verb])
        if "Traceback" in said or (code and not said.startswith("genhub: ")):
            return f"exit code {code}, {said!r}"
        if code:  # it says what is wrong
            return None
        found = held_in(place.folder)
        other = [name for name in {**found, **expected} if found.get(name, "none") != expected.get(name, "none")]
        return f"other than without: {other}" if other or place.pushed() != pushed else None
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def each_cut(place: Place, verb: str, every: int, kept: Path) -> None:  # noqa: F811
    place.anew()
    calls = Calls(place.folder)
    assert place.call(VERBS[verb], calls) == (0, "")
    expected, pushed, problems = held_in(place.folder), place.pushed(), []
    for turn, number in enumerate(range(every - 1, len(calls.seen), every)):
        worst = WORST[turn % len(WORST)]
        cut(place, verb, number, worst, kept / str(number))
        if problem := problem_after(place, verb, expected, pushed):
            call = calls.seen[number]
            problems.append(f"{number} {worst} before {call.kind} {call.paths[0].relative_to(place.folder)}: {problem}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("verb", VERBS)
def test_some_power_cuts(place: Place, verb: str, tmp_path: Path) -> None:  # noqa: F811
    each_cut(place, verb, int(os.environ.get("EVERY", "40")), tmp_path)
