"""The order of classes, and the class that a label names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index

from genhub.errors import VALUE, InputError, cut, did_you_mean, shown

MOST_NAMES = 10
"""Most names that a message lists."""


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return distinct names in the order of their classes: as numbers if all of them are numbers, else as text.

    >>> in_order(["10", "2", "1", "2"])
    ('1', '2', '10')
    """
    found = set(names)
    if all(name.isdecimal() and len(name) <= 100 for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def class_numbers(labels: str | int | Iterable[str | int], names: Sequence[str], classes: int) -> list[int]:
    """Return the numbers of the classes that labels name. A label is its name; its number, from 0 on, only where the
    classes have no names.

    >>> class_numbers("3,10", ("1", "2", "3", "10"), 4)
    [2, 3]

    Args:
        labels: names, or a text with commas between them; a name may have commas in it.
        names: of the classes, in their order; () if they have none.
        classes: how many there are.
    Raises:
        InputError: a label that none of them has, with the nearest name; or no label at all.
    """
    labels = [labels] if isinstance(labels, int) else labels
    parts = _split(labels, set(names)) if isinstance(labels, str) else [_text(label) for label in labels]
    if not parts:
        raise InputError("--labels: none are given; leave it out for every class in turn")
    numbers = {name: number for number, name in enumerate(names)}
    for part in parts:
        if not names and not (part.isdecimal() and len(part) < 20 and int(part) < classes):
            raise InputError(f"--labels: {cut(part, VALUE)} is not a label of this model; it has 0 to {classes - 1}")
        if names and part not in numbers:
            raise InputError(f"--labels: {shown(part)} is not a label of this model; {_nearest(part, names)}")
    return [numbers[part] if names else int(part) for part in parts]


def _text(label: str | int) -> str:
    try:
        return label if isinstance(label, str) else str(index(label))
    except TypeError:
        raise InputError(f"--labels: a label is a name or a number, not a {type(label).__name__}") from None


def _split(text: str, names: set[str]) -> list[str]:
    """Split a text at its commas, but not within a name that has commas, as in `tench, Tinca tinca`."""
    parts, found, most = text.split(","), list[str](), max((name.count(",") for name in names), default=0)
    while parts:
        joined = (",".join(parts[:end]).strip() for end in range(most + 1, 1, -1))
        name = next((each for each in joined if each in names), parts[0].strip())
        found.append(name)
        del parts[: name.count(",") + 1]
    return found


def _nearest(label: str, names: Sequence[str]) -> str:
    near = did_you_mean(label, names)
    if near.startswith("did"):
        return near
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"it has {', '.join(name[:40] for name in names[:MOST_NAMES])}{more}"
