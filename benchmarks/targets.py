"""A benchmark's figures beside their targets, as a table and as one JSON object.

A target is of a ratio, or of a count of bytes, that another machine of the same kind reproduces: seconds are reported
without one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A figure's name, and its target as a comparison: `<=` or `>=`."""

    name: str
    sign: str
    target: float

    def is_met(self, value: float) -> bool:
        """Return whether a value meets the target."""
        return value <= self.target if self.sign == "<=" else value >= self.target

    def judge(self, value: float) -> str:
        """Return the target, and whether a value meets it."""
        return f"{self.sign} {self.target:g}  {'met' if self.is_met(value) else 'MISSED'}"


def report_figures(measured: Iterable[tuple[str, Any]], figures: Iterable[Figure]) -> dict[str, Any]:
    """Print a row for each (name, value) as it is measured, and all as one JSON object; return them.

    Args:
        measured: numbers; other values, for example None for what cannot be measured here, have no target.
        figures: the targets; those of a figure that is not measured are left out.

    """
    targets, found = {figure.name: figure for figure in figures}, dict[str, Any]()
    for name, value in measured:
        is_number = isinstance(value, int | float)
        found[name] = float(f"{value:.5g}") if isinstance(value, float) else value
        judged = targets[name].judge(value) if is_number and name in targets else ""
        print(f"{name:40}{value if not is_number else format(value, '.4g'):>12}  {judged}".rstrip(), flush=True)
    print(json.dumps(found))
    return found
