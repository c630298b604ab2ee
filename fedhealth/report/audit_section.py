"""Report what the audit of private training checked, and what an attacker could at most have learned."""

from __future__ import annotations

import math

from fedhealth.report.page import Cell, ReportTable, Section
from fedhealth.report.wording import format_count, format_percent, join_words
from fedhealth.runs.record import RunRecord
from fedhealth.runs.results import AuditResult

_CHECKED = (
    "Checked at each hospital, through its own training, releases and a scratch ledger: the noise is of the planned "
    "size in every tensor and independent of all other noise; patients are drawn independently and with the booked "
    "rate; one patient adds no more than its clipped gradient; every round is booked and released once; the scores are "
    "noised; no loss leaves; another accountant finds the same epsilon. An audit finds mistakes. It is no proof that "
    "there are none."
)


def build_audit_section(run: RunRecord) -> Section | None:
    """Return the section about the audit; None without one."""
    if not run.audit:
        return None
    failed = [each.site for each in run.audit if each.failures]
    hospitals = format_count(len(run.audit), "hospital")
    lead = (
        f"The audit FAILED at {join_words(failed)}: do not trust the guarantee of this run."
        if failed
        else f"Every check of the private training passed at {hospitals}."
    )
    rows = tuple(_build_row(each) for each in run.audit)
    table = ReportTable("Result of the audit", ("Hospital", "Checks", "Failed", "A guess is right at most"), rows)
    bounds = tuple(f"{each.site}: {bound}." for each in run.audit for bound in each.bounds)
    return Section(
        "audit", "What the audit found", f"{lead} {_describe_attacker(run)}", (), (table,), (_CHECKED, *bounds)
    )


def _describe_attacker(run: RunRecord) -> str:
    """Return what somebody who sees everything that left could at most learn about one patient."""
    known = [each.success for each in run.audit if not math.isnan(each.success)]
    if not known:
        return ""
    return (
        "If everything that left is known, and every other patient too, a guess whether one given patient took part is "
        f"right in at most {format_percent(max(known))} of the cases; a coin toss is right in {format_percent(0.5)}."
    )


def _build_row(each: AuditResult) -> tuple[Cell, ...]:
    success = "–" if math.isnan(each.success) else format_percent(each.success)
    return (
        Cell(each.site),
        Cell(str(each.checks)),
        Cell(str(len(each.failures)), "; ".join(each.failures)),
        Cell(success),
    )
