"""The result of one check: its status, what was found, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from fedhealth.errors import FedhealthError, as_storage_error


class CheckStatus(StrEnum):
    """The status of a check: a WARN does not stop a site, a FAIL does."""

    PASS = "PASS"  # noqa: S105 - no password
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: what was checked.
        status: PASS, WARN or FAIL.
        finding: what was found.
        fix: what to do about it; empty for a PASS.

    """

    name: str
    status: CheckStatus
    finding: str
    fix: str = ""


def report_pass(name: str, finding: str) -> CheckResult:
    """Return a passed check."""
    return CheckResult(name, CheckStatus.PASS, finding)


def report_warning(name: str, finding: str, fix: str) -> CheckResult:
    """Return a check that a person should review."""
    return CheckResult(name, CheckStatus.WARN, finding, fix)


def report_failure(name: str, finding: str, fix: str) -> CheckResult:
    """Return a failed check."""
    return CheckResult(name, CheckStatus.FAIL, finding, fix)


def catch_errors(name: str, checks: Iterator[CheckResult]) -> Iterator[CheckResult]:
    """Yield checks; a `FedhealthError` or a fault of the disk in one of them becomes a FAIL and ends them."""
    try:
        yield from checks
    except PermissionError as fault:
        yield report_failure(
            name, f"{fault.filename}: the user of the service may not read it", "Give that user read access."
        )
    except (FedhealthError, OSError) as fault:
        error = fault if isinstance(fault, FedhealthError) else as_storage_error(fault)
        if error is None:
            raise
        yield report_failure(name, error.problem, error.advice)
