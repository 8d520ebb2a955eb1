"""Values of a condition as they were typed on a command line. No torch."""

from __future__ import annotations


class Typed(tuple[str, ...]):
    """Texts typed for one condition, each perhaps of several values: `3,7` is two labels."""
