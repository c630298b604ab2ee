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
        measured: numbers; None for what cannot be measured here, or a list of numbers, which has no target.
        figures: the targets; those of a figure that is not measured are left out.

    """
    targets, found = {figure.name: figure for figure in figures}, dict[str, Any]()
    for name, value in measured:
        found[name] = float(f"{value:.5g}") if isinstance(value, float) else value
        judged = targets[name].judge(value) if name in targets and value is not None else ""
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"{name:40}{shown:>12}  {judged}".rstrip(), flush=True)
    print(json.dumps(found))
    return found
