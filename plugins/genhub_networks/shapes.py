"""Checks of shapes that the networks share."""

from __future__ import annotations

FOR = {0: "mlp is for vectors", 1: "unet1d and dit are for these", 2: "unet and dit are for these", 3: "dit is for these"}


def check_sides(name: str, shape: tuple[int, ...], sides: tuple[int, ...]) -> None:
    """
    Raises:
        ValueError: x is not of these numbers of sides.
    """
    found = len(shape) - 1
    if found not in sides:
        wanted = "vectors" if sides == (0,) else f"{' or '.join(map(str, sides))} side{'s' * (sides != (1,))}"
        remedy = FOR.get(found, "no network here is for these")
        raise ValueError(f"name: {name} is for {wanted}, not for the {found} of {_told(shape)}; {remedy}")


def _told(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def nearest_multiple(number: int, divisor: int) -> int:
    """Return the multiple nearest to a number, at least the divisor itself."""
    return max(divisor, round(number / divisor) * divisor)
