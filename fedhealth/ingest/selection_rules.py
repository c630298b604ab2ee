"""Select images and slices by the hospital's rules: pure functions of header fields."""

from __future__ import annotations

from collections.abc import Sequence

from fedhealth.ingest.header import HeaderFields
from fedhealth.ingest.settings import SelectionRule

MAX_SLICES = 2000  # slices that are taken from one stack, or read for a projection


def find_rule(fields: HeaderFields, rules: Sequence[SelectionRule]) -> int | None:
    """Return the index of the first rule that matches, or None."""
    for number, rule in enumerate(rules):
        wanted = ((rule.modality, fields.modality), (rule.view, fields.view), (rule.body_part, fields.body_part))
        if fields.content in rule.content and all(
            not words or word in {each.upper() for each in words} for words, word in wanted
        ):
            return number
    return None


def select_slices(count: int, rule: SelectionRule) -> list[int]:
    """Return the indices of the slices to read of a stack of `count`, in order; for a projection all of them."""
    if rule.take == "middle":
        return [count // 2]
    if rule.take == "spread":  # the middles of equal parts
        parts = min(rule.count, count)
        return sorted({(2 * part + 1) * count // (2 * parts) for part in range(parts)})
    if count > MAX_SLICES:
        raise ValueError(f"more than {MAX_SLICES} slices in one stack")
    return list(range(count))


def sort_slices(slices: Sequence[tuple[str, HeaderFields]]) -> list[str]:
    """Return the names of a series' slices along its axis; slices without a position come last, by name."""
    order = sorted(slices, key=lambda each: (each[1].place is None, each[1].place or 0, each[0]))
    return [name for name, _ in order]
