"""Which images are taken, by the hospital's rules: pure functions of what is kept of headers."""

from __future__ import annotations

from collections.abc import Sequence

from fedhealth.ingest.header import Facts
from fedhealth.ingest.settings import Rule

LIMIT = 2000  # slices that are taken of one stack, or looked at for a projection


def rule_for(facts: Facts, rules: Sequence[Rule]) -> int | None:
    """Return the number of the first rule that fits; None where none does."""
    for number, rule in enumerate(rules):
        wanted = ((rule.modality, facts.modality), (rule.view, facts.view), (rule.body_part, facts.body_part))
        if all(not words or word in {each.upper() for each in words} for words, word in wanted):
            return number
    return None


def chosen(count: int, rule: Rule) -> list[int]:
    """Return which slices of a stack of `count` are read, in order; for a projection all that enter it."""
    if rule.take == "middle":
        return [count // 2]
    if rule.take == "spread":  # the middles of equal parts
        parts = min(rule.count, count)
        return sorted({(2 * part + 1) * count // (2 * parts) for part in range(parts)})
    if count > LIMIT:
        raise ValueError(f"more than {LIMIT} slices in one stack")
    return list(range(count))


def in_order(slices: Sequence[tuple[str, Facts]]) -> list[str]:
    """Return the names of a series' slices along its axis; those without a place come last, by name."""
    order = sorted(slices, key=lambda each: (each[1].place is None, each[1].place or 0, each[0]))
    return [name for name, _ in order]
