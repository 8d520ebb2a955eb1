"""The power goes while a verb writes. What it had not forced to the disk may be gone, or empty, or zeros; then the same
command ends with the bits of one that nothing happened to, or says in a line what is wrong. It takes no hole for data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from file_calls import Call, Calls
from power import WORST, Disk
from test_faults_once import VERBS, Place, before, held_in, other_than, place, read, spread  # noqa: F401  # fixtures


def cut(place: Place, verb: str, last: Call, worst: str, kept: Path) -> None:  # noqa: F811
    """Call a verb in a process that loses power before a call to a file."""
    place.anew()
    kept.mkdir()
    disk = Disk(kept)

    def before_each(call: Call) -> None:
        if call.place == last.place:
            disk.cut(worst)
            os._exit(0)
        disk.told(call)

    child = os.fork()
    if child == 0:
        try:
            place.call(VERBS[verb], Calls(place.folder, before_each))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"{last} was not made"


def problem_after(place: Place, verb: str, old: dict[str, object], expected: dict[str, object]) -> str | None:  # noqa: F811
    """What is wrong when the verb is called again after a power cut."""
    try:
        code, said = place.call(VERBS[verb])
        if any(not line.startswith("genhub: ") for line in said.splitlines()) or (code and not said):
            return f"exit code {code}, {said!r}"
        if code:  # it says what is wrong; and the checkpoints of before are there
            saved = [name for name in old if "/checkpoints/" in name and name in expected]
            lost = [name for name in saved if read(place.folder / name) != old[name]]
            return f"lost or changed: {lost}" if lost else None
        other = other_than(expected, held_in(place.folder), old)
        return f"other than without: {other}" if other else None
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def each_cut(place: Place, verb: str, count: int, kept: Path) -> None:  # noqa: F811
    place.anew()
    old, calls = held_in(place.folder), Calls(place.folder)
    assert place.call(VERBS[verb], calls) == (0, "")
    expected, problems = held_in(place.folder), []
    for turn, number in enumerate(spread(len(calls.seen), count)):
        worst = WORST[turn % len(WORST)]
        cut(place, verb, calls.seen[number], worst, kept / str(number))
        if problem := problem_after(place, verb, old, expected):
            problems.append(f"{worst}, before {calls.seen[number].said(place.folder)}: {problem}")
    assert not problems, "\n".join(problems)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("verb", VERBS)
def test_the_power_goes(place: Place, verb: str, tmp_path: Path) -> None:  # noqa: F811
    each_cut(place, verb, 12, tmp_path)
