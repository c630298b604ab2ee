"""Report the privacy guarantee, the epsilon that was spent, and what failures can tell beyond it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedhealth.privacy.accounting.failure_bits import compute_failure_bits
from fedhealth.privacy.accounting.spending import RunSpending
from fedhealth.report import charts
from fedhealth.report.charts import ChartSeries
from fedhealth.report.page import Cell, Chart, ReportTable, Section
from fedhealth.report.wording import format_count
from fedhealth.runs.guarantee import (
    PrivacyGuarantee,
    count_planned_bookings,
    count_spare_rounds,
    get_promised_guarantee,
    get_shared_noise_trust,
    get_spent_guarantee,
)
from fedhealth.runs.record import RunRecord
from fedhealth.utils.privacy_text import (
    format_delta,
    format_epsilon,
    format_guarantee,
    format_noise_multiplier,
    format_unit,
)

EXACT_NOTE = (
    "Exact numbers, without noise: they were computed from all data on one machine. The members of a private "
    "consortium would not see them."
)
_COVERED = (
    "Epsilon covers everything that left the hospital: every update, and the noisy scores of the final model. "
    "Scores and losses of single rounds did not leave the hospital."
)


def describe_guarantee(run: RunRecord) -> str:
    """Return `differential privacy (at most epsilon 8 at delta 1e-6 for each patient, noise multiplier 2.53)`."""
    promised = get_promised_guarantee(run)
    if promised is None:
        return "differential privacy"
    return f"differential privacy (at most {describe_epsilon(promised)})"


def describe_epsilon(guarantee: PrivacyGuarantee) -> str:
    """Return `epsilon 7.98 at delta 1e-6 for each patient, noise multiplier 2.53`."""
    return format_guarantee(guarantee.epsilon, guarantee.delta, guarantee.noise_multiplier, guarantee.unit)


def build_privacy_section(run: RunRecord) -> Section | None:
    """Return the section with the guarantee, and where known each hospital's ledger entries for this run."""
    promised, spent = get_promised_guarantee(run), get_spent_guarantee(run)
    if spent is None:
        return _build_promise_section(run, promised) if run.is_private and promised else None
    lead = f"Trained with {describe_guarantee(run)}. The most that a hospital spent: {describe_epsilon(spent)}."
    failures = {each.site: each.failed_count for each in run.spending}
    notes = (
        _COVERED,
        *describe_trust(run),
        *(("Baseline models that were trained on this machine are not included.",) if run.comparison else ()),
        *describe_spare_rounds(run),
        *_describe_failures(run, failures),
    )
    return Section("privacy", "Privacy spent", lead, (_draw_epsilon(run),), (_build_ledger_table(run),), notes)


def describe_trust(run: RunRecord) -> tuple[str, ...]:
    """Return sentences about whom a promise with shared noise trusts, and what it would be without them."""
    trust = get_shared_noise_trust(run)
    if trust is None:
        return ()
    whom = f"no more than {trust.colluders} of the {trust.sites} hospitals pool what they know with the lead"
    if trust.local_epsilon is None:
        without = "If all others did, each hospital's own limit (limits.local_epsilon) would bound it."
    else:
        bound = format_epsilon(trust.local_epsilon, trust.delta)
        without = f"If all {trust.sites - 1} others did, the bound would be {bound}."
    return (f"The hospitals share the noise: the promise holds as long as {whom}. {without}",)


def describe_spare_rounds(run: RunRecord) -> tuple[str, ...]:
    """Return a sentence about the spare rounds: planned and spent."""
    spare, promised, spent = count_spare_rounds(run), get_promised_guarantee(run), get_spent_guarantee(run)
    if not spare or promised is None:
        return ()
    plan = (
        f"The noise is calibrated for {format_count(spare, 'spare round')} in addition to the planned ones, to replace "
        "rounds that fail; an unused spare round is not spent."
    )
    used = f"; spent at most: {describe_epsilon(spent)}" if spent else ""
    return (f"{plan} Planned, spare rounds included: {describe_epsilon(promised)}{used}.",)


def _describe_failures(run: RunRecord, failures: Mapping[str, int]) -> tuple[str, ...]:
    """Return a sentence about what the failures can tell outside epsilon."""
    site, count = max(failures.items(), key=lambda pair: pair[1], default=("", 0))
    if not count:
        return ()
    booked = max((each.booked_count + each.failed_count for each in run.spending), default=0)
    bits = math.ceil(10 * compute_failure_bits(max(count_planned_bookings(run), booked), count)) / 10
    return (
        f"Not covered by epsilon: which rounds fail may depend on the data. The {format_count(count, 'failure')} of "
        f"{site}, the most of any hospital, can tell at most {bits:.1f} bits, and the time slot of each reply a little "
        "more. A hospital's policy limits its failures for life.",
    )


def _build_promise_section(run: RunRecord, promised: PrivacyGuarantee) -> Section:
    """Return the section of a run whose ledgers stayed in the hospitals."""
    head = ("Protects each", "Epsilon at most", "Delta", "Noise multiplier")
    row = (
        Cell(format_unit(promised.unit)),
        Cell(f"{promised.epsilon:g}"),
        Cell(format_delta(promised.delta)),
        Cell(format_noise_multiplier(promised.noise_multiplier)),
    )
    lead = f"Trained with {describe_guarantee(run)}. What was spent is in the hospitals' own ledgers."
    failures = {site.name: sum(site.name in each.failures for each in run.exchanges) for site in run.sites}
    notes = (_COVERED, *describe_trust(run), *describe_spare_rounds(run), *_describe_failures(run, failures))
    tables = (ReportTable("Promised", head, (row,)), *_build_claim_table(run))
    return Section("privacy", "Privacy", lead, (), tables, notes)


def _build_claim_table(run: RunRecord) -> tuple[ReportTable, ...]:
    """Return what every hospital said that the run would spend there; nothing if none did."""
    rows = tuple(
        (
            Cell(site.name),
            Cell(f"{site.privacy.epsilon:.3f}"),
            Cell(format_delta(site.privacy.delta)),
            Cell(format_noise_multiplier(site.privacy.noise_multiplier)),
        )
        for site in run.sites
        if site.privacy is not None
    )
    head = ("Hospital", "Epsilon at most", "Delta", "Noise multiplier")
    return (ReportTable("By the hospitals' own plans, spare rounds included", head, rows),) if rows else ()


def _build_ledger_table(run: RunRecord) -> ReportTable:
    planned = f"of {count_planned_bookings(run)} planned"
    head = ("Hospital", "Epsilon spent", "Planned", "Delta", "Noise multiplier", "Booked", "Failed", "Declined")
    rows = tuple(_build_row(each, planned) for each in run.spending)
    return ReportTable("From the hospitals' privacy ledgers", head, rows)


def _build_row(each: RunSpending, planned: str) -> tuple[Cell, ...]:
    return (
        Cell(each.site),
        Cell(f"{each.epsilon:.3f}", _describe_protected(each)),
        Cell("–" if each.target is None else f"{each.target:g}"),
        Cell(format_delta(each.delta)),
        Cell(format_noise_multiplier(each.noise_multiplier)),
        Cell(str(each.booked_count), planned),
        Cell(str(each.failed_count), f"{each.retried_count} retried" if each.retried_count else ""),
        Cell(str(each.declined_count)),
    )


def _describe_protected(each: RunSpending) -> str:
    whom = f"for each {format_unit(each.unit)}"
    return f"{whom}; {each.local_epsilon:.3f} if all others colluded" if each.shares > 1 else whom


def _draw_epsilon(run: RunRecord) -> Chart:
    lines = [
        ChartSeries(each.site, [0, *(n for n, _ in each.curve)], [0.0, *(e for _, e in each.curve)])
        for each in run.spending
    ]
    top = max(run.spending, key=lambda each: each.epsilon)
    planned = top.epsilon if top.target is None else top.target
    last = max(line.x[-1] for line in lines)
    limit = ChartSeries("planned", [0, last], [planned, planned])
    description = (
        "Epsilon spent by each hospital after each round, and after the scores of the final model; planned: "
        f"{format_guarantee(planned, top.delta, top.noise_multiplier, top.unit)}."
    )
    axis = f"epsilon at delta {format_delta(top.delta)}"
    return Chart("Cumulative epsilon", description, charts.draw_curves(limit, lines, axis))
