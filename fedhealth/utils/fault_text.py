"""The first line of an exception's text, which may be empty."""

from __future__ import annotations


def get_first_line(fault: BaseException | None) -> str:
    """Return the first line of a fault's text; the name of its type where it has none."""
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]
