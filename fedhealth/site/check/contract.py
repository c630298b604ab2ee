"""What a check tells: how it went, what was seen, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from fedhealth.errors import FedhealthError


class Result(StrEnum):
    """How a check went: a WARN does not stop a site, a FAIL does."""

    PASS = "PASS"  # noqa: S105 - no password
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what was looked at.
        result: how it went.
        seen: what was found.
        fix: what to do about it; empty for a PASS.

    """

    name: str
    result: Result
    seen: str
    fix: str = ""


def passed(name: str, seen: str) -> Check:
    """Return a check that went well."""
    return Check(name, Result.PASS, seen)


def warned(name: str, seen: str, fix: str) -> Check:
    """Return a check that a person should look at."""
    return Check(name, Result.WARN, seen, fix)


def failed(name: str, seen: str, fix: str) -> Check:
    """Return a check that stops the site."""
    return Check(name, Result.FAIL, seen, fix)


def guarded(name: str, checks: Iterator[Check]) -> Iterator[Check]:
    """Yield checks; an error of ours in one of them ends them as a FAIL."""
    try:
        yield from checks
    except FedhealthError as fault:
        yield failed(name, fault.problem, fault.advice)
