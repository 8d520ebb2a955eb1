"""What was typed on a command line for a condition. No torch."""

from __future__ import annotations


class Typed(tuple[str, ...]):
    """Texts typed for one condition, each perhaps of several values: `3,7` is two labels."""
