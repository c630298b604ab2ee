"""Report what the audit of private training checked, and what an attacker could at most have learned."""

from __future__ import annotations

import math

from fedhealth.privacy.auditing.blank_values import BlankValues, audit_blanks
from fedhealth.report.page import Cell, ReportTable, Section
from fedhealth.report.wording import format_count, format_percent, join_words
from fedhealth.runs.record import RunRecord
from fedhealth.runs.results import AuditResult
from fedhealth.utils.privacy_text import format_unit

_CHECKED = (
    "Checked at each hospital, through its own training, releases and a scratch ledger: the noise is of the planned "
    "size in every tensor, with the law of a Gaussian, independent of all other noise and never used twice; patients "
    "are drawn independently, with the booked rate, and anew in each round; one patient adds no more than its clipped "
    "gradient, and a batch without patients looks like any other; every round is booked before it begins and released "
    "once, and the ledger ends the run within its epsilon; the scores are noised, and drawn once; no loss leaves; "
    "another accountant finds the same epsilon. An audit finds mistakes. It is no proof that there are none."
)
_CHECKED_CLIENT = (
    "Checked at each hospital, through its own training, releases and a scratch ledger: known updates leave clipped to "
    "the bound; the noise is of the planned size in every tensor, with the law of a Gaussian, and never used twice; "
    "every round is booked before it begins and released once, and the ledger ends the run within its epsilon; no "
    "statistics leave; another accountant finds the same epsilon. An audit finds mistakes. It is no proof that there "
    "are none."
)


_CHECKED_SUMS = (
    "Every sum whose noise the hospitals share has blank values, to which no patient contributes: what they hold is "
    "the noise of all hospitals together. A hospital that adds too little shows in them after some rounds, but not "
    "which one it is. One that adds noise to its blank values only does not show: it counts among the hospitals that "
    "pool what they know."
)


def build_audit_section(run: RunRecord) -> Section | None:
    """Return the section about the audit; None without one."""
    if not run.audit and not run.opened_noise:
        return None
    lead = " ".join(filter(None, (_describe_hospitals(run), _describe_sums(run), _describe_attacker(run))))
    rows = tuple(_build_row(each) for each in run.audit)
    head = ("Hospital", "Checks", "Failed", "A guess is right at most")
    tables = (ReportTable("Result of the audit", head, rows),) if rows else ()
    checked = (_CHECKED_CLIENT if run.audit[0].unit == "client" else _CHECKED,) if rows else ()
    blanks = (_CHECKED_SUMS,) if run.opened_noise else ()
    bounds = (f"{each.site}: {bound}." for each in run.audit for bound in each.bounds)
    skipped = (f"{each.site}: {each.skipped}" for each in run.audit if each.skipped)
    return Section("audit", "What the audit found", lead, (), tables, (*checked, *blanks, *bounds, *skipped))


def _describe_hospitals(run: RunRecord) -> str:
    failed = [each.site for each in run.audit if each.failures]
    if failed:
        return f"The audit FAILED at {join_words(failed)}: do not trust the guarantee of this run."
    hospitals = format_count(len(run.audit), "hospital")
    return f"Every check of the private training passed at {hospitals}." if run.audit else ""


def _describe_sums(run: RunRecord) -> str:
    """Return what the blank values of the opened sums showed; empty where the hospitals share no noise."""
    if not run.opened_noise:
        return ""
    failed = [f"{each.name} ({each.detail})" for each in audit_blanks(run.opened_noise) if not each.passed]
    if failed:
        return (
            f"The noise of the opened sums is NOT as promised: {'; '.join(failed)}. Until the cause is known, only the "
            "local epsilon holds."
        )
    together = sum(run.opened_noise.values(), BlankValues(0, 0.0, 0.0, 0))
    return (
        f"The noise of the opened sums is as promised: {together.variance_ratio:.3f} of its variance, in "
        f"{format_count(together.count, 'blank value')}."
    )


def _describe_attacker(run: RunRecord) -> str:
    """Return what somebody who sees everything that left could at most learn about one unit."""
    known = [each.success for each in run.audit if not math.isnan(each.success)]
    if not known:
        return ""
    unit = format_unit(run.audit[0].unit)
    return (
        f"If everything that left is known, and every other {unit} too, a guess whether one given {unit} took part is "
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
